"""From images to one vector each: the frozen backbone's averages over some views, computed once and cached."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from client.backbone import WEIGHTS_SHA256, Compute, load_lite0
from client.data.decode import why_undecodable
from client.data.table import ImageTable, OnUndecodable
from client.feature_cache import read_cache, write_cache
from client.frozen_network import FrozenNetwork
from client.lite0 import FEATURES
from client.model import compute_in_full_precision
from common.errors import DataError, LocalProtocolError

MAX_VIEWS: Final = 8
_PREPROCESSING_VERSION: Final = 2
_IMAGES_PER_SAVE: Final = 512


@dataclass(frozen=True, slots=True)
class FeatureRecipe:
    """What the backbone is fed and how it runs.

    Attributes:
        image_size: Side of the square that images are scaled to, pixels, >= 32.
        views: How many of the eight flips and rotations by 90 degrees are averaged, 1 to 8; 1 is the image as it is.
        compute: Device and number format, from `choose_compute`.
        backbone: The frozen part of a plan's `network`; None for Lite0.
    """

    image_size: int
    views: int
    compute: Compute
    backbone: FrozenNetwork | None = None

    def __post_init__(self) -> None:
        """Refuse sizes that the backbone has no meaning for.

        Raises:
            LocalProtocolError: If a value is out of range.
        """
        if not 1 <= self.views <= MAX_VIEWS or self.image_size < 32:
            raise LocalProtocolError(
                f"views {self.views} must be 1 to {MAX_VIEWS}, and image_size {self.image_size} at least 32 pixels"
            )

    def key(self) -> str:
        """Name of everything, but for the image, that a cached vector depends on: 32 hex digits."""
        parts: dict[str, object] = {
            "backbone": WEIGHTS_SHA256 if self.backbone is None else self.backbone.name(),
            "preprocessing": _PREPROCESSING_VERSION,
            "image_size": self.image_size,
            "views": self.views,
            "device": self.compute.device.type,
            "precision": self.compute.precision,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

    @property
    def width(self) -> int:
        """Length of one image's vector."""
        return FEATURES if self.backbone is None else math.prod(self.backbone.shape)

    def load(self) -> nn.Module:
        """The backbone, on its device.

        Raises:
            ConfigError: If the site's weights file is not named.
            DataError: If the weights are not the published ones, or not the plan's.
        """
        return load_lite0(self.compute) if self.backbone is None else self.backbone.load(self.compute)

    def normalise(self, pixels: Tensor) -> Tensor:
        """What the backbone takes of pixels from 0 to 255, floating, shape (n, 3, s, s)."""
        return (pixels - 127.0) / 128.0 if self.backbone is None else self.backbone.normalise(pixels)


@dataclass(frozen=True, slots=True)
class PooledFeatures:
    """The backbone's output, one row per image.

    Attributes:
        table: The images that could be decoded, in the rows' order.
        vectors: Shape (images, width), float32: averages over views. Lite0's are averages over positions, in [0, 6].
        computed: How many rows were computed now; the others came from the cache.
    """

    table: ImageTable
    vectors: NDArray[np.float32]
    computed: int


def extract(
    table: ImageTable,
    recipe: FeatureRecipe,
    *,
    cache_dir: Path,
    on_progress: Callable[[int, int], None],
    on_undecodable: OnUndecodable,
) -> PooledFeatures:
    """Run the backbone over the images that the cache does not hold yet.

    Uses as many threads as torch was given (`torch.set_num_threads`). An interrupted pass goes on where it was last
    saved; a changed image is recomputed alone; images that left the table leave the cache.

    Args:
        table: Images.
        recipe: Image size, views, device.
        cache_dir: This site's cache folder.
        on_progress: Called with (images done, images in all); cached images count as done at once.
        on_undecodable: Leave out files that cannot be decoded, or refuse.

    Raises:
        DataError: If an image cannot be decoded and is to be refused, or if none is left.
        SiteStorageError: If the cache cannot be written.
    """
    path = _cache_path(cache_dir, recipe)
    stored = read_cache(path, width=recipe.width)
    known = {record.sha256: stored[record.sha256] for record in table.records if record.sha256 in stored}
    missing = [record for record in table.records if record.sha256 not in known]
    done = len(table.records) - len(missing)
    bad: dict[str, str] = {}
    on_progress(done, len(table.records))
    if missing:
        compute_in_full_precision()
        trunk = recipe.load()
        for start in range(0, len(missing), _IMAGES_PER_SAVE):
            for record in missing[start : start + _IMAGES_PER_SAVE]:
                try:
                    pixels = table.decode(table.file(record), recipe.image_size)
                except DataError:
                    bad[record.path] = why_undecodable(table.file(record))
                else:
                    known[record.sha256] = pool(trunk, pixels, recipe=recipe)
                done += 1
                on_progress(done, len(table.records))
            write_cache(path, known)
    elif len(known) < len(stored):
        write_cache(path, known)
    kept = table.without_undecodable(bad, on_undecodable=on_undecodable)
    vectors = np.stack([known[record.sha256] for record in kept.records])
    return PooledFeatures(kept, vectors, len(missing) - len(bad))


def missing_images(table: ImageTable, recipe: FeatureRecipe, *, cache_dir: Path) -> int:
    """How many images `extract` would have to run through the backbone."""
    stored = read_cache(_cache_path(cache_dir, recipe), width=recipe.width)
    return sum(record.sha256 not in stored for record in table.records)


def _cache_path(cache_dir: Path, recipe: FeatureRecipe) -> Path:
    return cache_dir / f"features-{recipe.key()}.npz"


def pool(trunk: nn.Module, pixels: NDArray[np.uint8], *, recipe: FeatureRecipe) -> NDArray[np.float32]:
    """Average the backbone's features over the recipe's views of one image.

    Args:
        trunk: From `recipe.load`.
        pixels: Shape (s, s, 3), RGB.
        recipe: Views, device and number format.

    Returns:
        Shape (width,), float32.

    Guarantees:
        A function of this image alone, to the last bit. In a batch of several images libraries choose their order of
        summation by the batch's size, and float32 features moved by up to 2e-5 with the number of other patients.
    """
    image = torch.tensor(pixels, device=recipe.compute.device).permute(2, 0, 1)[None]
    result: NDArray[np.float32] = _pooled(trunk, image, recipe).flatten().cpu().numpy()
    return result


def frozen_rows(trunk: nn.Module, images: Tensor, *, recipe: FeatureRecipe) -> Tensor:
    """`pool` of several images, one by one.

    Args:
        trunk: From `recipe.load`.
        images: Shape (n, 3, s, s), uint8, on the recipe's device.
        recipe: Views, device and number format.

    Returns:
        Shape (n, ...), as the backbone makes it, float32, on the device.
    """
    return torch.stack([_pooled(trunk, image[None], recipe) for image in images])


def _pooled(trunk: nn.Module, image: Tensor, recipe: FeatureRecipe) -> Tensor:
    scaled = recipe.normalise(image.float())
    stacked = torch.cat(_dihedral(scaled)[: recipe.views]) if recipe.views > 1 else scaled
    dtype = torch.bfloat16 if recipe.compute.precision == "bfloat16" else torch.float32
    with torch.inference_mode():
        maps: Tensor = trunk(stacked.to(dtype=dtype, memory_format=torch.channels_last))
        return maps.float().mean(dim=0)


def _dihedral(images: Tensor) -> list[Tensor]:
    """The eight symmetries of the square, the cheapest and most different first; a lesion has no upright position."""
    turned = images.transpose(2, 3)
    return [symmetric for half in (images, turned) for symmetric in (half, half.flip(3), half.flip(2), half.flip(2, 3))]
