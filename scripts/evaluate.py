"""Scores a finished model on a folder of images; what `fedward evaluate` runs."""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from client.data.source import DataPlace, read_data
from client.evaluate import accuracy, balanced_accuracy, confusion, hazard_concordance
from client.learner import plan_layout
from client.results import FEATURE_MEAN
from client.unit_data import load_units
from client.unit_features import centred
from common.config import load_settings
from common.errors import DataError
from common.plan import Plan
from common.plan_data import SurvivalData


@dataclass(frozen=True, slots=True)
class Score:
    """How a model does on a folder; for survival data by `concordance`, else by the other three."""

    images: int
    units: int
    accuracy: float
    balanced_accuracy: float
    confusion: NDArray[np.int64]
    concordance: float | None = None

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
    plan = load_settings(results / "plan.yaml", Plan)
    model = plan_layout(plan)
    path = results / "model.safetensors"
    try:
        with safe_open(path, framework="pt") as file:
            described = json.loads((file.metadata() or {}).get("fedward", "{}"))
            if described.get("classes") != list(plan.data.classes):
                raise DataError(f"{path}: its classes are not those of plan.yaml beside it; use one results folder")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- no mapping
        feature_mean = tensors.pop(FEATURE_MEAN, torch.zeros(0)).numpy()
        if feature_mean.shape != (plan.statistics,):
            raise DataError(
                f"{path}: holds a mean of features of shape {feature_mean.shape}, plan.yaml beside it has "
                f"{plan.statistics} features with a mean; use one results folder"
            )
        model.load_state_dict(tensors)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise DataError(f"{path}: is no model of this plan ({error}); name a results folder of fedward") from error
    table = read_data(DataPlace(images, mapping), plan.data, unit=plan.privacy.unit)
    with tempfile.TemporaryDirectory() as scratch, torch.inference_mode():
        kept_in = cache or Path(scratch)
        data, kept = load_units(
            table, plan, device="auto", cache=kept_in, on_progress=lambda _done, _total: None, weights=weights
        )
        model.to(data.y.device)
        x = centred(data.rows_to_score(), feature_mean)
        if isinstance(plan.data, SurvivalData):
            ranked = hazard_concordance(model, x, data.y)
            return Score(len(kept.records), len(data.units), math.nan, math.nan, np.zeros((0, 0), np.int64), ranked)
        counts = confusion(model, x, data.y, classes=len(plan.data.classes))
    return Score(len(kept.records), len(data.units), accuracy(counts), balanced_accuracy(counts), counts)
