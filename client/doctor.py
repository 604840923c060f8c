"""The command `fedward-client doctor`: looks at everything that a site needs, and says what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from client.doctor_finding import Part


def doctor(
    config: Annotated[Path, typer.Option("--config", "-c", help="This hospital's site file.")],
    *,
    part: Annotated[
        Part,
        typer.Option(
            help="site: what the site service's user can see; gateway: what the gateway's user can, without vault and "
            "data; all: both, where one user runs both."
        ),
    ] = "all",
    passphrase_file: Annotated[
        Path | None,
        typer.Option(help="File (mode 0600) whose first line is the vault's passphrase, instead of the keyboard."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the same as JSON.")] = False,
) -> None:
    """Look at everything that this site needs, one line each: pass, fail with what to do, or a note.

    Changes nothing, and may be run beside a running site. Exit code 2 if anything fails.
    """
    # The site service has this command too: what it looks with is loaded when it looks.
    from client.doctor_checks import findings  # noqa: PLC0415

    rows, broken = [], 0
    for finding in findings(config, part, passphrase_file=passphrase_file):
        broken += finding.failed
        rows.append(finding.row())
        if not as_json:
            typer.echo(finding.line())
    if as_json:
        typer.echo(json.dumps({"part": part, "failed": broken, "checks": rows}, indent=1, ensure_ascii=False))
    else:
        typer.echo(f"{broken} of {len(rows)} checks failed" if broken else f"all {len(rows)} checks are well")
    if broken:
        raise typer.Exit(2)
