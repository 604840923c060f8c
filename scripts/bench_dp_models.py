"""The models and data of `fedward bench dp`: a linear head, and EfficientNet-Lite0 with GroupNorm, trained whole."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from client.lite0 import FEATURES, STAGES, InvertedResidual, same_padding

CLASSES = 9
_GROUPS = 8


class SameConv(nn.Conv2d):
    """Convolution without bias under TensorFlow's "same" padding (see `client.lite0.SamePadConv`), trainable."""

    def __init__(self, channels: int, out: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__(channels, out, kernel, stride, kernel // 2 if stride == 1 else 0, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, c_in, h, w) to (n, c_out, ceil(h / stride), ceil(w / stride))."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride > 1:
            top, bottom = same_padding(x.shape[2], kernel=kernel, stride=stride)
            left, right = same_padding(x.shape[3], kernel=kernel, stride=stride)
            x = functional.pad(x, (left, right, top, bottom))
        return super().forward(x)


class _Block(InvertedResidual):
    """Without an operation in place: functorch allows none."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


def groupnorm_lite0(*, seed: int) -> nn.Module:
    """Lite0 with GroupNorm in place of BatchNorm and a head of `CLASSES`, float32, from random weights."""
    torch.manual_seed(seed)  # weights only: what is measured is speed
    layers: list[nn.Module] = [*_convolution(SameConv(3, 32, 3, stride=2))]
    channels = 32
    for repeats, kernel, stride, expansion, out in STAGES:
        for repeat in range(repeats):
            step = stride if repeat == 0 else 1
            inner = list(_inner(channels, out, kernel, expansion=expansion, stride=step))
            layers.append(_Block(inner, residual=step == 1 and channels == out))
            channels = out
    layers += [*_convolution(SameConv(channels, FEATURES, 1)), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(FEATURES, CLASSES))


def _inner(channels: int, out: int, kernel: int, *, expansion: int, stride: int) -> Iterator[nn.Module]:
    wide = channels * expansion
    if expansion > 1:
        yield from _convolution(SameConv(channels, wide, 1))
    yield from _convolution(SameConv(wide, wide, kernel, stride=stride, groups=wide))
    yield SameConv(wide, out, 1)
    yield nn.GroupNorm(_GROUPS, out)


def _convolution(convolution: SameConv) -> Iterator[nn.Module]:
    yield convolution
    yield nn.GroupNorm(_GROUPS, convolution.out_channels)
    yield nn.ReLU6()


def linear_head(features: int, *, dtype: torch.dtype) -> nn.Linear:
    """A head without bias, as the plan's, from small random weights."""
    torch.manual_seed(1)
    return nn.Linear(features, CLASSES, bias=False, dtype=dtype)


def unit_rows(units: int, features: int) -> tuple[Tensor, Tensor]:
    """Random rows of norm 1, float32, and random classes."""
    torch.manual_seed(2)
    return functional.normalize(torch.randn(units, features)), torch.randint(0, CLASSES, (units,))


def pictures(units: int, side: int) -> tuple[Tensor, Tensor]:
    """Random images, float32, and random classes."""
    torch.manual_seed(3)
    return torch.randn(units, 3, side, side), torch.randint(0, CLASSES, (units,))
