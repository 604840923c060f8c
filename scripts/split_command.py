"""`fedward split` for rows."""

from __future__ import annotations

from pathlib import Path

import typer

from client.data.rows import left_out_in_words
from client.data.source import DataPlace, read_rows
from common.config import load_settings
from common.errors import OperatorError
from common.plan import Plan
from common.plan_data import ImageData
from scripts.split_rows import SITES, split_rows


def split_table(source: DataPlace, out: Path, *, plan: Path, hospitals: int, seed: int) -> None:
    """Deal rows and say what each hospital was dealt.

    Raises:
        FedwardError: See `scripts.split_rows.split_rows`.
    """
    data = load_settings(plan, Plan).data
    if isinstance(data, ImageData):
        raise OperatorError(f"--plan: {plan} is on images; leave out --plan and --mapping to deal an image folder")
    places, reading = split_rows(source, data, out, hospitals=hospitals, seed=seed)
    for warning in reading.warnings:
        typer.echo(f"warning: {warning}", err=True)
    for sentence in left_out_in_words(reading.left_out):
        typer.echo(f"left out: {sentence}", err=True)
    for name, place in places.items():
        typer.echo(f"{name}: {len(read_rows(place, data).rows)} rows in {place.path}")
    typer.echo(f"{out / SITES} names them: fedward demo --plan {plan} --sites {out / SITES}")
