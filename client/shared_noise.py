"""Mode `distributed`: a hospital's sum of clipped gradients on the grid of the encryption, with its share of the noise.

Order of operations: clip each unit, sum exactly, project the sum on the ball of radius n*C, round to the public grid,
add the discrete Gaussian share on that same grid. Nothing is clipped, scaled or rounded after the noise: all hospitals'
shares must add up to the noise that was accounted for.

How far one unit more or less moves the rounded sum (L2): its own clipped gradient, C; what rounding to C*2^-44 and the
other units' float64 roundings move, as in `client.grid_optimizer.sensitivity_steps`; float64's rounding here, below
n*C*2^-46; and the rounding of two sums to the grid, half a step in each of d numbers for each. The projection moves two
sums no further apart.

References:
    Kairouz, Liu, Steinke, 2021, arXiv:2102.06387: sums of discrete Gaussians; `client.accountant` has the bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.grid_optimizer import NoiseSampler, other_units_shift
from client.head_sum import FINEST_BITS
from client.noise_multipliers import noise_multipliers
from common.distributed import grid_of, shares_of
from common.errors import PlanError
from common.plan import Plan
from common.roster import Hospital

# A share's standard deviation in grid steps: below it a sum of shares is no discrete Gaussian to 1e-60.
LEAST_SHARE_STEPS = 4.0


@dataclass(frozen=True, slots=True)
class NoiseShare:
    """One hospital's share of a step's noise.

    Attributes:
        parameters: Length d of the sum, >= 1.
        units: The hospital's declared number of units n, >= 1.
        clip: L2 bound C on one unit's gradient, > 0.
        step: The grid's step in gradient units, > 0.
        shares: m, how many shares make up the noise that is accounted for, >= 1.
    """

    parameters: int
    units: int
    clip: float
    step: float
    shares: int

    @property
    def sensitivity(self) -> float:
        """How far one unit more or less moves the rounded sum, in gradient units (see the module)."""
        slack = other_units_shift(self.parameters, self.units) + self.units * 2.0**-46
        return self.clip * (1 + slack) + math.sqrt(self.parameters) * self.step

    def deviation(self, sigma: float) -> float:
        """Standard deviation of the share in grid steps, for a noise multiplier of the whole noise.

        Raises:
            PlanError: If it is below four steps.
        """
        deviation = sigma * self.sensitivity / self.step / math.sqrt(self.shares)
        if deviation < LEAST_SHARE_STEPS:
            raise PlanError(
                f"privacy.mode: 'distributed' with a noise of {deviation:.2g} grid steps per hospital; at least "
                f"{LEAST_SHARE_STEPS:g} are needed; lower privacy.epsilon or encryption.update_norm_bound"
            )
        return deviation

    def bound(self, sigma: float) -> float:
        """A bound S on the noisy sum that the noise passes with a probability below 1e-17, in gradient units."""
        root = math.sqrt(self.parameters)
        return self.units * self.clip + root * self.step / 2 + self.deviation(sigma) * self.step * (root + 9)

    def add(self, total: NDArray[np.int64], *, sigma: float, noise: NoiseSampler) -> NDArray[np.int64]:
        """Bring an exact clipped sum to the grid and add the share.

        Args:
            total: Sum of clipped gradients in steps of C*2^-44, shape (d,), int64.
            sigma: The noise multiplier that was charged.
            noise: Draws (count, standard deviation in grid steps), int64.

        Returns:
            Integers on the grid, shape (d,), int64.
        """
        whole = total.astype(np.float64) * (self.clip * 2.0**-FINEST_BITS)
        norm, radius = float(np.sqrt(np.sum(whole * whole))), self.units * self.clip
        if norm > radius:
            whole *= radius / norm
        steps = np.rint(whole / self.step).astype(np.int64)
        return steps + noise(total.size, self.deviation(sigma)).reshape(total.shape)


def noise_share(plan: Plan, hospital: Hospital) -> NoiseShare:
    """The share of one hospital of an agreed plan in a training step.

    Raises:
        PlanError: If the plan is a template, or unsound.
    """
    return NoiseShare(
        parameters=plan.agreed.trainable_parameters,
        units=hospital.declared_units,
        clip=plan.privacy.clip,
        step=grid_of(plan).step,
        shares=shares_of(plan),
    )


def check_room(plan: Plan) -> None:
    """Refuse a plan whose modulus has no room for the updates, or in mode `distributed` for the noise.

    Raises:
        PlanError: If preset and roster do not fit, or `encryption.update_norm_bound` is too small.
    """
    grid_of(plan)
    if plan.privacy.mode == "local":
        return
    # No hospital has a budget of its own in this mode.
    largest = noise_multipliers(plan, plan.roster[0]).largest
    needed = max(noise_share(plan, hospital).bound(largest) for hospital in plan.roster)
    if plan.update_norm_bound < needed:
        raise PlanError(
            f"encryption.update_norm_bound: seen {plan.update_norm_bound:g} with privacy.mode 'distributed'; at least "
            f"{needed:.4g} is allowed, since nothing may be cut off after the noise; raise it, or provision with 'auto'"
        )
