"""One row per privacy unit, as the plan's model takes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.backbone import choose_compute
from client.data import ImageTable, load_pixels
from client.feature_process import extract_apart
from client.features import FeatureRecipe
from client.unit_features import centred, unit_features
from client.unit_images import UnitImages
from common.plan import Plan
from common.plan_settings import FrozenBackboneModel, SmallCnnModel


@dataclass(frozen=True, slots=True)
class UnitData:
    """One row per privacy unit, on the training device.

    `x` has shape (units, ...), float32, or holds all images of each unit; `y` has shape (units,), int64.
    """

    x: Tensor | UnitImages
    y: Tensor
    units: tuple[str, ...]

    def where(self, chosen: Sequence[bool]) -> UnitData:
        """The rows where `chosen` is true."""
        mask = np.array(chosen, dtype=np.bool_)
        where = torch.from_numpy(mask).to(self.y.device)
        x = self.x.where(mask) if isinstance(self.x, UnitImages) else self.x[where]
        units = tuple(unit for unit, keep in zip(self.units, chosen, strict=True) if keep)
        return UnitData(x, self.y[where], units)

    def to_train(self, feature_mean: NDArray[np.float64]) -> Tensor | UnitImages:
        """What training takes of each unit: features without their private mean, or the images as they are."""
        return self.x if isinstance(self.x, UnitImages) else centred(self.x, feature_mean)

    def rows_to_score(self) -> Tensor:
        """One row per unit, always the same, shape (units, ...), float32: one unit is one cell of a confusion matrix.

        Of a unit that has several images in `x` the one with the smallest SHA-256 is scored.
        """
        return self.x.first() if isinstance(self.x, UnitImages) else self.x


def load_units(
    table: ImageTable,
    plan: Plan,
    *,
    device: Literal["auto", "cpu", "cuda"],
    cache: Path,
    on_progress: Callable[[int, int], None],
) -> tuple[UnitData, ImageTable]:
    """Turn images into one input row per unit, as the plan's model takes them, in the units' sorted order.

    Args:
        table: The images.
        plan: The agreed plan.
        device: Where to compute.
        cache: Folder for computed features.
        on_progress: Called with images done and images in all.

    Returns:
        The units, and the table of the images that could be decoded.
    """
    compute = choose_compute(device)
    if isinstance(plan.model, FrozenBackboneModel):
        pooled = extract_apart(
            table,
            FeatureRecipe(image_size=plan.model.image_size, views=plan.model.views, compute=compute),
            cache_dir=cache,
            on_progress=on_progress,
            on_undecodable=plan.data.unreadable_images,
        )
        rows = unit_features(pooled, projection=plan.model.projection, seed=plan.model.seed)
        x, y = torch.from_numpy(rows.x), torch.from_numpy(rows.y)
        return UnitData(x.to(compute.device), y.to(compute.device), rows.units), pooled.table
    return _pixel_units(table, plan.model, plan, device=compute.device, on_progress=on_progress)


def _pixel_units(
    table: ImageTable,
    model: SmallCnnModel,
    plan: Plan,
    *,
    device: torch.device,
    on_progress: Callable[[int, int], None],
) -> tuple[UnitData, ImageTable]:
    pixels, kept = load_pixels(table, image_size=model.image_size, on_undecodable=plan.data.unreadable_images)
    labels = kept.unit_labels()
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device)
    y = torch.tensor(list(labels.values()), dtype=torch.int64)
    on_progress(len(kept.records), len(kept.records))
    return UnitData(UnitImages.of_units(images, kept.records, tuple(labels)), y.to(device), tuple(labels)), kept
