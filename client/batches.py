"""Batches of units: all of them, or each with one probability, drawn by the CSPRNG and not by torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

# What is floating at once: so many units, and fewer where the input of one is large.
UNITS_AT_ONCE: Final = 64
_BYTES_AT_ONCE: Final = 1 << 27
_FLOAT64_BYTES: Final = 8

CoinSampler = Callable[[int, float], NDArray[np.bool_]]


class Inputs(Protocol):
    """Inputs by unit: a tensor, or `client.unit_images.UnitImages`, which draws a unit's image each time."""

    @property
    def shape(self) -> tuple[int, ...]:
        """How many units, then the shape of what is stored of one."""

    def __len__(self) -> int:
        """How many units."""

    def __getitem__(self, chosen: list[int], /) -> Tensor:
        """One row for each chosen unit, on the model's device, floating."""


def unit_batches(units: int, *, steps: int, rate: float, coins: CoinSampler) -> Iterator[list[int]]:
    """Draw the units that take part, step by step.

    Args:
        units: How many there are.
        steps: How many batches.
        rate: Probability that a unit is in a batch, in (0, 1].
        coins: Draws (count, probability) as bool, shape (count,).

    Yields:
        Indices of units, ascending; a Poisson batch may be empty.
    """
    for _ in range(steps):
        yield np.flatnonzero(coins(units, rate)).tolist()


def rows_in_chunks(x: Inputs, chosen: Sequence[int]) -> Iterator[tuple[list[int], Tensor]]:
    """Index each chosen unit once, few at a time: inputs that are computed anew may be large.

    Args:
        x: Inputs by unit.
        chosen: Indices of units.

    Yields:
        Units, in the order of `chosen`, and their rows: up to `UNITS_AT_ONCE`, and 128 MiB as float64.
    """
    at_once = min(UNITS_AT_ONCE, max(1, _BYTES_AT_ONCE // (_FLOAT64_BYTES * max(1, math.prod(x.shape[1:])))))
    for start in range(0, len(chosen), at_once):
        part = list(chosen[start : start + at_once])
        yield part, x[part]
