"""EfficientNet-Lite0 with its BatchNorm folded into the convolutions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.errors import DataError

FEATURES: Final = 1280
RELU6_MAX: Final = 6.0
_BN_EPSILON: Final = 1e-3
# (repeats, kernel, stride, expansion, channels out) of the seven stages; the stem gives 32 channels.
STAGES: Final = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class SamePadConv(nn.Module):
    """Convolution with TensorFlow's "same" padding, a bias, and optionally ReLU6.

    With stride 2 TensorFlow pads one more pixel on the right and bottom than on the left and top, which
    `torch.nn.Conv2d(padding=...)` cannot express; weights trained there lose accuracy under symmetric padding.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, *, stride: int, relu6: bool) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.weight: Tensor
        self.bias: Tensor | None
        self.kernel = weight.shape[-1]
        self.stride = stride
        self.relu6 = relu6
        self.groups = weight.shape[0] if weight.shape[1] == 1 else 1

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, c_in, h, w) to (n, c_out, ceil(h / stride), ceil(w / stride))."""
        before = self.kernel // 2
        if self.stride > 1:
            top, bottom = same_padding(x.shape[2], kernel=self.kernel, stride=self.stride)
            left, right = same_padding(x.shape[3], kernel=self.kernel, stride=self.stride)
            x = functional.pad(x, (left, right, top, bottom))
            before = 0
        x = functional.conv2d(x, self.weight, self.bias, self.stride, before, 1, self.groups)
        return functional.hardtanh_(x, 0.0, RELU6_MAX) if self.relu6 else x


def same_padding(size: int, *, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros (before, after) that TensorFlow's "same" puts along one axis of `size` pixels."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class InvertedResidual(nn.Module):
    """Inverted residual: 1x1 expansion, depthwise, 1x1 projection, and the input again where shapes allow."""

    def __init__(self, layers: list[nn.Module], *, residual: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, c_in, h, w) to (n, c_out, ceil(h / stride), ceil(w / stride))."""
        y: Tensor = self.layers(x)
        return y.add_(x) if self.residual else y


class Lite0(nn.Module):
    """Frozen Lite0 trunk: (n, 3, s, s) pixels, already (x - 127) / 128, to (n, 1280) float32 averages in [0, 6]."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Average the last activation map over its positions."""
        maps: Tensor = self.layers(x)
        return maps.mean(dim=(2, 3), dtype=torch.float32)


def fold_lite0(state: Mapping[str, Tensor]) -> Lite0:
    """Assemble the trunk with every BatchNorm folded into the convolution before it.

    Args:
        state: Tensors under the names of the published file; every one of them must be used.

    Raises:
        DataError: If a tensor is missing, left over, or of another shape than Lite0's.
    """
    left = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    try:
        layers: list[nn.Module] = [_fold(left, "_conv_stem", "_bn0", stride=2)]
        channels, index = 32, 0
        for repeats, kernel, stride, expansion, out in STAGES:
            for repeat in range(repeats):
                step = stride if repeat == 0 else 1
                layers.append(_fold_block(left, f"_blocks.{index}.", (channels, out, kernel, expansion), stride=step))
                channels, index = out, index + 1
        layers.append(_fold(left, "_conv_head", "_bn1"))
        for name in ("_fc.weight", "_fc.bias"):  # ImageNet's 1000 classes: not ours
            left.pop(name)
    except KeyError as error:
        raise DataError(f"the backbone's weights lack the tensor {error}; reinstall the weights package") from error
    if left:
        raise DataError(f"the backbone's weights hold {len(left)} tensors that Lite0 has no place for; reinstall them")
    return Lite0(layers)


def _fold_block(
    left: dict[str, Tensor], prefix: str, shape: tuple[int, int, int, int], *, stride: int
) -> InvertedResidual:
    channels, out, kernel, expansion = shape
    layers: list[nn.Module] = []
    if expansion > 1:
        layers.append(_fold(left, prefix + "_expand_conv", prefix + "_bn0"))
    depthwise = _fold(left, prefix + "_depthwise_conv", prefix + "_bn1", stride=stride)
    project = _fold(left, prefix + "_project_conv", prefix + "_bn2", relu6=False)
    if depthwise.weight.shape != (channels * expansion, 1, kernel, kernel) or project.weight.shape[0] != out:
        raise DataError("the backbone's weights have other shapes than EfficientNet-Lite0; reinstall them")
    return InvertedResidual([*layers, depthwise, project], residual=stride == 1 and channels == out)


def _fold(left: dict[str, Tensor], conv: str, norm: str, *, stride: int = 1, relu6: bool = True) -> SamePadConv:
    """Take one convolution and its BatchNorm out of `left`: w' = w g / sqrt(v + e), b' = b - m g / sqrt(v + e)."""
    weight = left.pop(f"{conv}.weight").double()
    gain, shift, mean, variance = (
        left.pop(f"{norm}.{name}").double() for name in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gain / torch.sqrt(variance + _BN_EPSILON)
    folded_weight = (weight * scale[:, None, None, None]).float()
    return SamePadConv(folded_weight, (shift - mean * scale).float(), stride=stride, relu6=relu6)
