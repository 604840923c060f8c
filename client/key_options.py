"""Options that `keygen` and `approve` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SiteFolder = Annotated[Path, typer.Option(help="Folder of this site: keys, ledger, state.")]
PatientColumn = Annotated[
    str, typer.Option(help="Column of index.csv that says whose an image is. auto: patient_id, else lesion_id.")
]
Mapping = Annotated[
    Path | None,
    typer.Option(help="File that maps this site's columns, codes and units to the plan's; none for class folders."),
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(help="File (mode 0600) whose first line is the vault's passphrase, instead of the keyboard."),
]
