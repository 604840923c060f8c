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
from client.data.rows import RowTable
from client.data.table import OnUndecodable, SiteTable
from client.feature_process import extract_apart
from client.features import FeatureRecipe
from client.network_units import network_units
from client.unit_features import centred, unit_features
from client.unit_images import UnitImages
from common.errors import LocalProtocolError
from common.plan import Plan
from common.plan_data import ImageData
from common.plan_models import FrozenBackboneModel, NetworkModel, SmallCnnModel


@dataclass(frozen=True, slots=True)
class UnitData:
    """One row per privacy unit, on the training device.

    `x` has shape (units, ...), float32, or holds all images of each unit; `y` has shape (units,), int64. For survival
    data `y` has shape (units, 2), float64: 1 for an event and 0 for a censored time, and the time.
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

    def to_score(self, feature_mean: NDArray[np.float64]) -> Tensor | UnitImages:
        """One row per unit, always the same, float32: features without the private mean, or an image of each unit.

        One unit is one cell of a confusion matrix: of several images in `x` that with the smallest SHA-256 is scored.
        Images are computed where they are indexed.
        """
        return self.x.firsts() if isinstance(self.x, UnitImages) else centred(self.x, feature_mean)


def load_units(  # noqa: PLR0913 -- keyword-only
    table: SiteTable,
    plan: Plan,
    *,
    device: Literal["auto", "cpu", "cuda"],
    cache: Path,
    on_progress: Callable[[int, int], None],
    weights: Path | None = None,
) -> tuple[UnitData, SiteTable]:
    """Turn images or rows into one input row per unit, as the plan's model takes them, in the units' sorted order.

    Args:
        table: The images or rows.
        plan: The agreed plan.
        device: Where to compute.
        cache: Folder for computed features.
        on_progress: Called with images done and images in all.
        weights: The site's weights file, for a plan's `network`.

    Returns:
        The units, and the table without images that cannot be decoded.

    Raises:
        ConfigError: If the plan needs a weights file and the site names none.
        DataError: If an image is to be refused, or none is left; or if the weights file is not the plan's.
        LocalProtocolError: If the table is not of the plan's kind.
        PlanError: If a `network` cannot be cut as the plan says.
        UnsupportedLayer: If a layer that is to be trained cannot be.
    """
    compute = choose_compute(device)
    if isinstance(table, RowTable):
        return _row_units(table, device=compute.device), table
    if not isinstance(table, ImageTable) or not isinstance(plan.data, ImageData):
        raise LocalProtocolError(f"a {type(table).__name__} is loaded for data of kind '{plan.data.kind}'")
    unreadable = plan.data.unreadable_images
    if isinstance(plan.model, FrozenBackboneModel):
        pooled = extract_apart(
            table,
            FeatureRecipe(image_size=plan.model.image_size, views=plan.model.views, compute=compute),
            cache_dir=cache,
            on_progress=on_progress,
            on_undecodable=unreadable,
        )
        rows = unit_features(pooled, projection=plan.model.projection, seed=plan.model.seed)
        x, y = torch.from_numpy(rows.x), torch.from_numpy(rows.y)
        return UnitData(x.to(compute.device), y.to(compute.device), rows.units), pooled.table
    if isinstance(plan.model, NetworkModel):
        inputs, shown = network_units(
            table,
            plan.model,
            weights=weights,
            compute=compute,
            cache=cache,
            on_progress=on_progress,
            on_undecodable=unreadable,
        )
        labels = shown.unit_labels()
        classes = torch.tensor(list(labels.values()), dtype=torch.int64)
        return UnitData(inputs, classes.to(compute.device), tuple(labels)), shown
    if not isinstance(plan.model, SmallCnnModel):
        raise LocalProtocolError(f"a model of kind '{plan.model.kind}' does not take images")
    return _pixel_units(table, plan.model, unreadable, device=compute.device, on_progress=on_progress)


def _row_units(table: RowTable, *, device: torch.device) -> UnitData:
    labels = table.unit_labels()
    rows, times = table.unit_rows()
    if times.size:
        y = torch.from_numpy(np.stack([np.array(list(labels.values()), dtype=np.float64), times], axis=1))
    else:
        y = torch.tensor(list(labels.values()), dtype=torch.int64)
    return UnitData(torch.from_numpy(rows.astype(np.float32)).to(device), y.to(device), tuple(labels))


def _pixel_units(
    table: ImageTable,
    model: SmallCnnModel,
    on_undecodable: OnUndecodable,
    *,
    device: torch.device,
    on_progress: Callable[[int, int], None],
) -> tuple[UnitData, ImageTable]:
    pixels, kept = load_pixels(table, image_size=model.image_size, on_undecodable=on_undecodable)
    labels = kept.unit_labels()
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device)
    y = torch.tensor(list(labels.values()), dtype=torch.int64)
    on_progress(len(kept.records), len(kept.records))
    return UnitData(UnitImages.of_units(images, kept.records, tuple(labels)), y.to(device), tuple(labels)), kept
