"""Pixels of units that have several images: each time a unit enters a batch, the CSPRNG chooses one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.data import ImageRecord
from client.noise import random_words
from common.errors import LocalProtocolError

ImageDraw = Callable[[NDArray[np.int64]], NDArray[np.int64]]


def draw_below(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Independent uniform draws from 0 to counts - 1, from the operating system's CSPRNG; no seed reaches them.

    Args:
        counts: Shape (n,), int64, each from 1 to 2^24.

    Returns:
        Shape (n,), int64. Each differs from the uniform distribution by less than 2^-40 (total variation); privacy
        needs no more than that a unit's draw looks at nobody else.
    """
    return (random_words(len(counts)) % counts.astype(np.uint64)).astype(np.int64)


def scaled(pixels: Tensor) -> Tensor:
    """Bytes to floating numbers in [-1, 1.01]."""
    return pixels.float().sub_(127).div_(128)


@dataclass(frozen=True, slots=True, eq=False)
class UnitImages:
    """One row per unit, like a tensor of shape (units, 3, side, side), of which each indexing draws the images anew.

    A model that is trained on raw images takes one image per unit and step: else a unit with two images would count
    twice. A step's clipping holds whichever image is drawn, so that a fresh draw costs no privacy, and over the steps
    all images of a unit serve. All of them stay in memory, as bytes; a batch alone becomes floating.

    Attributes:
        pixels: Shape (images, 3, side, side), uint8, on the device of training; or what a network's frozen part made of
            each image, shape (images, ...), float32.
        rows: Indices into `pixels`, grouped by unit, shape (images,), int64.
        starts: Where each unit begins in `rows`, shape (units,), int64.
        counts: How many images each unit has, >= 1, shape (units,), int64.
        draw: Chooses below each count; anything but the default is for tests.
        prepare: Makes of some of `pixels` what the model takes, float32: of each a function of that one alone.
    """

    pixels: Tensor
    rows: NDArray[np.int64]
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]
    draw: ImageDraw = draw_below
    prepare: Callable[[Tensor], Tensor] = scaled

    @classmethod
    def of_units(
        cls,
        pixels: Tensor,
        records: Sequence[ImageRecord],
        units: Sequence[str],
        *,
        prepare: Callable[[Tensor], Tensor] = scaled,
    ) -> Self:
        """Group images by unit.

        Args:
            pixels: One row for each image.
            records: What each image is, in the same order.
            units: All units of the records, in the order of the result's rows.
            prepare: See the attribute.

        Raises:
            LocalProtocolError: If pixels and records differ in number.

        Guarantees:
            What stands here of a unit is a function of its own images: they are ordered by their SHA-256.
        """
        if len(pixels) != len(records):
            raise LocalProtocolError(f"{len(pixels)} images but {len(records)} records; equal numbers are needed")
        members: dict[str, list[int]] = {unit: [] for unit in units}
        for index in sorted(range(len(records)), key=lambda index: records[index].sha256):
            members[records[index].unit].append(index)
        counts = np.array([len(each) for each in members.values()], dtype=np.int64)
        rows = np.array([index for each in members.values() for index in each], dtype=np.int64)
        return cls(pixels, rows, np.cumsum(counts) - counts, counts, prepare=prepare)

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def shape(self) -> tuple[int, ...]:
        """How many units, then the shape of one image in `pixels`."""
        return (len(self), *self.pixels.shape[1:])

    @property
    def device(self) -> torch.device:
        """Where batches lie."""
        return self.pixels.device

    def __getitem__(self, chosen: Sequence[int]) -> Tensor:
        """One image of each chosen unit, drawn now: shape (chosen, ...), float32."""
        units = np.asarray(chosen, dtype=np.int64)
        rows = self.rows[self.starts[units] + self.draw(self.counts[units])]
        return self.prepare(self.pixels[torch.from_numpy(rows).to(self.device)])

    def firsts(self) -> Self:
        """The same units, of which each indexing takes the image whose SHA-256 is smallest, for scoring.

        It is always the same, and nobody else's images matter.
        """
        return replace(self, draw=np.zeros_like)

    def where(self, chosen: NDArray[np.bool_]) -> Self:
        """The units where `chosen` is true; the pixels are shared, not copied."""
        return replace(self, starts=self.starts[chosen], counts=self.counts[chosen])
