"""`fedward split` for what a mapping names: rows, or images."""

from __future__ import annotations

from pathlib import Path

import typer

from client.data.left_out import left_out_in_words
from client.data.source import DataPlace, read_rows
from common.config import load_settings
from common.plan import Plan
from common.plan_data import ImageData, RowData
from scripts.split_images import split_images
from scripts.split_rows import SITES, split_rows


def split_mapped(source: DataPlace, out: Path, *, plan: Path, hospitals: int, seed: int) -> None:
    """Deal rows or images, and say what each hospital was dealt.

    Raises:
        FedwardError: See `scripts.split_rows.split_rows` and `scripts.split_images.split_images`.
    """
    data = load_settings(plan, Plan).data
    if isinstance(data, ImageData):
        _images(source, data, out, hospitals=hospitals, seed=seed)
    else:
        _rows(source, data, out, hospitals=hospitals, seed=seed)
    typer.echo(f"{out / SITES} names them: fedward demo --plan {plan} --sites {out / SITES}")


def _images(source: DataPlace, data: ImageData, out: Path, *, hospitals: int, seed: int) -> None:
    _, report = split_images(source, data, out, hospitals=hospitals, seed=seed)
    for warning in report.warnings:
        typer.echo(f"warning: {warning}", err=True)
    for share in report.shares:
        typer.echo(
            f"{share.name}: {sum(share.images)} images of {sum(share.units)} {report.unit_name}s in {share.data}"
        )


def _rows(source: DataPlace, data: RowData, out: Path, *, hospitals: int, seed: int) -> None:
    places, reading = split_rows(source, data, out, hospitals=hospitals, seed=seed)
    for warning in reading.warnings:
        typer.echo(f"warning: {warning}", err=True)
    for sentence in left_out_in_words(reading.left_out):
        typer.echo(f"left out: {sentence}", err=True)
    for name, place in places.items():
        typer.echo(f"{name}: {len(read_rows(place, data).rows)} rows in {place.path}")
