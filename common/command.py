"""Runs a typer application so that a user's mistake is one line, never a traceback."""

from __future__ import annotations

import sys

import typer

from common.errors import FedwardError


def run_command(app: typer.Typer) -> None:
    """Run `app` on the command line's arguments; a FedwardError becomes one line on stderr and its exit code."""
    try:
        app()
    except FedwardError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
