"""The server optimiser, run by every hospital after decryption.

All hospitals replay the same float64 element-wise operations on the same integers, without BLAS, so that their
models stay bit-identical.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.plan_settings import FedAvg, FedAvgM


@dataclass(frozen=True, slots=True)
class OptimiserState:
    """The trainable parameters and the optimiser's memory, both float64, shape (d,)."""

    parameters: NDArray[np.float64]
    velocity: NDArray[np.float64]


def apply_update(
    state: OptimiserState, mean_update: NDArray[np.float64], *, optimiser: FedAvg | FedAvgM
) -> OptimiserState:
    """Move the model by one round's weighted mean.

    Args:
        state: Before the round.
        mean_update: Weighted mean of the hospitals' parameter differences, float64, shape (d,).
        optimiser: As the plan says.

    References:
        FedAvg: McMahan et al., 2017, arXiv:1602.05629. FedAvgM: Hsu et al., 2019, arXiv:1909.06335.
    """
    if isinstance(optimiser, FedAvg):
        return OptimiserState(state.parameters + mean_update, state.velocity)
    velocity = optimiser.momentum * state.velocity + mean_update
    return OptimiserState(state.parameters + optimiser.learning_rate * velocity, velocity)
