"""The grids of clipped sums and of their noise: their steps, and how far one unit moves a sum, in such steps.

A module of its own, without torch: what a plan asks for is told and checked by commands that train nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from client.accountant import GRID_BITS

FINEST_BITS: Final = 44
"""Sums are in units of C*2^-44."""
NoiseSampler = Callable[[int, float], NDArray[np.int64]]


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
