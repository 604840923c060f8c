"""The commands `fedward-client ledger show`, `verify` and `export`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated

import typer

from common.errors import ConfigError
from common.site_config import load_site

# The site's supervisor has these commands too: what they look with, the accountant, is loaded when they look.
app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Look at what this hospital's data has spent of its privacy, also while the site runs.",
)
SiteFile = Annotated[Path, typer.Option("--config", "-c", help="This hospital's site file.")]
_KEY = re.compile(r"[0-9a-f]{64}")


@app.command()
def show(
    config: SiteFile, *, as_json: Annotated[bool, typer.Option("--json", help="Print the same as JSON.")] = False
) -> None:
    """Show all entries, spending over time, both accounts, and how many rounds of the agreed plan are left.

    The vault stays closed and the ledger as it is; the site may run meanwhile.
    """
    from client.ledger_look import look  # noqa: PLC0415
    from client.ledger_report import for_programs  # noqa: PLC0415
    from client.ledger_show import lines  # noqa: PLC0415

    shown = look(load_site(config))
    if as_json:
        typer.echo(json.dumps(for_programs(shown), indent=1))
        return
    for line in lines(shown):
        typer.echo(line)


@app.command()
def verify(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="This hospital's site file: its own ledger is verified.")
    ] = None,
    *,
    file: Annotated[Path | None, typer.Option(help="A copy of a ledger, with --public-key.")] = None,
    export: Annotated[Path | None, typer.Option(help="A file of the command `export`, with --public-key.")] = None,
    public_key: Annotated[
        str | None, typer.Option(help="The hospital's identity in the plan's roster, 64 hex digits.")
    ] = None,
) -> None:
    """Verify every entry: hash chain, signatures, order, times, recorded epsilons, and the marks of who is counted.

    With --config, also that the ledger lacks nothing that this site's state folder and its peers have seen in it. A
    copy or an export needs the hospital's public key and nothing else; that no newer entries were left out of it only
    the site can tell. Exit code 2 if anything is wrong.
    """
    from client.ledger_look import verify_export, verify_file, verify_own  # noqa: PLC0415

    if sum(given is not None for given in (config, file, export)) != 1 or (config is None) != (public_key is not None):
        raise ConfigError(
            "verify: seen no single ledger to verify; give --config alone, or one of --file and --export together with "
            "--public-key"
        )
    if config is not None:
        typer.echo(verify_own(load_site(config)))
    elif file is not None:
        typer.echo(verify_file(file, public_key=_checked(public_key)))
    elif export is not None:
        typer.echo(verify_export(export, public_key=_checked(public_key)))


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="File to write: CSV if it ends in .csv, else JSON lines.")],
    config: SiteFile,
    *,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
) -> None:
    """Write all entries with their hashes and signatures to a file, which `verify` can verify.

    It holds no data and no secret: rounds, noise, epsilons, times, digests. The file is there whole or not at all, and
    never one that the site itself uses.
    """
    from client.ledger_look import write_export  # noqa: PLC0415

    typer.echo(write_export(config, file, replace=force))


def _checked(public_key: str | None) -> str:
    key = (public_key or "").lower()
    if not _KEY.fullmatch(key):
        raise ConfigError(
            f"--public-key: seen {len(key)} characters; 64 hex digits are allowed: take 'identity' of this hospital "
            "in the plan's roster"
        )
    return key
