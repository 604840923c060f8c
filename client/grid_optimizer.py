"""An Opacus optimizer whose clipped sum is exact and whose noise no seed can predict."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.optimizers import DPOptimizer

from client.accountant import GRID_BITS
from client.head_sum import FINEST_BITS
from common.errors import LocalProtocolError

NoiseSampler = Callable[[int, float], NDArray[np.int64]]


# Units are summed on a grid this much finer than the noise's: what tips over in its roundings is next to nothing.
_FINER_BITS = FINEST_BITS - GRID_BITS
# Up to here a sum of units on the finer grid fits into 63 bits, whatever they hold.
MOST_UNITS = 1 << 18


Steps = TypeVar("Steps", torch.Tensor, NDArray[np.int64])


def to_noise_grid(total: Steps) -> Steps:
    """An exact sum in steps of C*2^-44, rounded to steps of C*2^-20."""
    return (total + (1 << (_FINER_BITS - 1))) >> _FINER_BITS


def other_units_shift(parameters: int, units: int) -> float:
    """What roundings may move beside a unit's own clipped gradient and the rounding to a grid, in units of C.

    See `sensitivity_steps`, which explains it.
    """
    return max(1.0, units * math.sqrt(parameters) * 2.0**-23) * 2.0**-GRID_BITS


def sensitivity_steps(parameters: int, units: int) -> float:
    """How far one unit more or less moves the sum that noise is added to, in grid steps of C*2^-20, L2 norm.

    Args:
        parameters: Number of trainable parameters d, >= 1.
        units: Declared number of units n, public, >= 1.

    Returns:
        2^20 + sqrt(d) + max(1, n sqrt(d) 2^-23): the unit's own clipped gradient; the rounding of two sums to the grid,
        half a step in each parameter for each; and what the other units move. Of `HeadSum` that is nothing, and of
        `OneByOneSum` nothing as long as a pass over one unit gives the same bits each time. Of `HookedSum` the
        gradients are functions of their own data but for float64's rounding, which a library may do differently for a
        batch of another size. Where it moves each by rho*C and their roundings to C*2^-44 then tip over, all move by
        n (2^20 rho + sqrt(d) 2^-24) steps: covered for rho up to sqrt(d) 2^-44, 4e-12 at d = 4608, and more where n is
        small. Also for twice the declared units while rho is a tenth of that. The last term also pays for what is
        below: the error of the clip factor, 1e-15; a gradient's own rounding to C*2^-44, sqrt(d) 2^-25 steps:
        less than a step up to 2^40 parameters.
    """
    return 2.0**GRID_BITS * (1 + other_units_shift(parameters, units)) + math.sqrt(parameters)


class GridOptimizer(DPOptimizer):  # type: ignore[misc]
    """Opacus' optimizer with an exact clipped sum, discrete noise on a grid and the declared divisor.

    The clipped sum is one of integers (`client.clipped_sum`): exact in any order. It is rounded to the noise's grid,
    C*2^-20, and the noise is scaled to `sensitivity_steps`.
    """

    def __init__(  # noqa: PLR0913 -- keyword-only
        self,
        optimizer: torch.optim.Optimizer,
        *,
        sigma: float,
        clip: float,
        rate: float,
        declared_units: int,
        noise: NoiseSampler,
    ) -> None:
        super().__init__(
            optimizer, noise_multiplier=sigma, max_grad_norm=clip, expected_batch_size=None, loss_reduction="sum"
        )
        self._noise_sd = sigma * sensitivity_steps(sum(p.numel() for p in self.params), declared_units)
        self._unit = clip * 2.0**-GRID_BITS / (rate * declared_units)
        self._noise = noise

    def step_on(self, total: NDArray[np.int64]) -> None:
        """Add the noise to a clipped sum and step.

        Args:
            total: Of `client.clipped_sum.ClippedSum`, shape (parameters,), in units of C*2^-44.
        """
        start = 0
        for p in self.params:
            p.summed_grad = torch.from_numpy(total[start : start + p.numel()]).to(p.device)
            start += p.numel()
        self.add_noise()
        self.original_optimizer.step()
        for p in self.params:
            p.grad = p.summed_grad = None

    def clip_and_accumulate(self) -> None:
        """Refuse: what Opacus sums here are floats, and their noise would not be the one that is accounted for.

        Raises:
            LocalProtocolError: Always; its `step` calls this.
        """
        raise LocalProtocolError("Opacus' own step is asked for; only step_on, with an exact sum, is accounted for")

    def add_noise(self) -> None:
        """Round to grid steps and add the noise; only then return to gradient units, divided by the declared size."""
        for p in self.params:
            steps = to_noise_grid(p.summed_grad)
            steps += torch.from_numpy(self._noise(p.numel(), self._noise_sd)).to(p.device)
            p.grad = steps.double().mul_(self._unit).to(p.dtype).view_as(p)
