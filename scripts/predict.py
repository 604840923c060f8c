"""What a finished model says of images or rows that have no label; what `fedward predict` runs."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from client.batches import Inputs
from client.data.source import DataPlace, read_unlabelled
from client.evaluate import outputs_in_chunks
from common.errors import AlreadyExists, OperatorError
from common.plan import Plan
from common.plan_data import ImageData, SurvivalData
from scripts.finished_model import FinishedModel

NO_DEVICE = (
    "This is a research tool and no medical device: nobody may be diagnosed or treated by these numbers. The "
    "probabilities are the model's own, and nobody has checked that they are calibrated."
)
# OWASP, CSV injection: also the wide forms, and the white space that a spreadsheet passes over.
_FORMULA_MARKS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


@dataclass(frozen=True, slots=True)
class Predictions:
    """What the model says, one line for each image or row.

    Attributes:
        columns: Names of the columns: `record`, for classes `prediction`, then one number for each class, or for each
            time until which an event may come.
        lines: In the order of the source.
        left_out: How many images or rows are not in `lines`, by reason.
    """

    columns: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    left_out: Mapping[str, int]

    def counts(self) -> Counter[str]:
        """How many lines each class was predicted for; empty for survival data."""
        return Counter(line[1] for line in self.lines) if self.columns[1] == "prediction" else Counter()


def predict(results: Path, place: DataPlace, *, weights: Path | None = None, cache: Path | None = None) -> Predictions:
    """Ask a finished model about images or rows.

    Args:
        results: A results folder: model.safetensors and plan.yaml.
        place: An image or a folder of images at any depth, without a mapping; or a file or folder and its mapping,
            which needs to say nothing of labels.
        weights: Weights file of a plan's `network`; None where the plan needs none.
        cache: Folder that keeps features of images; None keeps none.

    Raises:
        ConfigError: If the mapping is wrong.
        DataError: If the model or the data are missing, or nothing can be read.
    """
    finished = FinishedModel.load(results)
    plan = finished.plan
    table, names = read_unlabelled(place, plan.data)
    finished = FinishedModel(_skipping(plan), finished.model, finished.feature_mean)
    x, data, kept = finished.inputs(table, weights=weights, cache=cache)
    numbers = _numbers(finished, x)
    of_unit = {unit: tuple(row) for unit, row in zip(data.units, numbers.tolist(), strict=True)}
    lines = tuple(_line(name, of_unit[unit], plan.data.classes) for name, unit in names if unit in of_unit)
    left_out = Counter(kept.left_out)
    if isinstance(plan.data, SurvivalData):
        columns = ("record", *(f"event_by_{cut:g}_{plan.data.time_unit}" for cut in plan.data.cuts))
    else:
        columns = ("record", "prediction", *plan.data.classes)
    return Predictions(columns, lines, +left_out)


def require_new(path: Path) -> None:
    """Refuse a file that is there already, or cannot be made, before the work. Leaves nothing behind.

    Raises:
        AlreadyExists, OperatorError: See `write_predictions`.
    """
    write_predictions(path, Predictions((), (), {}))
    path.unlink()


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write a CSV file that only this user may read; nothing is overwritten.

    A text that a spreadsheet would run as a formula, which is what `=1+1.png` is to one, gets an apostrophe in front.

    Raises:
        AlreadyExists: If there is such a file.
        OperatorError: If the disk refuses.
    """
    try:
        # Names of files may hold bytes that are no text.
        with open(path, "x", encoding="utf-8", errors="backslashreplace", newline="", opener=_private) as stream:
            writer = csv.writer(stream)
            writer.writerows(map(_without_formula, line) for line in (predictions.columns, *predictions.lines))
    except FileExistsError as error:
        raise AlreadyExists(f"--out {path}: is there already; name a new file") from error
    except OSError as error:
        raise OperatorError(f"--out {path}: cannot be written ({error.strerror}); name another file") from error


def _without_formula(cell: str) -> str:
    return f"'{cell}" if cell.startswith(_FORMULA_MARKS) else cell


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _skipping(plan: Plan) -> Plan:
    """The plan, but an image that cannot be decoded is left out, whatever the plan says of training data."""
    if not isinstance(plan.data, ImageData):
        return plan
    return plan.model_copy(update={"data": plan.data.model_copy(update={"unreadable_images": "skip"})})


def _numbers(finished: FinishedModel, x: Inputs) -> Tensor:
    """Probabilities, shape (units, classes); of survival data that of an event by each cut, shape (units, cuts)."""
    data = finished.plan.data
    finished.model.eval()
    with torch.inference_mode():
        outputs = torch.cat([each for _, each in outputs_in_chunks(finished.model, x)]).double().cpu()
    if not isinstance(data, SurvivalData):
        return outputs.softmax(dim=1)
    ends = torch.tensor(data.cuts, dtype=torch.float64)
    lengths = torch.diff(ends, prepend=torch.zeros(1)) / ends[-1]
    return 1.0 - torch.exp(-torch.cumsum(outputs.exp() * lengths, dim=1))


def _line(name: str, numbers: Sequence[float], classes: Sequence[str]) -> tuple[str, ...]:
    shown = tuple(f"{number:.4f}" for number in numbers)
    if not classes:
        return (name, *shown)
    return (name, classes[max(range(len(numbers)), key=numbers.__getitem__)], *shown)
