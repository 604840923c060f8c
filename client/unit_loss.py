"""The loss that a model is trained by, one number for each unit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from client.survival import ProportionalHazards, hazard_losses

UnitLoss = Callable[[Tensor, Tensor], Tensor]
"""Of outputs, shape (n, outputs), and what is known of n units; shape (n,). A row depends on its unit alone."""


def unit_loss(model: nn.Module) -> UnitLoss:
    """Minus the log likelihood: of hazards for `ProportionalHazards`, else of classes (cross entropy)."""
    if isinstance(model, ProportionalHazards):
        return partial(hazard_losses, cuts=model.cuts)
    return partial(nn.functional.cross_entropy, reduction="none")
