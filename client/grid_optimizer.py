"""An Opacus optimizer whose clipped sum is exact and whose noise no seed can predict."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.optimizers import DPOptimizer

from client.accountant import GRID_BITS

NoiseSampler = Callable[[int, float], NDArray[np.int64]]


class GridOptimizer(DPOptimizer):  # type: ignore[misc]
    """Opacus' optimizer with an exact clipped sum on a grid, discrete noise and the declared divisor.

    The grid's step is C*2^-20. Each unit's clipped gradient is rounded to it, so sums are of integers below 2^53: exact
    in float64 in any order. Rounding moves a unit's gradient by at most sqrt(d)/2 steps, d the number of parameters;
    the noise is scaled to the sensitivity 2^20 + sqrt(d) + 1, which also covers float64's error in the clip factor.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, *, sigma: float, clip: float, divisor: float, noise: NoiseSampler
    ) -> None:
        super().__init__(
            optimizer, noise_multiplier=sigma, max_grad_norm=clip, expected_batch_size=None, loss_reduction="sum"
        )
        size = sum(p.numel() for p in self.params)
        self._noise_sd = sigma * (2.0**GRID_BITS + math.sqrt(size) + 1)
        self._per_clip = 2.0**GRID_BITS
        self._unit = clip * 2.0**-GRID_BITS / divisor
        self._noise = noise

    def clip_and_accumulate(self) -> None:
        """Add each unit's gradient, clipped and rounded, in grid steps; a non-finite one counts as zero."""
        # In place where it can be: per-unit gradients are the largest thing that a site ever holds.
        samples = [g.flatten(1).double() for g in self.grad_samples]
        norms = torch.stack([torch.linalg.vector_norm(g, dim=1) for g in samples]).square().sum(0).sqrt()
        finite = torch.isfinite(norms)
        # g/C first: the quotient's norm is at most one whatever the size of C.
        factor = self._per_clip / torch.where(finite, norms, torch.ones_like(norms)).clamp(min=self.max_grad_norm)
        for p, g in zip(self.params, samples, strict=True):
            g[~finite] = 0.0
            total = g.mul_(factor[:, None]).round_().sum(0)
            p.summed_grad = total if p.summed_grad is None else p.summed_grad + total

    def add_noise(self) -> None:
        """Add the noise in grid steps; only then return to gradient units, divided by the declared size."""
        for p in self.params:
            noise = torch.from_numpy(self._noise(p.numel(), self._noise_sd)).to(p.device)
            p.grad = ((p.summed_grad + noise) * self._unit).to(p.dtype).view_as(p)
