"""What training takes of each unit's images under a plan's `network`: features, activations at the cut, or pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.backbone import Compute
from client.data import ImageTable, OnUndecodable, load_pixels
from client.feature_process import extract_apart
from client.features import FeatureRecipe, PooledFeatures, frozen_rows
from client.frozen_network import FrozenNetwork, normalised
from client.network import frozen_part
from client.unit_images import UnitImages
from common.plan_models import NetworkModel

# What the frozen part makes of the images is kept if it has at most so many numbers for each image...
MOST_KEPT_PER_IMAGE = 1 << 16
# ...and so many bytes, as float32, for all. Else the frozen part runs anew in each step, on the images that are drawn.
MOST_KEPT_BYTES = 512 << 20


def network_units(  # noqa: PLR0913 -- keyword-only
    table: ImageTable,
    model: NetworkModel,
    *,
    weights: Path | None,
    compute: Compute,
    cache: Path,
    on_progress: Callable[[int, int], None],
    on_undecodable: OnUndecodable,
) -> tuple[Tensor | UnitImages, ImageTable]:
    """One row per unit, in the units' sorted order, on the device; and the images that could be decoded.

    Returns:
        Under a frozen network the mean of each unit's features, of norm 1, shape (units, features), float32. Where
        blocks are trained, all images of each unit: what the layers before these blocks made of them if that is small
        enough (`MOST_KEPT_PER_IMAGE`, `MOST_KEPT_BYTES`), else their pixels. Either way a step takes the same numbers.

    Raises:
        ConfigError: If the site names no weights file.
        DataError: If the weights are not the plan's, an image is to be refused, or none is left.
        PlanError: If the network cannot be cut as the plan says.
        UnsupportedLayer: If a layer that is to be trained cannot be.

    Guarantees:
        What stands here of a unit is a function of its own images alone, to the last bit.
    """
    part = frozen_part(model, weights=weights)
    recipe = None
    if part is not None:
        frozen = FrozenNetwork(model, weights, part.shape)
        recipe = FeatureRecipe(image_size=model.image_size, views=model.views, compute=compute, backbone=frozen)
        if model.trainable == "head" or small_enough(part.shape, len(table.records)):
            pooled = extract_apart(
                table, recipe, cache_dir=cache, on_progress=on_progress, on_undecodable=on_undecodable
            )
            if model.trainable == "head":
                return torch.from_numpy(mean_features(pooled)).to(compute.device), pooled.table
            kept = torch.from_numpy(pooled.vectors).reshape(-1, *part.shape).to(compute.device)
            shown = pooled.table
            return UnitImages.of_units(kept, shown.records, _units(shown), prepare=_as_it_is), shown
    pixels, decoded = load_pixels(table, image_size=model.image_size, on_undecodable=on_undecodable)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(compute.device)
    on_progress(len(decoded.records), len(decoded.records))
    prepare = partial(normalised, model=model) if recipe is None else partial(frozen_rows, recipe.load(), recipe=recipe)
    return UnitImages.of_units(images, decoded.records, _units(decoded), prepare=prepare), decoded


def small_enough(shape: tuple[int, ...], images: int) -> bool:
    """Whether so many images' activations of this shape are kept, rather than computed in each step."""
    numbers = math.prod(shape)
    return numbers <= MOST_KEPT_PER_IMAGE and 4 * numbers * images <= MOST_KEPT_BYTES


def mean_features(pooled: PooledFeatures) -> NDArray[np.float32]:
    """Mean of each unit's images' features, then norm 1.

    Returns:
        Shape (units, features), float32, in the units' sorted order; zeros stay zeros.
    """
    position = {unit: row for row, unit in enumerate(_units(pooled.table))}
    means = np.zeros((len(position), pooled.vectors.shape[1]))
    np.add.at(means, [position[record.unit] for record in pooled.table.records], pooled.vectors)
    norms = np.linalg.norm(means, axis=1, keepdims=True)
    unit: NDArray[np.float32] = (means / np.maximum(norms, 1e-12)).astype(np.float32)
    return unit


def _units(table: ImageTable) -> tuple[str, ...]:
    return tuple(table.unit_labels())


def _as_it_is(rows: Tensor) -> Tensor:
    return rows
