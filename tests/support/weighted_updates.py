"""A hospital's weighted update and its counts as integers on the grid, as mode `local` uploads them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from client.encode import encode_steps, weigh
from common.grid import Grid


def encode_update(
    update: NDArray[np.float64], *, declared_size: int, slots: NDArray[np.int64], grid: Grid
) -> NDArray[np.int64]:
    """Weight an update, round it and lay it out with the weight slot and the metric slots."""
    steps = weigh(update, declared_size=declared_size, grid=grid)
    return encode_steps(steps, declared_size=declared_size, slots=slots, grid=grid)
