"""The models that hospitals train, and their parameters as one flat vector."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.errors import LocalProtocolError

ModelKind = Literal["lite0-head", "groupnorm-cnn"]
_GROUPS = 4


def build_model(kind: ModelKind, *, classes: int, features: int = 0, width: int = 0, seed: int = 0) -> nn.Module:
    """The plan's model with its initial weights: the same bits in every process.

    Args:
        kind: `lite0-head`: linear layer on `features` inputs, from zero, for inputs (n, features).
            `groupnorm-cnn`: small convolutional network for inputs (n, 3, side, side), trained whole.
        classes: Outputs, >= 2.
        features: Inputs of the head, >= 1.
        width: Channels of the network's first block, a multiple of 4.
        seed: Of the network's initial weights; public.

    Raises:
        LocalProtocolError: If a size does not fit the kind.
    """
    if classes < 2:
        raise LocalProtocolError(f"a model of {classes} classes is asked for; two or more are needed")
    if kind == "lite0-head":
        if features < 1:
            raise LocalProtocolError(f"a head on {features} features is asked for; one or more are needed")
        # Without a bias: its constant input would take half of each unit-norm example's clipped gradient.
        head = nn.Linear(features, classes, bias=False)
        with torch.no_grad():
            head.weight.zero_()
        return head
    if width < _GROUPS or width % _GROUPS:
        raise LocalProtocolError(f"a network of width {width} is asked for; a multiple of {_GROUPS} is needed")
    network = nn.Sequential(
        *_block(3, width),
        *_block(width, 2 * width),
        *_block(2 * width, 4 * width),
        *_block(4 * width, 4 * width),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, classes),
    )
    _initialise(network, seed)
    return network


def _block(channels: int, out: int) -> Iterator[nn.Module]:
    yield nn.Conv2d(channels, out, 3, padding=1, bias=False)
    yield nn.GroupNorm(_GROUPS, out)
    yield nn.ReLU()
    yield nn.AvgPool2d(2, ceil_mode=True)


def _initialise(network: nn.Module, seed: int) -> None:
    """Uniform weights of variance 2/fan_in from SHAKE-256 of seed and name; zero biases; norms at one.

    A hash, not a generator of a library: the start is then the same for all versions and machines.
    """
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.dim() < 2:
                parameter.fill_(1.0 if parameter.dim() == 1 and name.endswith("weight") else 0.0)
                continue
            count = parameter.numel()
            stream = hashlib.shake_256(f"fedward/initial-weights/1/{seed}/{name}".encode()).digest(8 * count)
            unit = (np.frombuffer(stream, "<u8") >> np.uint64(11)).astype(np.float64) * 2.0**-53
            bound = math.sqrt(6 / (count // parameter.shape[0]))
            parameter.copy_(torch.from_numpy((2 * unit - 1) * bound).view_as(parameter))


def compute_in_full_precision() -> None:
    """Forbid TF32 and the like in this process: float32 then means 24 bits in every product, on every GPU."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def layout(model: nn.Module) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Names and shapes of the trainable parameters, in the order of the flat vector."""
    return tuple((name, tuple(p.shape)) for name, p in _trainable(model))


def trainable_vector(model: nn.Module) -> NDArray[np.float64]:
    """A copy of the trainable parameters, shape (parameters,), float64.

    Raises:
        LocalProtocolError: If nothing is trainable.
    """
    parts = [p.detach().flatten().to("cpu", torch.float64) for _, p in _trainable(model)]
    if not parts:
        raise LocalProtocolError("the model has no trainable parameter; there is nothing to train")
    return torch.cat(parts).numpy().copy()


def load_vector(model: nn.Module, vector: NDArray[np.float64]) -> None:
    """Set the trainable parameters, rounded to their own type.

    Raises:
        LocalProtocolError: If the vector has another length.
    """
    tensors = named_tensors(model, vector)
    with torch.no_grad():
        for name, parameter in _trainable(model):
            parameter.copy_(tensors[name])


def named_tensors(model: nn.Module, vector: NDArray[np.float64]) -> dict[str, Tensor]:
    """The flat vector cut into tensors of the model's names, shapes and types, on the CPU.

    Raises:
        LocalProtocolError: If the vector has another length.
    """
    size = sum(p.numel() for _, p in _trainable(model))
    if vector.shape != (size,):
        raise LocalProtocolError(f"a vector of shape {vector.shape} is loaded into {size} trainable parameters")
    tensors: dict[str, Tensor] = {}
    start = 0
    for name, parameter in _trainable(model):
        part = torch.from_numpy(vector[start : start + parameter.numel()].copy())
        tensors[name] = part.view(parameter.shape).to(parameter.dtype)
        start += parameter.numel()
    return tensors


def _trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]
