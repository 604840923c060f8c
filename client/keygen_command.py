"""The command `fedward-client keygen`: makes a hospital's keys, and counts what it declares."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from client.key_options import Mapping, PassphraseFile, PatientColumn, SiteFolder
from client.keygen import make_site
from client.unlock import read_passphrase
from common.card import HOSPITAL_NAME, MOST_UNITS
from common.config import load_settings
from common.errors import OperatorError
from common.plan import Plan
from common.plural import counted
from common.site_config import AUTO_COLUMN


def keygen(  # noqa: PLR0913 -- one parameter per option
    context: typer.Context,
    hospital: Annotated[str, typer.Argument(help="This hospital's name in the roster, such as hospital-3.")],
    site: SiteFolder = Path("site"),
    *,
    units: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_UNITS,
            help="Training units (patients, lesions or images) to declare; or give --plan and --data.",
        ),
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(help="The plan without hospitals, to count this site's training units by its rules.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="This hospital's data, to count in.")] = None,
    mapping: Mapping = None,
    patient_column: PatientColumn = AUTO_COLUMN,
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help="Lock the vault with a passphrase instead of a key file.")
    ] = False,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make this hospital's keys at home, in a new folder.

    Secrets go into the folder's vault, which a key file beside it opens (move it to a safer place and name it as
    'vault_key' in the site file), or a passphrase. Send the card, and only the card, to the organiser.
    """
    _check_name(hospital)
    for option in ("patient_column", "mapping"):
        source = context.get_parameter_source(option)
        if units is not None and source is not None and source.name != "DEFAULT":
            # It would count nothing, and whoever gave it would believe that the number is one of patients.
            name = f"--{option.replace('_', '-')}"
            raise OperatorError(f"{name}: counts with --plan and --data only, not beside --units; leave one out")
    declared, what = _declared(units, plan, data, mapping=mapping, patient_column=patient_column)
    phrase: bytes | None = None
    if passphrase_file is not None:
        phrase = read_passphrase(passphrase_file)
    elif passphrase:
        phrase = str(typer.prompt("New passphrase", hide_input=True, confirmation_prompt=True)).encode()
    made = make_site(site, hospital=hospital, declared_units=declared, passphrase=phrase)
    typer.echo(f"keys of {hospital}, which declares {counted(declared, 'training unit')} ({what}), are in {site}")
    typer.echo(f"fingerprint {made.card.fingerprint}")
    typer.echo(f"send {made.card_path} to the organiser; the other hospitals will ask you for the fingerprint")
    typer.echo("back up the vault" + (" (its passphrase cannot be recovered)" if phrase else " and its key, apart"))


def _declared(
    units: int | None, plan: Path | None, data: Path | None, *, mapping: Path | None, patient_column: str
) -> tuple[int, str]:
    """How many training units there are, and what they are."""
    if units is not None and plan is None and data is None:
        return units, "as --units says"
    if units is not None or plan is None or data is None:
        raise OperatorError(
            "keygen declares a number of training units; give --units alone, or --plan and --data together to have "
            "them counted"
        )
    # torch and the like load only where data are counted.
    from client.data.source import DataPlace  # noqa: PLC0415
    from client.declare import site_units  # noqa: PLC0415

    found = site_units(DataPlace(data, mapping, patient_column), load_settings(plan, Plan))
    where = "" if mapping else " of index.csv"
    column = f", by the column '{found.patient_column}'{where}" if found.patient_column else ""
    return found.training, f"{found.kind}s{column}"


def _check_name(hospital: str) -> None:
    if re.fullmatch(HOSPITAL_NAME, hospital) is None:
        raise OperatorError(
            f"hospital name: seen '{hospital}'; small letters, digits and hyphens are allowed, at most 63"
        )
