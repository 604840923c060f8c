"""The command `fedward-client approve`: shows what a plan asks of a hospital, and signs it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from client.approve import Approver, check_kit, take_in, take_plan
from client.key_options import Mapping, PassphraseFile, PatientColumn, SiteFolder
from client.keygen import GATEWAY, VAULT, VAULT_KEY
from client.plan_weights import check_weights, named_weights
from client.site_file import SiteChoices, new_site_file, site_file_path
from client.unlock import find_unlock
from client.vault import Vault, vault_hospital
from common.config import load_settings, parse_settings
from common.errors import ConfigError, DataError, OperatorError
from common.kit import Kit, is_kit, read_kit
from common.plan import Plan
from common.plural import counted
from common.printable import printable
from common.site_config import AUTO_COLUMN, SiteConfig, load_site, with_absolute_paths

FIRST_CHOICES = (
    *(
        "data",
        "mapping",
        "patient_column",
        "weights",
        "source",
        "cap_epsilon",
        "cap_delta",
        "metrics",
        "public_data",
        "min_cohort",
        "runtime_port",
    ),
    "vault_key",
)


def approve(  # noqa: PLR0913 -- one parameter per option
    context: typer.Context,
    kit: Annotated[
        Path, typer.Argument(help="The start-up kit from the organiser (NAME.kit.zip), or an agreed plan (YAML).")
    ],
    site: SiteFolder = Path("site"),
    *,
    data: Annotated[
        Path | None, typer.Option(help="This hospital's folder of images, or file or folder of rows (first kit only).")
    ] = None,
    mapping: Mapping = None,
    patient_column: PatientColumn = AUTO_COLUMN,
    weights: Annotated[
        Path | None,
        typer.Option(help="Weights file that the plan's network starts from, if it does (first kit only)."),
    ] = None,
    cap_epsilon: Annotated[
        float | None,
        typer.Option(
            help="Epsilon that no unit of this site (a patient, or a lesion or image where index.csv names none) may "
            "ever pass, over all runs (first kit only)."
        ),
    ] = None,
    cap_delta: Annotated[
        float | None, typer.Option(help="Delta at which that is counted. Default: the plan's for this hospital.")
    ] = None,
    source: Annotated[str, typer.Option(help="Name of the data source; it has one ledger for ever.")] = "images",
    metrics: Annotated[
        Literal["none", "final-dp", "aggregate"],
        typer.Option(help="Held-out counts that may leave: none, final-dp (noisy), aggregate (exact; public data)."),
    ] = "final-dp",
    public_data: Annotated[bool, typer.Option("--public-data", help="The images are public.")] = False,
    min_cohort: Annotated[
        int | None, typer.Option(min=3, help="Fewest hospitals to be added up with. Default: the plan's.")
    ] = None,
    runtime_port: Annotated[
        int, typer.Option(min=1024, max=65535, help="Loopback port of the gateway; one for each site of a machine.")
    ] = 9094,
    vault_key: Annotated[
        Path | None, typer.Option(help="Where the vault's key file lies now, if not in the site's folder.")
    ] = None,
    digest: Annotated[
        str | None, typer.Option(help="Approve without asking if the plan has this digest; for scripts.")
    ] = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Show what a plan asks of this hospital, and sign it if you agree.

    With a start-up kit this also writes the site file, the plan and the coordinator's certificate into the site's
    folder; then start it with `fedward-client start`. Nothing is written before you agree.
    """
    opened = read_kit(kit) if is_kit(kit) else None
    agreed = opened.plan if opened else load_settings(kit, Plan)
    config, approver = _open_site(site, passphrase_file, vault_key)
    row = approver.row(agreed)
    if opened:
        check_kit(opened, hospital=row.name, folder=site, superlink=config.gateway.superlink if config else None)
    site_file = site_file_path(site, row.name)
    written: tuple[Path, str] | None = None
    if config is not None:
        _refuse_choices(context, site_file)
    else:
        if opened is None or data is None or cap_epsilon is None:
            raise OperatorError(
                "a site's first approval needs its start-up kit, --data and --cap-epsilon; give all three"
            )
        choices = SiteChoices(
            data=data,
            source=source,
            cap_epsilon=cap_epsilon,
            cap_delta=agreed.budget(row)[1] if cap_delta is None else cap_delta,
            metrics=metrics,
            public_data=public_data,
            min_cohort=min_cohort or agreed.min_cohort,
            runtime_port=runtime_port,
            patient_column=patient_column,
            mapping=mapping,
            weights=named_weights(agreed, weights),
        )
        key_file = vault_key or _key_file(site)
        written = (site_file, _first_site_file(site, row.name, opened, choices=choices, key_file=key_file))
        config = with_absolute_paths(parse_settings(written[1], SiteConfig, source="site.yaml"), site.resolve())
    check_weights(agreed, config.weights)
    _show(agreed, config, first=written is not None)
    _agree(agreed, digest)
    if opened:
        take_in(opened, site, config, approver=approver, site_file=written)
    else:
        take_plan(kit.read_text(encoding="utf-8"), agreed, config, approver=approver)
    typer.echo(f"approved; start with: fedward-client start --config {site_file}")


def _refuse_choices(context: typer.Context, site_file: Path) -> None:
    """A choice that is made again and silently not taken would be believed."""
    sources = {name: context.get_parameter_source(name) for name in FIRST_CHOICES}
    given = [name for name, source in sources.items() if source is not None and source.name != "DEFAULT"]
    if given:
        options = ", ".join("--" + name.replace("_", "-") for name in given)
        raise OperatorError(
            f"{options}: of a site's first approval only, and this one has {site_file}; change it there, and approve "
            "without"
        )


def _first_site_file(site: Path, hospital: str, kit: Kit, *, choices: SiteChoices, key_file: Path | None) -> str:
    """Text of the site file; what is wrong with a choice is said of its option."""
    if choices.mapping is None and not choices.data.is_dir():
        raise OperatorError(
            f"--data: seen {choices.data}, which is no folder; name the folder of this site's images, or give --mapping"
        )
    try:
        return new_site_file(
            site, hospital=hospital, superlink=kit.manifest.superlink, key_file=key_file, choices=choices
        )
    except ConfigError as error:
        sentences = str(error)
        for name in FIRST_CHOICES:
            option = "--" + name.replace("_", "-")
            for key in (name, f"privacy.{name}", f"privacy: {name}", f"gateway.{name}"):
                sentences = sentences.replace(f"{hospital}.yaml: {key}:", f"{option}:")
        raise OperatorError(sentences) from error


def _show(plan: Plan, config: SiteConfig, *, first: bool) -> None:
    # The accountant behind it takes seconds to load.
    from client.data.source import DataPlace  # noqa: PLC0415
    from client.declare import SiteUnits, site_units  # noqa: PLC0415
    from client.plan_in_words import plan_in_words  # noqa: PLC0415

    units: SiteUnits | None = None
    try:
        place = DataPlace.of_site(config)
        # Of a site file that nobody has seen yet the options are to be corrected.
        units = site_units(replace(place, named_by="--data", mapped_by="--mapping") if first else place, plan)
    except (DataError, PermissionError) as error:
        # Whoever approves a later plan need not have the right to the images, which the site service looks at.
        if first:
            raise
        typer.echo(f"this site's data was not counted: {printable(str(error))}", err=True)
    for line in plan_in_words(
        plan, hospital=config.hospital, privacy=config.privacy, units=units, before=_followed(config)
    ):
        typer.echo(line)
    declared = plan.roster[plan.agreed.position(config.hospital)].declared_units
    if units is not None and units.training != declared:
        typer.echo(_other_count(units.training, declared, plan=plan, patient_column=config.patient_column))


def _other_count(training: int, declared: int, *, plan: Plan, patient_column: str) -> str:
    """A column of patients that one of the two commands was not told of is seen in no other way."""
    seen = f"Mind: this site declared {counted(declared, 'training unit')} to keygen, its data has {training}; "
    if plan.privacy.unit == "record":
        return seen + "agree only if you know why, such as images that have come since, or name the folder with --data"
    return seen + (
        f"units were counted here by patient_column {printable(patient_column)}: if keygen was given another one, do "
        "not agree, but give approve the same, or correct patient_column in the site file"
    )


def _followed(config: SiteConfig) -> Plan | None:
    """The plan that this site follows up to now, to say what the new one changes."""
    if not config.plan.exists():
        return None
    try:
        return load_settings(config.plan, Plan)
    except ConfigError as error:
        typer.echo(f"the plan up to now cannot be compared: {printable(str(error))}", err=True)
        return None


def _open_site(site: Path, passphrase_file: Path | None, vault_key: Path | None) -> tuple[SiteConfig | None, Approver]:
    hospital = vault_hospital(site / VAULT)
    site_file = site_file_path(site, hospital)
    config = load_site(site_file) if site_file.exists() else None
    path = config.vault if config else site / VAULT
    key_file = config.vault_key if config else vault_key or _key_file(site)
    unlock = find_unlock(path, key_file=key_file, passphrase_file=passphrase_file)
    node_key = config.gateway.node_key if config else site / GATEWAY / "node.key"
    return config, Approver(hospital, Vault.open(path, hospital=hospital, unlock=unlock), node_key)


def _key_file(site: Path) -> Path | None:
    path = site / VAULT_KEY
    return path if path.exists() else None


def _agree(plan: Plan, digest: str | None) -> None:
    if digest is not None:
        if digest != plan.digest:
            raise OperatorError(f"--digest: seen {digest}, the plan has {plan.digest}; nothing was approved")
        return
    if not sys.stdin.isatty():
        raise OperatorError("nobody is at the keyboard; read the plan above, then give --digest with its digest")
    if not typer.confirm("Have you compared the fingerprints, and does this hospital agree?"):
        raise OperatorError("not approved; nothing was written")
