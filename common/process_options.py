"""Options of all commands that keep processes."""

from __future__ import annotations

from typing import Annotated

import typer

LogJson = Annotated[
    bool,
    typer.Option("--log-json", help="Print what happens, and what the processes log, as one JSON object per line."),
]
HealthPortOption = Annotated[
    int | None,
    typer.Option("--health-port", min=0, max=65535, help="Tell health on this port, whatever the file says; 0: none."),
]
