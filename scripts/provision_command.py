"""The command `fedward provision`: fills a plan with its hospitals, and makes the coordinator's files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from common.address import check_address
from common.config import load_settings
from common.errors import ConfigError, OperatorError
from common.plan import Plan


def provision(  # noqa: PLR0913 -- one parameter per option
    *,
    plan: Annotated[Path, typer.Argument(help="A plan without hospitals, such as configs/plans/skin9.yaml.")],
    out: Annotated[Path, typer.Option(help="New folder for the files of the federation.")],
    cards: Annotated[
        Path | None, typer.Option(help="Folder with the NAME.card.yaml that the hospitals' keygen has written.")
    ] = None,
    shards: Annotated[
        Path | None,
        typer.Option(help="Instead, for demos: folder with hospital-1/data and so on, as `fedward split` makes it."),
    ] = None,
    address: Annotated[
        str, typer.Option(help="host:port of the coordinator, as the hospitals reach it.")
    ] = "127.0.0.1:9092",
    metrics: Annotated[
        Literal["none", "final-dp", "aggregate"] | None,
        typer.Option(
            help="With --shards, the held-out counts that each site lets out; aggregate for public data. "
            "Default: final-dp."
        ),
    ] = None,
    public_data: Annotated[
        bool, typer.Option("--public-data", help="With --shards: the images are public; allows aggregate.")
    ] = False,
    weights: Annotated[
        Path | None,
        typer.Option(help="With --shards, for a plan whose network starts from a weights file: that file."),
    ] = None,
) -> None:
    """Fill a plan with its hospitals, and make the coordinator's keys and files.

    With --cards, what the organiser of a federation does: it makes the TLS authority and the coordinator's files, and
    a start-up kit for each hospital, which the hospital reads with `fedward-client approve`. No hospital's private key
    is needed or seen.

    With --shards, for demos and tests on one machine, it also makes every hospital's keys, approves for all of them
    and deals the CKKS key: whoever runs that holds all keys for a moment.
    """
    try:
        check_address(address)
    except ConfigError as error:
        raise ConfigError(f"--address: {error}") from error
    template = load_settings(plan, Plan)
    if (cards is None) == (shards is None):
        raise OperatorError("give --cards with the hospitals' cards, or --shards for a demo on one machine")
    if cards is not None and (metrics is not None or public_data or weights is not None):
        raise OperatorError(
            "--metrics, --public-data and --weights go with --shards; with --cards each hospital decides for itself"
        )
    if cards is not None:
        _provision_from_cards(template, cards, out, address=address)
    elif shards is not None:
        _provision_demo(
            template,
            shards,
            out,
            address=address,
            metrics=metrics or "final-dp",
            public_data=public_data,
            weights=weights,
        )
    typer.echo("coordinator:")
    typer.echo(f"  fedward-server start --config {out / 'coordinator' / 'server.yaml'}")
    typer.echo(f"  fedward-server run {out / 'plan.yaml'} --config {out / 'coordinator' / 'server.yaml'}")


def _say_plan(plan: Plan) -> None:
    from client.plan_in_words import cohort_in_words  # noqa: PLC0415

    typer.echo("\n".join((f"plan {plan.digest}", *cohort_in_words(plan))))


def _provision_from_cards(template: Plan, cards: Path, out: Path, *, address: str) -> None:
    from scripts.organise import CoordinatorOptions, kit_path, organise, read_cards  # noqa: PLC0415
    from scripts.whole_folder import whole_folder  # noqa: PLC0415

    known = read_cards(cards)
    with whole_folder(out, mode=0o700) as staging:
        agreed = organise(template, known, staging, options=CoordinatorOptions(address))
    _say_plan(agreed)
    for hospital in agreed.roster:
        typer.echo(f"{hospital.name}: {hospital.declared_units} units, fingerprint {hospital.fingerprint}; send it")
        typer.echo(f"  {kit_path(out, hospital.name)}")


def _provision_demo(  # noqa: PLR0913 -- one parameter per option
    template: Plan, shards: Path, out: Path, *, address: str, metrics: str, public_data: bool, weights: Path | None
) -> None:
    names = sorted((p.name for p in shards.glob("hospital-*") if (p / "data").is_dir()), key=lambda n: (len(n), n))
    if not names:
        raise OperatorError(f"{shards}: holds no hospital-1/data; name a folder made by `fedward split`")
    from client.data.source import DataPlace  # noqa: PLC0415
    from client.plan_weights import check_weights, named_weights  # noqa: PLC0415
    from scripts.federation import FederationOptions, free_ports  # noqa: PLC0415
    from scripts.federation import provision as provision_all  # noqa: PLC0415
    from scripts.row_files import MAPPING  # noqa: PLC0415

    named = named_weights(template, weights)
    check_weights(template, named)
    # Parts of images that a mapping named have one of their own.
    mappings = {name: shards / name / MAPPING for name in names}
    agreed = provision_all(
        template,
        {
            name: DataPlace(
                shards / name / "data",
                mappings[name] if mappings[name].exists() else None,
                named_by=f"{name}/data of the shards",
                mapped_by="a site's own 'mapping' (--cards; shards hold images)",
            )
            for name in names
        },
        out,
        options=FederationOptions(
            fleet_address=address,
            ports=free_ports(len(names) + 1),
            metrics=metrics,
            public_data=public_data,
            threads=0,
            device="auto",
            weights=named,
        ),
    )
    _say_plan(agreed)
    for hospital in agreed.roster:
        typer.echo(f"{hospital.name}: declares {hospital.declared_units} units; start it with")
        typer.echo(f"  fedward-client start --config {out / hospital.name / hospital.name}.yaml")
