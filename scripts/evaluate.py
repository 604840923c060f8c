"""Scores a finished model on a folder of images; what `fedward evaluate` runs."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from client.data import load_table
from client.evaluate import accuracy, balanced_accuracy, confusion
from client.learner import plan_model
from client.results import FEATURE_MEAN
from client.unit_data import load_units
from client.unit_features import centred
from common.config import load_settings
from common.errors import DataError
from common.plan import Plan
from common.site_config import AUTO_COLUMN


@dataclass(frozen=True, slots=True)
class Score:
    """How a model does on a folder."""

    images: int
    units: int
    accuracy: float
    balanced_accuracy: float
    confusion: NDArray[np.int64]

    def as_json(self) -> dict[str, Any]:
        """The score as JSON values."""
        return {
            "images": self.images,
            "units": self.units,
            "accuracy": self.accuracy,
            "balanced_accuracy": self.balanced_accuracy,
            "confusion": self.confusion.tolist(),
        }


def evaluate(results: Path, images: Path, *, cache: Path | None = None) -> Score:
    """Score `results`/model.safetensors on `images`/<class>/*.jpg.

    Args:
        results: A results folder: model.safetensors and plan.yaml.
        images: Folder with one folder per class of the plan.
        cache: Folder that keeps features of the images; None keeps none.

    Raises:
        DataError: If the model or a folder is missing or does not fit the plan.
    """
    plan = load_settings(results / "plan.yaml", Plan)
    model = plan_model(plan)
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
    table = load_table(
        images,
        plan.data.classes,
        on_undecodable=plan.data.unreadable_images,
        unit=plan.privacy.unit,
        patient_column=AUTO_COLUMN,
    )
    with tempfile.TemporaryDirectory() as scratch, torch.inference_mode():
        kept_in = cache or Path(scratch)
        data, kept = load_units(table, plan, device="auto", cache=kept_in, on_progress=lambda _done, _total: None)
        model.to(data.y.device)
        counts = confusion(model, centred(data.rows_to_score(), feature_mean), data.y, classes=len(plan.data.classes))
    return Score(len(kept.records), len(data.units), accuracy(counts), balanced_accuracy(counts), counts)
