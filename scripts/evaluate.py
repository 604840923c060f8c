"""Scores a finished model on a folder of images; what `fedward evaluate` runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.data.source import DataPlace, read_data
from client.evaluate import accuracy, balanced_accuracy, confusion, hazard_concordance
from common.plan_data import SurvivalData
from scripts.finished_model import FinishedModel


@dataclass(frozen=True, slots=True)
class Score:
    """How a model does on a folder; for survival data by `concordance`, else by the other three.

    `left_out` says of how many records nothing was asked, by reason.
    """

    images: int
    units: int
    accuracy: float
    balanced_accuracy: float
    confusion: NDArray[np.int64]
    concordance: float | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The score as JSON values."""
        if self.concordance is not None:
            seen = None if math.isnan(self.concordance) else self.concordance
            return {"images": self.images, "units": self.units, "concordance": seen}
        return {
            "images": self.images,
            "units": self.units,
            "accuracy": self.accuracy,
            "balanced_accuracy": self.balanced_accuracy,
            "confusion": self.confusion.tolist(),
        }


def evaluate(
    results: Path,
    images: Path,
    *,
    mapping: Path | None = None,
    weights: Path | None = None,
    cache: Path | None = None,
) -> Score:
    """Score `results`/model.safetensors on `images`/<class>/*.jpg, or on rows.

    Args:
        results: A results folder: model.safetensors and plan.yaml.
        images: Folder with one folder per class of the plan.
        mapping: File that maps the columns of rows; None for images.
        weights: Weights file of a plan's `network`; None where the plan needs none.
        cache: Folder that keeps features of the images; None keeps none.

    Raises:
        DataError: If the model or a folder is missing or does not fit the plan.
    """
    finished = FinishedModel.load(results)
    plan, model = finished.plan, finished.model
    table = read_data(DataPlace(images, mapping, named_by="DATA"), plan.data, unit=plan.privacy.unit)
    x, data, kept = finished.inputs(table, weights=weights, cache=cache)
    if isinstance(plan.data, SurvivalData):
        ranked = hazard_concordance(model, x, data.y)
        return Score(
            len(kept.records), len(data.units), math.nan, math.nan, np.zeros((0, 0), np.int64), ranked, kept.left_out
        )
    counts = confusion(model, x, data.y, classes=len(plan.data.classes))
    return Score(
        len(kept.records), len(data.units), accuracy(counts), balanced_accuracy(counts), counts, left_out=kept.left_out
    )
