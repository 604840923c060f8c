"""A finished model as its results folder holds it, and what it says of units."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import nn

from client.batches import Inputs
from client.data.table import SiteTable
from client.learner import plan_layout
from client.results import FEATURE_MEAN
from client.unit_data import UnitData, load_units
from common.config import load_settings
from common.errors import DataError
from common.plan import Plan


@dataclass(frozen=True, slots=True)
class FinishedModel:
    """A model, its plan, and the mean that is taken off features; empty where the plan has none."""

    plan: Plan
    model: nn.Module
    feature_mean: NDArray[np.float64]

    @classmethod
    def load(cls, results: Path) -> FinishedModel:
        """Read `results`/model.safetensors and plan.yaml.

        Raises:
            ConfigError: If there is no plan.yaml, or it is wrong.
            DataError: If the model is missing or not of that plan.
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
        return cls(plan, model, feature_mean)

    def inputs(
        self, table: SiteTable, *, weights: Path | None, cache: Path | None
    ) -> tuple[Inputs, UnitData, SiteTable]:
        """What the model is given of each unit.

        Args:
            table: Images or rows.
            weights: Weights file of a plan's `network`; None where the plan needs none.
            cache: Folder that keeps features of images; None keeps none.

        Returns:
            Inputs by unit, computed where they are indexed, in their sorted order, on the device that the model now
            is on; the units; the table without images that cannot be decoded.

        Raises:
            ConfigError, DataError: See `client.unit_data.load_units`.
        """
        with tempfile.TemporaryDirectory() as scratch, torch.inference_mode():
            data, kept = load_units(
                table,
                self.plan,
                device="auto",
                cache=cache or Path(scratch),
                on_progress=lambda _done, _total: None,
                weights=weights,
            )
            self.model.to(data.y.device)
            return data.to_score(self.feature_mean), data, kept
