"""`fedward bench dp`: the command line."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from scripts.report_file import require_writable, write_json


def dp(  # noqa: PLR0913 -- one parameter per option
    *,
    units: Annotated[int, typer.Option(min=1, max=10_000, help="Units in one step of the head.")] = 352,
    features: Annotated[int, typer.Option(min=1, max=10_000, help="Inputs of the head.")] = 1280,
    images: Annotated[int, typer.Option(min=0, max=1_000, help="Images in one step of the network; 0: leave it.")] = 16,
    side: Annotated[int, typer.Option(min=32, max=1_000, help="Pixels along each side of an image.")] = 180,
    repeats: Annotated[int, typer.Option(min=1, help="Repeats per row, interleaved; the fastest counts.")] = 5,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the rows to this file.")] = None,
) -> None:
    """Compare training with and without differential privacy, and with Opacus as it is shipped.

    The head is the plan's: linear, without bias, nine classes, on rows of norm 1. The network is EfficientNet-Lite0
    with GroupNorm, trained whole in float32, which a site would refuse: it trains in float64, and no plan offers this
    network yet. A row's units are those of one step. Rates are per
    second of CPU time on one thread.
    """
    require_writable(json_path)
    # torch loads only for the commands that need it.
    from scripts.bench_dp import bench_dp, dp_tables, ratios  # noqa: PLC0415

    rows = bench_dp(units=units, features=features, images=images, side=side, repeats=repeats)
    for table in dp_tables(rows):
        Console().print(table)
    result: dict[str, object] = {
        "features": features,
        "side": side,
        "repeats": repeats,
        "rows": [asdict(row) for row in rows],
        "ratios": ratios(rows),
    }
    write_json(json_path, result)
