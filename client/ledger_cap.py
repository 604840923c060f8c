"""What a ledger may spend, and what it has spent."""

from __future__ import annotations

import math
from dataclasses import dataclass

from client.accountant import LEAST_DELTA
from common.errors import LedgerError


@dataclass(frozen=True, slots=True)
class Cap:
    """What no unit of the source may ever pass.

    Attributes:
        epsilon: > 0.
        delta: In [1e-12, 1), less than one over the number of units (`check_delta`).

    Raises:
        LedgerError: If a value is out of its range.
    """

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        if not (0 < self.epsilon < math.inf and LEAST_DELTA <= self.delta < 1):
            raise LedgerError(
                f"the cap is epsilon {self.epsilon:g}, delta {self.delta:g}; epsilon > 0 and delta from "
                f"{LEAST_DELTA:g} to less than 1 are allowed; correct privacy.cap_epsilon and privacy.cap_delta"
            )


@dataclass(frozen=True, slots=True)
class Spending:
    """Epsilon spent at the cap's delta, per account; the accounts cover different units."""

    train: float
    eval: float
    delta: float

    @property
    def epsilon(self) -> float:
        """The larger one: what is reported."""
        return max(self.train, self.eval)
