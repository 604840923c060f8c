"""The models that hospitals train, each with its initial weights: the same bits in every process."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from common.errors import LocalProtocolError

_GROUPS = 4


def linear_head(features: int, *, classes: int) -> nn.Linear:
    """A linear layer from zero, for inputs of shape (n, features); without a bias.

    The constant input of a bias would take half of each unit-norm example's clipped gradient. Rows of tables have a
    constant among their inputs.

    Raises:
        LocalProtocolError: For fewer than one feature or two classes.
    """
    _check(classes)
    if features < 1:
        raise LocalProtocolError(f"a head on {features} features is asked for; one or more are needed")
    head = nn.Linear(features, classes, bias=False)
    with torch.no_grad():
        head.weight.zero_()
    return head


def small_cnn(width: int, *, classes: int, seed: int) -> nn.Sequential:
    """A small convolutional network for inputs of shape (n, 3, side, side), trained whole.

    Args:
        width: Channels of the first block, a multiple of 4.
        classes: Outputs, >= 2.
        seed: Of the initial weights; public.

    Raises:
        LocalProtocolError: If a size does not fit.
    """
    _check(classes)
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
    initialise(network, seed)
    return network


def mlp(features: int, hidden: Sequence[int], *, classes: int, seed: int) -> nn.Sequential:
    """A multilayer perceptron with tanh units, for inputs of shape (n, features).

    Tanh is bounded, which keeps clipped gradients informative (Papernot et al., 2021, arXiv:2007.14191).

    Raises:
        LocalProtocolError: If a layer has no unit, or for fewer than two classes.
    """
    _check(classes)
    sizes = (features, *hidden)
    if min(sizes) < 1:
        raise LocalProtocolError(f"a network with layers of {sizes} units is asked for; one or more each are needed")
    layers = (layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.Tanh()))
    network = nn.Sequential(*layers, nn.Linear(sizes[-1], classes))
    initialise(network, seed)
    return network


def _check(classes: int) -> None:
    if classes < 2:
        raise LocalProtocolError(f"a model of {classes} classes is asked for; two or more are needed")


def _block(channels: int, out: int) -> Iterator[nn.Module]:
    yield nn.Conv2d(channels, out, 3, padding=1, bias=False)
    yield nn.GroupNorm(_GROUPS, out)
    yield nn.ReLU()
    yield nn.AvgPool2d(2, ceil_mode=True)


def initialise(network: nn.Module, seed: int) -> None:
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
