"""What a round releases of this hospital's data, as integers on the public grid: noisy, in either mode.

`local`: this hospital's own full noise, then its local steps, weighting and rounding as post-processing. `distributed`:
its clipped sum with a share of the noise (`client.shared_noise`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from client.accountant import GRID_BITS, PrivacyEvent
from client.dpsgd import Randomness
from client.encode import weigh
from client.grid_optimizer import to_noise_grid
from client.noise_grid import sensitivity_steps
from client.noise_multipliers import NoiseMultipliers, Released, noise_multipliers, planned_events
from client.room import check_room
from client.shared_noise import noise_share
from client.state import RunState
from common.errors import LocalProtocolError
from common.grid import grid_of
from common.plan import Plan
from common.roster import Hospital

Number = TypeVar("Number", np.int64, np.float64)


class Learning(Protocol):
    """What a round needs of data and model; see `client.learner`."""

    initial: NDArray[np.float64]
    training_units: int
    held_out_units: int
    held_out_rule: str
    randomness: Randomness

    def train(
        self, parameters: NDArray[np.float64], *, feature_mean: NDArray[np.float64], sigma: float
    ) -> NDArray[np.float64]:
        """One round of DP-SGD; the parameter difference, float64, shape (d,)."""

    def gradient_total(
        self, parameters: NDArray[np.float64], *, feature_mean: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """Exact sum of clipped gradients over one batch, in steps of C*2^-44, int64, shape (d,); nothing is noisy."""

    def feature_total(self) -> NDArray[np.int64]:
        """Exact sum of all units' features, each of norm 1 at most, in steps of 2^-44, int64, shape (k,)."""

    def confusion(self, parameters: NDArray[np.float64], *, feature_mean: NDArray[np.float64]) -> NDArray[np.int64]:
        """Counts on held-out units, true class by predicted class, shape (classes, classes)."""


@dataclass(frozen=True, slots=True)
class Mechanism:
    """A hospital's noisy contributions under one plan.

    `noise` is the standard deviation that is accounted for, in units of the sensitivity; in mode `distributed` it is
    that of all the shares that a sum holds at least.
    """

    plan: Plan
    hospital: Hospital
    learner: Learning
    noise: NoiseMultipliers

    def event(self, kind: Released) -> PrivacyEvent:
        """What a round of that kind costs: what is charged, and what the noise of the release is scaled by.

        Raises:
            LocalProtocolError: If the plan has no such round.
        """
        event = planned_events(self.plan, self.noise).get(kind)
        if event is None:
            raise LocalProtocolError("statistics are asked for under a plan that has none; refuse it")
        return event

    def release(self, kind: Released, state: RunState) -> NDArray[np.int64]:
        """Train one round from a model, or take the mean of the features.

        Args:
            kind: What the round is.
            state: The model before it.

        Returns:
            Integers on the grid, shape (d,), int64: nothing that is done with them costs more privacy.
        """
        if self.plan.privacy.mode == "distributed":
            return self._release_share(kind, state)
        return weigh(self._update(kind, state), declared_size=self.hospital.declared_units, grid=grid_of(self.plan))

    def _release_share(self, kind: Released, state: RunState) -> NDArray[np.int64]:
        share, noise = noise_share(self.plan, self.hospital, kind), self.learner.randomness.noise
        if kind == "train":
            total = self.learner.gradient_total(state.optimiser.parameters, feature_mean=state.feature_mean)
            return share.add(total, sigma=self.event(kind).sigma, noise=noise)
        # Features of norm 1 in steps of 2^-44 are vectors of norm C in steps of C*2^-44: the same bound on the sum.
        return self._padded(share.add(self.learner.feature_total(), sigma=self.event(kind).sigma, noise=noise))

    def _update(self, kind: Released, state: RunState) -> NDArray[np.float64]:
        sigma = self.event(kind).sigma
        if kind == "train":
            return self.learner.train(state.optimiser.parameters, feature_mean=state.feature_mean, sigma=sigma)
        total, units = self.learner.feature_total(), self.hospital.declared_units
        noise = self.learner.randomness.noise(total.size, sigma * sensitivity_steps(total.size, units))
        noisy = to_noise_grid(total) + noise
        # A feature vector travels with the norm of a clipped gradient: one bound holds for all rounds.
        return self._padded(noisy.astype(np.float64) * (self.plan.privacy.clip * 2.0**-GRID_BITS / units))

    def _padded(self, values: NDArray[Number]) -> NDArray[Number]:
        whole = np.zeros(self.plan.agreed.trainable_parameters, dtype=values.dtype)
        whole[: values.size] = values
        return whole


def plan_mechanism(plan: Plan, hospital: Hospital, learner: Learning) -> Mechanism:
    """The mechanism of a hospital under an agreed plan.

    Raises:
        PlanError: If no noise fits the budget, or the grid.
    """
    check_room(plan)
    return Mechanism(plan, hospital, learner, noise_multipliers(plan, hospital))
