"""The folded backbone is the published network."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from client.backbone import Compute, channel_statistics, choose_compute, load_lite0, read_weights
from client.lite0 import FEATURES, Lite0, fold_lite0, same_padding
from common.errors import DataError

CPU = Compute(torch.device("cpu"), "float32")


class _PlainBlock(nn.Module):
    """One inverted residual as published, with its BatchNorm layers."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        if expansion > 1:
            self._expand_conv = nn.Conv2d(channels, wide, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(wide, eps=1e-3)
        self._depthwise_conv = nn.Conv2d(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1 = nn.BatchNorm2d(wide, eps=1e-3)
        self._project_conv = nn.Conv2d(wide, out, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(out, eps=1e-3)
        self._residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if hasattr(self, "_expand_conv"):
            y = functional.relu6(self._bn0(self._expand_conv(y)))
        y = functional.relu6(self._bn1(self._depthwise_conv(_pad(y, self._depthwise_conv))))
        z: Tensor = self._bn2(self._project_conv(y))
        return x + z if self._residual else z


class _PlainLite0(nn.Module):
    """EfficientNet-Lite0 as its paper and TensorFlow's code define it; loads the file strictly."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = nn.Conv2d(3, 32, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=1e-3)
        blocks: list[nn.Module] = [_PlainBlock(32, 16, 3, 1, 1)]
        channels = 16
        for repeats, kernel, stride, out in (
            (2, 3, 2, 24),
            (2, 5, 2, 40),
            (3, 3, 2, 80),
            (3, 5, 1, 112),
            (4, 5, 2, 192),
            (1, 3, 1, 320),
        ):
            for repeat in range(repeats):
                blocks.append(_PlainBlock(channels, out, kernel, stride if repeat == 0 else 1, 6))
                channels = out
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = nn.Conv2d(320, 1280, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(1280, eps=1e-3)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu6(self._bn0(self._conv_stem(_pad(x, self._conv_stem))))
        for block in self._blocks:
            x = block(x)
        return functional.relu6(self._bn1(self._conv_head(x))).mean((2, 3))


def _pad(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """TensorFlow's "same", written out for squares."""
    size, kernel, stride = x.shape[-1], conv.kernel_size[0], conv.stride[0]
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return functional.pad(x, (total // 2, total - total // 2) * 2)


@pytest.fixture(scope="module")
def folded() -> Lite0:
    """The product's trunk in float32."""
    return load_lite0(CPU)


@pytest.mark.parametrize("side", [64, 75, 180])
def test_folding_changes_nothing_but_rounding(folded: Lite0, side: int) -> None:
    """Against an independent, unfolded definition that loads the published file strictly; odd sizes pad differently."""
    plain = _PlainLite0().eval()
    plain.load_state_dict(read_weights(), strict=True)
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(side))
    with torch.inference_mode():
        expected, seen = plain(x), folded(x)
    assert seen.shape == (2, FEATURES)
    assert float((seen - expected).abs().max()) < 1e-5 * float(expected.abs().max())


def test_a_wrong_batchnorm_epsilon_would_be_seen(folded: Lite0) -> None:
    """Control of the test above: PyTorch's own default epsilon gives other features."""
    plain = _PlainLite0().eval()
    plain.load_state_dict(read_weights(), strict=True)
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-5
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, seen = plain(x), folded(x)
    assert float((seen - expected).abs().max()) > 1e-3 * float(expected.abs().max())


def test_the_trunk_is_frozen_and_holds_no_batchnorm(folded: Lite0) -> None:
    """Nothing of it may be trained by accident, and no statistics may follow the hospital's data."""
    assert not list(folded.parameters())
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in folded.modules())
    assert not folded.training


def test_bfloat16_features_point_the_same_way(folded: Lite0) -> None:
    """The half-size format costs less than one degree on features that are then normalised."""
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    small = load_lite0(Compute(torch.device("cpu"), "bfloat16"))
    with torch.inference_mode():
        exact, rounded = folded(x), small(x.bfloat16().to(memory_format=torch.channels_last))
    assert rounded.dtype == torch.float32
    assert float(functional.cosine_similarity(exact, rounded).min()) > 0.999


@pytest.mark.parametrize(("size", "kernel", "stride"), [(180, 3, 2), (181, 3, 2), (90, 5, 2), (45, 5, 2), (7, 3, 1)])
def test_padding_is_tensorflows_same(size: int, kernel: int, stride: int) -> None:
    """The output has ceil(size / stride) pixels, and the odd zero goes to the end."""
    before, after = same_padding(size, kernel=kernel, stride=stride)
    assert (size + before + after - kernel) // stride + 1 == math.ceil(size / stride)
    assert after - before in {0, 1}


def test_channel_statistics_are_the_moments_of_the_clipped_normal() -> None:
    """Against numerical integration on a fine grid."""
    state = read_weights()
    public = channel_statistics()
    z = np.linspace(-9, 9, 20_001)
    weights = np.exp(-(z**2) / 2)
    weights /= weights.sum()
    for channel in range(0, FEATURES, 128):
        beta, gamma = float(state["_bn1.bias"][channel]), abs(float(state["_bn1.weight"][channel]))
        clipped = np.clip(beta + gamma * z, 0, 6)
        mean = float(weights @ clipped)
        assert public.mean[channel] == pytest.approx(mean, abs=1e-5)
        assert public.sd[channel] == pytest.approx(float(np.sqrt(weights @ (clipped - mean) ** 2)), abs=1e-5)


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_weights_of_another_network_are_refused(change: str) -> None:
    """A partly matching file must not load partly."""
    state = read_weights()
    if change == "missing":
        del state["_blocks.3._bn1.bias"]
    elif change == "extra":
        state["_blocks.16._project_conv.weight"] = torch.zeros(1)
    else:
        state["_blocks.3._depthwise_conv.weight"] = torch.zeros(144, 1, 3, 3)
    with pytest.raises(DataError, match="backbone's weights"):
        fold_lite0(state)


def test_the_cpu_can_be_asked_for_and_cuda_must_exist() -> None:
    """`device: cuda` without a GPU is an error in words, not a slow surprise."""
    assert choose_compute("cpu").device.type == "cpu"
    if torch.cuda.is_available():
        assert choose_compute("auto").device.type == "cuda"
    else:
        assert choose_compute("auto") == choose_compute("cpu")
        with pytest.raises(DataError, match="device: cuda was asked for"):
            choose_compute("cuda")
