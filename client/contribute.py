"""Makes a round's integers: charge the ledger, train, round to the public grid."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from client.accountant import PrivacyEvent
from client.encode import encode_update
from client.evaluate import noisy_counts
from client.ledger import Ledger
from client.ledger_entry import Charge
from client.policy import counts_leave, fit_slots
from client.state import RunState
from client.storage import RunStorage
from common.errors import BudgetExceeded, LedgerError
from common.grid import Grid
from common.messages import Request
from common.plan import Plan
from common.site_config import SitePrivacy

log = logging.getLogger(__name__)


class Learning(Protocol):
    """What a round needs of data and model; see `client.learner`."""

    initial: NDArray[np.float64]
    training_units: int
    held_out_units: int
    held_out_rule: str

    def event(self, sigma: float) -> PrivacyEvent:
        """What one call of `train` costs."""

    def train(self, parameters: NDArray[np.float64], *, sigma: float) -> NDArray[np.float64]:
        """One round of DP-SGD; the parameter difference, float64, shape (d,)."""

    def confusion(self, parameters: NDArray[np.float64]) -> NDArray[np.int64]:
        """Counts on held-out units, true class by predicted class, shape (classes, classes)."""


@dataclass(frozen=True, slots=True)
class Contributor:
    """A hospital's means to make updates, fixed for the life of the site service.

    `sigma` is the noise multiplier of training, `counts_sigma` the noise of `final-dp` counts in units of one count,
    `units_digest` the keyed digest of the set of training units that the ledger records.
    """

    plan: Plan
    hospital: str
    policy: SitePrivacy
    learner: Learning
    ledger: Ledger
    grid: Grid
    sigma: float
    counts_sigma: float
    units_digest: str

    def spent(self) -> float:
        """Epsilon that this source has spent, at the plan's delta for this hospital."""
        _, delta = self.plan.budget(self.plan.roster[self.plan.agreed.position(self.hospital)])
        return self.ledger.spent(delta)

    def check_budget(self, run: str, round_number: int) -> None:
        """Raise BudgetExceeded if the cap leaves no room for a round; the closing `eval` can go without a charge."""
        if round_number > self.plan.training.rounds:
            return
        self.ledger.check(
            Charge(
                run=run,
                round_number=round_number,
                kind="train",
                plan_hash=self.plan.digest,
                units_digest=self.units_digest,
                held_out_rule=self.learner.held_out_rule,
                event=self.learner.event(self.sigma),
                clip=self.plan.privacy.clip,
                mode="local",
            )
        )

    def make_integers(self, request: Request, state: RunState, *, storage: RunStorage) -> NDArray[np.int64]:
        """Charge, then train or count, then encode.

        Args:
            request: A `train` or `eval` request that was verified.
            state: The model before the round.
            storage: Where the round's start is noted before the charge.

        Returns:
            Integers on the grid, shape (chunks * N,). Without a charge for its counts a closing `eval` round holds
            zeros, which say nothing: the others need this hospital's weight to close the run.

        Raises:
            BudgetExceeded: If the charge for training would pass the site's cap; nothing was read then.
            LedgerError: If that charge stands already and this site cannot know what it released under it, or the
                ledger cannot be written.
            SiteStorageError: If the disk refuses; nothing was read then.

        Guarantees:
            At most one set of integers per charge ever leaves: the start is on disk before the charge, the integers
            are on disk before they are encrypted. A charge without either note means that notes were lost.
        """
        plan = self.plan
        update = np.zeros(plan.agreed.trainable_parameters)
        counts = bool(plan.metric_slots) and counts_leave(self.policy, request.kind)
        if request.kind == "train":
            self._charge_once("train", request, storage=storage)
            update = self.learner.train(state.optimiser.parameters, sigma=self.sigma)
        elif counts and self.policy.metrics == "final-dp":
            counts = self._may_count(request, storage)
        member = plan.roster[plan.agreed.position(self.hospital)]
        return encode_update(
            update,
            declared_size=member.declared_units,
            slots=self._slots(state) if counts else np.zeros(plan.metric_slots, dtype=np.int64),
            grid=self.grid,
        )

    def _may_count(self, request: Request, storage: RunStorage) -> bool:
        try:
            self._charge_once("eval", request, storage=storage)
        except (BudgetExceeded, LedgerError) as refusal:
            log.warning("sending no counts of the final model: %s", refusal)
            return False
        return True

    def _charge_once(self, kind: Literal["train", "eval"], request: Request, *, storage: RunStorage) -> None:
        number = request.round
        standing = self.ledger.is_charged(run=request.run, round_number=number, kind=kind)
        if standing and not storage.was_started(number):
            raise LedgerError(
                f"round {number} of this run is charged already and its notes are gone; sitting the round out, "
                "since a second update under one charge could leave"
            )
        storage.mark_started(number)
        # The learner says what its training costs: what is charged and what is done come from one place.
        counts = PrivacyEvent(q=1.0, sigma=self.counts_sigma, steps=1)
        event = self.learner.event(self.sigma) if kind == "train" else counts
        self.ledger.charge(
            kind=kind,
            run=request.run,
            round_number=request.round,
            plan_hash=self.plan.digest,
            event=event,
            clip=self.plan.privacy.clip if kind == "train" else 1.0,
            units_digest=self.units_digest,
            held_out_rule=self.learner.held_out_rule,
        )

    def _slots(self, state: RunState) -> NDArray[np.int64]:
        counts = self.learner.confusion(state.optimiser.parameters)
        if self.policy.metrics == "final-dp":
            counts = noisy_counts(counts, sigma=self.counts_sigma)
        return fit_slots(counts, plan=self.plan, hospital=self.hospital)
