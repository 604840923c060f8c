"""Batches of units: all of them, or each with one probability, drawn by the CSPRNG and not by torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

CoinSampler = Callable[[int, float], NDArray[np.bool_]]


class Inputs(Protocol):
    """Inputs by unit: a tensor, or `client.unit_images.UnitImages`, which draws a unit's image each time."""

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
