"""Mode `distributed`: a hospital's sum of clipped gradients on the grid of the encryption, with its share of the noise.

Order of operations: clip each unit, sum exactly, project the sum on the ball of radius n*C, round to the public grid,
add the discrete Gaussian share on that same grid. Nothing is clipped, scaled or rounded to a coarser grid after the
noise: all hospitals' shares must add up to the noise that was accounted for.

How far one unit more or less moves the rounded sum (L2): its own clipped gradient, C; what rounding to C*2^-44 and the
other units' float64 roundings move, as in `client.noise_grid.sensitivity_steps`; float64's rounding here, below
n*C*2^-46; and the rounding of two sums to the grid, half a step in each of d numbers for each. The projection moves two
sums no further apart. Some of it grows with n, and a unit may be of any hospital, while the noise is of all of them: so
every share is scaled to what a unit of the largest hospital moves.

What comes after the noise: SEAL rounds the coefficients of the polynomial that a hospital encodes, and float64 the
numbers on the way there. Rounding the decrypted sum to the grid takes all of that away, so no model holds it. Whoever
has the CKKS key and keeps the raw decryption instead, as a colluding hospital can, sees the sum of these roundings too.
It tells nothing of a unit as long as the fractions that are rounded away do not depend on the data:

* Encoding is linear: a coefficient is sum_j L_j x_j over a ciphertext's integers x, so its fraction is that of
  sum_j L_j s_j, which is of the data, plus that of sum_j L_j z_j, which is of the share.
* Given the sum of the m honest shares, which is accounted for, one share is a discrete Gaussian still, of variance
  sigma^2 (1 - 1/m) in grid steps. The k-th Fourier coefficient of its fraction has a size of at most
  exp(-2 pi^2 sigma^2 (1 - 1/m) D_k) but for a factor next to 1 (Poisson summation), where D_k is the sum over j of the
  squared distances of k L_j to the nearest integers. Where D_k is not zero it is of the order of d/12; where it is
  zero, k L_j s_j is an integer too. Both ways adding the data's fraction changes nothing, up to that term.
* With sigma of four steps and D_k of 1 it is exp(-2 pi^2 sigma^2 / 2) = 1e-68; a plan has a sigma of about 2^20 steps.
* The fractions of the m shares add up to that of their sum, so the sum of the roundings is a function of the sum of the
  shares and of m - 1 independent fractions, which are spread in this way.

This is shown for each coefficient by itself, and tested; that it holds for all coefficients of a polynomial jointly
rests on L being generic, which is no proof.

References:
    Kairouz, Liu, Steinke, 2021, arXiv:2102.06387: sums of discrete Gaussians; `client.accountant` has the bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.noise_grid import FINEST_BITS, NoiseSampler, other_units_shift
from client.noise_multipliers import Released
from common.distributed import shares_of
from common.grid import grid_of
from common.plan import Plan
from common.roster import Hospital


@dataclass(frozen=True, slots=True)
class NoiseShare:
    """One hospital's share of the noise of one sum.

    Attributes:
        parameters: Length d of the sum, >= 1.
        units: The hospital's declared number of units n, >= 1: its sum is projected on the ball of radius n*C.
        largest_units: The largest declared number in the roster, >= n: all shares are scaled to it.
        clip: L2 bound C on one unit's gradient, > 0.
        step: The grid's step in gradient units, > 0.
        shares: m, how many shares make up the noise that is accounted for, >= 1.
    """

    parameters: int
    units: int
    largest_units: int
    clip: float
    step: float
    shares: int

    @property
    def sensitivity(self) -> float:
        """How far one unit more or less, of any hospital, moves that hospital's rounded sum, in gradient units."""
        slack = other_units_shift(self.parameters, self.largest_units) + self.largest_units * 2.0**-46
        return self.clip * (1 + slack) + math.sqrt(self.parameters) * self.step

    def deviation(self, sigma: float) -> float:
        """Standard deviation of the share in grid steps, for a noise multiplier of the whole noise."""
        return sigma * self.sensitivity / self.step / math.sqrt(self.shares)

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


def noise_share(plan: Plan, hospital: Hospital, kind: Released) -> NoiseShare:
    """The share of one hospital of an agreed plan in a round: of all parameters, or of the features' sum.

    Raises:
        PlanError: If the plan is a template, or unsound.
    """
    return NoiseShare(
        parameters=plan.statistics if kind == "stat" else plan.agreed.trainable_parameters,
        units=hospital.declared_units,
        largest_units=max(member.declared_units for member in plan.roster),
        clip=plan.privacy.clip,
        step=grid_of(plan).step,
        shares=shares_of(plan),
    )
