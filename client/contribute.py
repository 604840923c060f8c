"""Makes a round's integers: charge the ledger, train, round to the public grid."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.accountant import PrivacyEvent
from client.encode import encode_steps
from client.evaluate import noisy_counts
from client.ledger import Ledger
from client.ledger_entry import Charge
from client.mechanism import Learning, Mechanism
from client.policy import counts_leave, fit_slots
from client.state import RunState
from client.storage import RunStorage
from common.distributed import shares_of
from common.errors import BudgetExceeded, LedgerError
from common.grid import Grid, grid_of
from common.messages import Request
from common.plan import Plan
from common.plan_content import RoundKind
from common.site_config import SitePrivacy

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Contributor:
    """A hospital's means to make updates, fixed for the life of the site service.

    `mechanism` makes what is released of training units, `counts_sigma` is the noise of `final-dp` counts in units of
    one count, `units_digest` the keyed digest of the set of units that the ledger records.
    """

    plan: Plan
    hospital: str
    policy: SitePrivacy
    learner: Learning
    ledger: Ledger
    mechanism: Mechanism
    counts_sigma: float
    units_digest: str

    @property
    def grid(self) -> Grid:
        """The plan's grid."""
        return grid_of(self.plan)

    def spent(self) -> float:
        """Epsilon that this source has spent, at the plan's delta for this hospital."""
        _, delta = self.plan.budget(self.plan.roster[self.plan.agreed.position(self.hospital)])
        return self.ledger.spent(delta)

    def check_budget(self, run: str, round_number: int) -> None:
        """Raise BudgetExceeded if the cap leaves no room for a round; the closing `eval` can go without a charge."""
        kind = self.plan.kind_of(round_number)
        if kind != "eval":
            self.ledger.check(self._charge(kind, run, round_number=round_number))

    def make_integers(self, request: Request, state: RunState, *, storage: RunStorage) -> NDArray[np.int64]:
        """Charge, then make what the round's kind in the plan asks for, then lay it out on the grid.

        A `train` round takes the noisy gradients of training units, `stat` the noisy sum of their features, `eval` no
        more than counts of held-out units, as this site's policy allows.

        Args:
            request: A `stat`, `train` or `eval` request that was verified.
            state: The model before the round.
            storage: Where the round's start is noted before the charge.

        Returns:
            Integers on the grid, shape (chunks * N,). Without a charge for its counts a closing `eval` round holds
            zeros, which say nothing: the others need this hospital's weight to close the run.

        Raises:
            BudgetExceeded: If the charge of a `stat` or `train` round would pass the site's cap; nothing was read
                then.
            LedgerError: If that charge stands already and this site cannot know what it released under it, or the
                ledger cannot be written. A charge for counts that is refused raises neither: zeros are sent.
            SiteStorageError: If the disk refuses; nothing was read then.

        Guarantees:
            At most one set of integers per charge ever leaves: the start is on disk before the charge, the integers
            are on disk before they are encrypted. A charge without either note means that notes were lost.
        """
        plan, kind = self.plan, self.plan.kind_of(request.round)
        steps = np.zeros(plan.agreed.trainable_parameters, dtype=np.int64)
        counts = bool(plan.metric_slots) and counts_leave(self.policy, kind)
        if kind != "eval":
            self._charge_once(kind, request, storage=storage)
            steps = self.mechanism.release(kind, state)
        elif counts and self.policy.metrics == "final-dp":
            counts = self._may_count(request, storage)
        return encode_steps(
            steps,
            declared_size=self.mechanism.hospital.declared_units,
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

    def _charge_once(self, kind: RoundKind, request: Request, *, storage: RunStorage) -> None:
        number = request.round
        standing = self.ledger.is_charged(run=request.run, round_number=number, kind=kind)
        if standing and not storage.was_started(number):
            raise LedgerError(
                f"round {number} of this run is charged already and its notes are gone; sitting the round out, "
                "since a second update under one charge could leave"
            )
        storage.mark_started(number)
        self.ledger.charge(self._charge(kind, request.run, round_number=number))

    def _charge(self, kind: RoundKind, run: str, *, round_number: int) -> Charge:
        """What a round costs; counts carry this hospital's own full noise in either mode."""
        is_count = kind == "eval"
        return Charge(
            run=run,
            round_number=round_number,
            kind=kind,
            plan_hash=self.plan.digest,
            units_digest=self.units_digest,
            held_out_rule=self.learner.held_out_rule,
            event=self._event(kind),
            clip=1.0 if is_count else self.plan.privacy.clip,
            mode="local" if is_count else self.plan.privacy.mode,
            shares=1 if is_count else shares_of(self.plan),
        )

    def _event(self, kind: RoundKind) -> PrivacyEvent:
        if kind == "eval":
            return PrivacyEvent(q=1.0, sigma=self.counts_sigma, steps=1)
        return self.mechanism.event(kind)

    def _slots(self, state: RunState) -> NDArray[np.int64]:
        counts = self.learner.confusion(state.optimiser.parameters, feature_mean=state.feature_mean)
        if self.policy.metrics == "final-dp":
            counts = noisy_counts(counts, sigma=self.counts_sigma)
        return fit_slots(counts, plan=self.plan, hospital=self.hospital)
