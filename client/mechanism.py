"""What a round releases of this hospital's data, as integers on the public grid: noisy, in either mode.

`local`: this hospital's own full noise, then its local steps, weighting and rounding as post-processing. `distributed`:
its clipped sum with a share of the noise (`client.shared_noise`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from client.accountant import GRID_BITS, PrivacyEvent
from client.encode import weigh
from client.grid_optimizer import NoiseSampler, sensitivity_steps, to_noise_grid
from client.noise import discrete_gaussian
from client.noise_multipliers import NoiseMultipliers, noise_multipliers
from client.shared_noise import check_room, noise_share
from client.state import RunState
from common.distributed import grid_of, shares_of
from common.errors import LocalProtocolError
from common.grid import Grid
from common.plan import Plan
from common.roster import Hospital

Released = Literal["stat", "train"]
Number = TypeVar("Number", np.int64, np.float64)


class Learning(Protocol):
    """What a round needs of data and model; see `client.learner`."""

    initial: NDArray[np.float64]
    training_units: int
    held_out_units: int
    held_out_rule: str

    def event(self, sigma: float) -> PrivacyEvent:
        """What one call of `train`, or one noisy `gradient_total`, costs."""

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
    that of the `shares` hospitals whose shares a sum holds at least.
    """

    plan: Plan
    hospital: Hospital
    learner: Learning
    grid: Grid
    noise: NoiseMultipliers
    shares: int
    sample: NoiseSampler = discrete_gaussian

    def event(self, kind: Released) -> PrivacyEvent:
        """What a round of that kind costs.

        Raises:
            LocalProtocolError: If the plan has no such round.
        """
        # The learner says what its training costs: what is charged and what is done come from one place.
        if kind == "train":
            return self.learner.event(self.noise.train)
        return PrivacyEvent(q=1.0, sigma=self._stat_sigma, steps=1)

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
        return weigh(self._update(kind, state), declared_size=self.hospital.declared_units, grid=self.grid)

    def _release_share(self, kind: Released, state: RunState) -> NDArray[np.int64]:
        share = noise_share(self.plan, self.hospital)
        if kind == "train":
            total = self.learner.gradient_total(state.optimiser.parameters, feature_mean=state.feature_mean)
            return share.add(total, sigma=self.noise.train, noise=self.sample)
        # Features of norm 1 in steps of 2^-44 are vectors of norm C in steps of C*2^-44: the same bound on the sum.
        features = self.learner.feature_total()
        noisy = replace(share, parameters=features.size).add(features, sigma=self._stat_sigma, noise=self.sample)
        return self._padded(noisy)

    def _update(self, kind: Released, state: RunState) -> NDArray[np.float64]:
        if kind == "train":
            parameters = state.optimiser.parameters
            return self.learner.train(parameters, feature_mean=state.feature_mean, sigma=self.noise.train)
        total, units = self.learner.feature_total(), self.hospital.declared_units
        deviation = self._stat_sigma * sensitivity_steps(total.size, units)
        noisy = to_noise_grid(total) + self.sample(total.size, deviation)
        # A feature vector travels with the norm of a clipped gradient: one bound holds for all rounds.
        return self._padded(noisy.astype(np.float64) * (self.plan.privacy.clip * 2.0**-GRID_BITS / units))

    def _padded(self, values: NDArray[Number]) -> NDArray[Number]:
        whole = np.zeros(self.plan.agreed.trainable_parameters, dtype=values.dtype)
        whole[: values.size] = values
        return whole

    @property
    def _stat_sigma(self) -> float:
        if self.noise.stat is None:
            raise LocalProtocolError("statistics are asked for under a plan that has none; refuse it")
        return self.noise.stat


def plan_mechanism(plan: Plan, hospital: Hospital, learner: Learning) -> Mechanism:
    """The mechanism of a hospital under an agreed plan.

    Raises:
        PlanError: If no noise fits the budget, or the grid.
    """
    check_room(plan)
    return Mechanism(plan, hospital, learner, grid_of(plan), noise_multipliers(plan, hospital), shares_of(plan))
