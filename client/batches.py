"""Batches of units: all of them, or each with one probability, drawn by the CSPRNG and not by torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

CoinSampler = Callable[[int, float], NDArray[np.bool_]]


class Inputs(Protocol):
    """Inputs by unit: a tensor, or `client.unit_images.UnitImages`, which draws a unit's image each time."""

    def __len__(self) -> int:
        """How many units."""

    def __getitem__(self, chosen: list[int], /) -> Tensor:
        """One row for each chosen unit, on the model's device, floating."""


class Units(Dataset[tuple[Tensor, Tensor]]):
    """Inputs and labels by unit, fetched as whole batches."""

    def __init__(self, x: Inputs, y: Tensor) -> None:
        self._x, self._y = x, y

    def __len__(self) -> int:
        return len(self._y)

    def __getitems__(self, chosen: list[int]) -> tuple[Tensor, Tensor]:
        return self._x[chosen], self._y[chosen]


class _Batches(Sampler[list[int]]):
    """Indices of the units that take part, step by step."""

    def __init__(self, units: int, *, steps: int, rate: float, coins: CoinSampler) -> None:
        self._units, self._steps, self._rate, self._coins = units, steps, rate, coins

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(self._steps):
            yield np.flatnonzero(self._coins(self._units, self._rate)).tolist()


def unit_loader(units: Units, *, steps: int, rate: float, coins: CoinSampler) -> DataLoader[tuple[Tensor, Tensor]]:
    """One batch per step, each a pair (inputs, labels); a Poisson batch may be empty.

    Args:
        units: The hospital's training units.
        steps: How many batches.
        rate: Probability that a unit is in a batch, in (0, 1].
        coins: Draws (count, probability) as bool, shape (count,).
    """
    return DataLoader(
        units, batch_sampler=_Batches(len(units), steps=steps, rate=rate, coins=coins), collate_fn=_as_fetched
    )


def _as_fetched(batch: Any) -> Any:  # noqa: ANN401 -- torch's type of a collate function
    return batch
