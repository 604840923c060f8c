"""The commands `fedward evaluate` and `fedward predict`: what a finished model does on data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scripts.report_file import require_writable, write_json

Results = Annotated[Path, typer.Argument(help="A results folder: model.safetensors and plan.yaml.")]
Weights = Annotated[Path | None, typer.Option(help="Weights file that the plan names by its digest, if it does.")]


def evaluate(
    results: Results,
    data: Annotated[
        Path, typer.Argument(help="Folder with one folder of images per class; or file or folder of rows.")
    ],
    mapping: Annotated[Path | None, typer.Option(help="File that maps the data's columns to the plan's.")] = None,
    weights: Weights = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the score to this file.")] = None,
) -> None:
    """Score a finished model on data whose labels are known. It is a research tool, no medical device."""
    require_writable(json_file)
    from client.data.left_out import left_out_in_words  # noqa: PLC0415
    from scripts.evaluate import evaluate as score_folder  # noqa: PLC0415

    score = score_folder(results, data, mapping=mapping, weights=weights)
    typer.echo(f"{score.images} images or rows, {score.units} units")
    for sentence in left_out_in_words(score.left_out):
        typer.echo(f"left out: {sentence}")
    if score.concordance is not None:
        typer.echo(f"concordance (Harrell's C) {score.concordance:.3f}")
    else:
        typer.echo(f"accuracy {score.accuracy:.3f}, balanced accuracy {score.balanced_accuracy:.3f}")
    write_json(json_file, score.as_json())


def predict(
    results: Results,
    data: Annotated[
        Path, typer.Argument(help="An image, a folder of images, or a file or folder of rows (CSV, FHIR, VCF).")
    ],
    *,
    out: Annotated[Path, typer.Option(help="New CSV file; only this user may read it.")] = Path("predictions.csv"),
    mapping: Annotated[
        Path | None,
        typer.Option(help="For rows, and images that an index lists: the mapping file; labels need no line in it."),
    ] = None,
    weights: Weights = None,
) -> None:
    """Ask a finished model about images or rows: the probability of each class, or of an event by each time.

    It is a research tool, no medical device.
    """
    from client.data.left_out import left_out_in_words  # noqa: PLC0415
    from client.data.source import DataPlace  # noqa: PLC0415
    from scripts.predict import NO_DEVICE, require_new, write_predictions  # noqa: PLC0415
    from scripts.predict import predict as ask  # noqa: PLC0415

    require_new(out)
    found = ask(results, DataPlace(data, mapping, named_by="DATA"), weights=weights)
    write_predictions(out, found)
    typer.echo(f"{len(found.lines)} predictions in {out}")
    for name, count in sorted(found.counts().items()):
        typer.echo(f"  {name}: {count}")
    for sentence in left_out_in_words(found.left_out):
        typer.echo(f"left out: {sentence}")
    typer.echo(NO_DEVICE)
