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
from client.policy import counts_leave, fit_slots
from client.state import RunState
from client.storage import RunStorage
from common.errors import LedgerError
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

    def make_integers(self, request: Request, state: RunState, *, storage: RunStorage) -> NDArray[np.int64]:
        """Charge, then train or count, then encode.

        Args:
            request: A `train` or `eval` request that was verified.
            state: The model before the round.
            storage: Where the round's start is noted before the charge.

        Raises:
            BudgetExceeded: If the charge would pass the site's cap; nothing was read then.
            LedgerError: If the charge stands already and this site cannot know what it released under it.
            SiteStorageError: If the disk refuses; nothing was read then.

        Guarantees:
            At most one set of integers per charge ever leaves: the start is on disk before the charge, the integers
            are on disk before they are encrypted. A charge without either note means that notes were lost.
        """
        plan, number = self.plan, request.round
        kind: Literal["train", "eval"] = "train" if request.kind == "train" else "eval"
        charges = kind == "train" or (self.policy.metrics == "final-dp" and bool(self.plan.metric_slots))
        if charges:
            standing = self.ledger.is_charged(run=request.run, round_number=number, kind=kind)
            if standing and not storage.was_started(number):
                raise LedgerError(
                    f"round {number} of this run is charged already and its notes are gone; sitting the round out, "
                    "since a second update under one charge could leave"
                )
            storage.mark_started(number)
            self._charge(kind, request)
        update = np.zeros(plan.agreed.trainable_parameters)
        if kind == "train":
            update = self.learner.train(state.optimiser.parameters, sigma=self.sigma)
        member = plan.roster[plan.agreed.position(self.hospital)]
        return encode_update(
            update,
            declared_size=member.declared_units,
            slots=self._slots(request, state),
            grid=self.grid,
        )

    def _charge(self, kind: Literal["train", "eval"], request: Request) -> None:
        training = self.plan.training
        if kind == "train":
            event = PrivacyEvent(q=training.sample_rate, sigma=self.sigma, steps=training.local_steps)
        else:
            event = PrivacyEvent(q=1.0, sigma=self.counts_sigma, steps=1)
        self.ledger.charge(
            kind=kind,
            run=request.run,
            round_number=request.round,
            plan_hash=self.plan.digest,
            event=event,
            clip=self.plan.privacy.clip if kind == "train" else 1.0,
            units_digest=self.units_digest,
        )

    def _slots(self, request: Request, state: RunState) -> NDArray[np.int64]:
        if not self.plan.metric_slots or not counts_leave(self.policy, request.kind):
            return np.zeros(self.plan.metric_slots, dtype=np.int64)
        counts = self.learner.confusion(state.optimiser.parameters)
        if self.policy.metrics == "final-dp":
            counts = noisy_counts(counts, sigma=self.counts_sigma)
        return fit_slots(counts, plan=self.plan, hospital=self.hospital)
