"""What a ledger may spend, what it has spent, and what one charge more would cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from client.accountant import LEAST_DELTA, epsilon_of
from client.ledger_entry import Charge, paying
from common.errors import BudgetExceeded, LedgerError

_CAP_SLACK = 1e-9


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
    """Epsilon spent at `delta`, per account; the accounts cover different units.

    Attributes:
        train: Of the training units, as the mode of each charge promises it.
        eval: Of the held-out units.
        train_alone: Of the training units if all other hospitals collude: a charge in shares of noise counts with one.
        eval_alone: The same of the held-out units.
        delta: At which all of them are stated.
    """

    train: float
    eval: float
    train_alone: float
    eval_alone: float
    delta: float

    @property
    def epsilon(self) -> float:
        """The larger one: what is reported."""
        return max(self.train, self.eval)

    @property
    def epsilon_alone(self) -> float:
        """The larger one if all other hospitals collude."""
        return max(self.train_alone, self.eval_alone)


def spending(charges: Sequence[Charge], delta: float) -> Spending:
    """Epsilon of both accounts over all charges of a ledger, at `delta`."""
    train, held_out = (epsilons(paying(charges, account), delta) for account in ("train", "eval"))
    return Spending(train=train[0], eval=held_out[0], train_alone=train[1], eval_alone=held_out[1], delta=delta)


def epsilons(charges: Sequence[Charge], delta: float) -> tuple[float, float]:
    """Epsilon of charges to one account at `delta`: as their modes promise it, and if all other hospitals collude."""
    promised = _promised(charges, delta)
    return promised, _alone(charges, delta, promised=promised)


def _promised(charges: Sequence[Charge], delta: float) -> float:
    return epsilon_of([charge.event for charge in charges], delta)


def _alone(charges: Sequence[Charge], delta: float, *, promised: float) -> float:
    if all(charge.shares == 1 for charge in charges):
        return promised
    # Pessimistic rounding is coarser for the one than for the other: less noise never protects more.
    return max(promised, epsilon_of([charge.event_alone for charge in charges], delta))


def epsilons_after(charges: Sequence[Charge], charge: Charge, *, cap: Cap, hospital: str) -> tuple[float, float]:
    """Epsilon of the account that pays, after one charge more: as promised, and if all other hospitals collude.

    Args:
        charges: All charges that stand.
        charge: The new one.
        cap: What the promised epsilon may not pass.
        hospital: Name in the message.

    Raises:
        BudgetExceeded: If it would.
    """
    spent, spent_alone = epsilons(paying(charges, charge.account), cap.delta)
    together = paying([*charges, charge], charge.account)
    promised = _promised(together, cap.delta)
    after = max(spent, promised)
    if not after <= cap.epsilon * (1 + _CAP_SLACK):
        raise BudgetExceeded(
            f"{hospital}: epsilon {spent:.3f} spent + {after - spent:.3f} for round {charge.round_number} > "
            f"cap {cap.epsilon:.3f}; stop here, or raise privacy.cap_epsilon in site.yaml"
        )
    # Only now: beyond the cap what a share leaves alone may be more than the accountant can count.
    return after, max(spent_alone, _alone(together, cap.delta, promised=promised), after)


def charges_left(charges: Sequence[Charge], charge: Charge, *, cap: Cap, at_most: int) -> int:
    """How many more charges like one fit under the cap.

    Args:
        charges: All charges that stand.
        charge: The one that is repeated.
        cap: What may not be passed.
        at_most: So many are looked for, >= 1.
    """

    def fit(count: int) -> bool:
        together = replace(charge, event=replace(charge.event, steps=charge.event.steps * count))
        try:
            epsilons_after(charges, together, cap=cap, hospital="")
        except BudgetExceeded:
            return False
        return True

    low, high = 0, 1
    while high <= at_most and fit(high):
        low, high = high, 2 * high
    high = min(high, at_most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fit(middle) else (low, middle)
    return low
