"""`fedward bench features`: the command line."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from scripts.report_file import require_writable, write_json


def features(  # noqa: PLR0913 -- one parameter per option
    *,
    images: Annotated[int, typer.Option(min=1, max=10_000, help="Images that are drawn for it.")] = 96,
    side: Annotated[int, typer.Option(min=32, max=320, help="Pixels along each side of an image.")] = 180,
    repeats: Annotated[int, typer.Option(min=1, help="Repeats per row, interleaved; the fastest counts.")] = 3,
    threads: Annotated[int, typer.Option(min=1, max=256, help="Threads of torch.")] = 2,
    units: Annotated[int, typer.Option(min=1, max=100_000, help="Units of the head's round.")] = 448,
    inputs: Annotated[int, typer.Option(min=1, max=10_000, help="Features of each.")] = 512,
    steps: Annotated[int, typer.Option(min=1, max=1_000, help="Local steps of that round.")] = 5,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the rows to this file.")] = None,
) -> None:
    """Compare the feature pass with a plain PyTorch loop, and time one round of a head on cached features.

    Both decode the same JPEG files and run EfficientNet-Lite0 with ImageNet weights on the CPU, one view per image. The
    plain loop is eager float32 PyTorch with BatchNorm in eval mode; its fastest batch size counts.
    """
    require_writable(json_path)
    # torch loads only for the commands that need it.
    from scripts.bench_features import (  # noqa: PLC0415
        GOAL,
        HEAD_GOAL_S,
        bench_features,
        feature_ratio,
        feature_table,
        head_seconds,
    )

    rows = bench_features(images=images, side=side, repeats=repeats, threads=threads)
    ratio = feature_ratio(rows)
    seconds = head_seconds(units=units, features=inputs, steps=steps, repeats=repeats)
    console = Console()
    console.print(feature_table(rows))
    console.print(f"fedward over the fastest plain loop: {ratio:.2f} (goal: >= {GOAL:g})")
    size = f"{units} units, {inputs} features, {steps} steps"
    console.print(f"one round of a head, {size}: {seconds:.3f} s (goal: < {HEAD_GOAL_S:g})")
    result: dict[str, object] = {
        "images": images,
        "side": side,
        "repeats": repeats,
        "threads": threads,
        "rows": [asdict(row) for row in rows],
        "ratio": ratio,
        "goal": GOAL,
        "head": {"units": units, "features": inputs, "steps": steps, "seconds": seconds, "goal": HEAD_GOAL_S},
    }
    write_json(json_path, result)
