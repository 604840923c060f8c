"""The plan's `network`: its frozen part, which is run, and its trained part, which the hospitals agree on."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from client.architecture import Architecture, architecture_layout, load_architecture
from client.batches import Inputs
from client.clipped_sum import choose_clipped_sum
from client.cut import cut, output_shape
from client.networks import linear_head
from common.errors import UnsupportedLayer
from common.plan_models import NetworkModel


@dataclass(frozen=True, slots=True)
class FrozenPart:
    """The layers that are not trained: (n, 3, side, side) to (n, *shape), a function of each image alone."""

    layers: nn.Module
    shape: tuple[int, ...]


def frozen_part(model: NetworkModel, *, weights: Path | None) -> FrozenPart | None:
    """What is run on each image before training; None where every layer is trained.

    Raises:
        ConfigError: If the site names no weights file, or the library of the architecture is not installed.
        DataError: If the weights file is not the plan's, or holds other tensors than the architecture.
        PlanError: If there is no such architecture, or it cannot be cut as the plan says.
        UnsupportedLayer: If a layer that is to be trained cannot be.
    """
    frozen, _ = cut(load_architecture(model, weights=weights), last_blocks=model.last_blocks)
    if frozen is None:
        return None
    frozen.eval().requires_grad_(False)
    return FrozenPart(frozen, output_shape(frozen, side=model.image_size))


def trained_part(model: NetworkModel, *, classes: int, weights: Path | None) -> nn.Module:
    """What is trained, with its initial weights: a new head from zero, behind the blocks that the plan says.

    Raises:
        ConfigError, DataError, PlanError, UnsupportedLayer: As `frozen_part` does.
    """
    return _with_head(model, load_architecture(model, weights=weights), classes=classes)


def trained_layout(model: NetworkModel, *, classes: int) -> nn.Module:
    """Names and shapes of `trained_part`, with arbitrary numbers: for those who hold no weights.

    Raises:
        ConfigError, PlanError, UnsupportedLayer: As `frozen_part` does.
    """
    return _with_head(model, architecture_layout(model), classes=classes)


def check_trains(model: nn.Module, rows: Inputs, *, clip: float) -> None:
    """Take the gradient of one row of zeros, as training will: what fails there must not fail after a charge.

    Args:
        model: In float64, on its device.
        rows: Inputs by unit, at least one.
        clip: L2 bound C, > 0.

    Raises:
        UnsupportedLayer: If a layer has no gradient of each unit on this device.
    """
    zeros = torch.zeros_like(rows[[0]])
    label = torch.zeros(1, dtype=torch.int64, device=zeros.device)
    try:
        choose_clipped_sum(model, zeros, label, clip=clip)([0])
    except (RuntimeError, TypeError, ValueError) as error:
        raise UnsupportedLayer(
            f"the plan's network cannot be trained on this site's device ({type(error).__name__} in a trial); "
            "use `device: cpu`, or train fewer blocks (model.trainable)"
        ) from error


def _with_head(model: NetworkModel, architecture: Architecture, *, classes: int) -> nn.Module:
    head = linear_head(architecture.features, classes=classes)
    _, body = cut(architecture, last_blocks=model.last_blocks)
    if body is None:
        return head
    return nn.Sequential(OrderedDict(body=body, flatten=nn.Flatten(), head=head))
