"""Exact sums over units that mode `distributed` and the round of statistics put noise on; nothing here is noisy."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from client.batches import Inputs
from client.dpsgd import Randomness, TrainingSettings, take_steps
from client.grid_optimizer import FINEST_BITS, GridOptimizer


class _Collector(GridOptimizer):
    """Keeps the exact clipped sum of its one step, and moves nothing."""

    total: NDArray[np.int64]

    def add_noise(self) -> None:
        """Take the sum and leave a gradient of zeros."""
        self.total = torch.cat([p.summed_grad.flatten() for p in self.params]).cpu().numpy()
        for p in self.params:
            p.grad = torch.zeros_like(p)


def gradient_total(
    model: nn.Module, x: Inputs, y: Tensor, *, settings: TrainingSettings, randomness: Randomness
) -> NDArray[np.int64]:
    """Sum the clipped gradients of one batch of units.

    Args:
        model: As `client.dpsgd.train_local` takes it; stays where it is.
        x: One row per unit, shape (units, ...).
        y: Class of each unit, shape (units,), int64.
        settings: One step without momentum.
        randomness: Its coins draw the batch.

    Returns:
        In steps of C*2^-44, shape (parameters,), int64, in the order of `trainable_vector`.

    Raises:
        UnsupportedLayer: If a trained layer mixes units or keeps statistics of them.
        LocalProtocolError: If the shapes or the model's type do not fit.
    """
    steps = take_steps(model, x, y, settings=settings, sigma=1.0, randomness=randomness, optimizer_type=_Collector)
    (total,) = (optimizer.total for optimizer in steps)
    return total


def row_total(rows: NDArray[np.float64]) -> NDArray[np.int64]:
    """Sum rows of L2 norm 1 at most.

    Args:
        rows: Shape (n, k), float64; longer ones are scaled down to norm 1, non-finite ones count as zero.

    Returns:
        In steps of 2^-44, shape (k,), int64: the same bits in any order of the rows.
    """
    norms = np.sqrt(np.sum(rows * rows, axis=1, keepdims=True))
    finite = np.isfinite(norms)
    scale = 2.0**FINEST_BITS / np.maximum(np.where(finite, norms, 1.0), 1.0)
    total: NDArray[np.int64] = np.rint(np.where(finite, rows, 0.0) * scale).astype(np.int64).sum(axis=0)
    return total
