"""EfficientNet-Lite0 in three ways: our own trunk, timm's network, and timm's file as the product reads it.

timm is the independent oracle: its layers, padding and BatchNorm are nobody's here.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from client.backbone import Compute, load_lite0
from client.network import frozen_part
from common.plan_models import NetworkModel
from tests.support.published_networks import TIMM_LITE0, save_weights, timm_lite0_state

timm = pytest.importorskip("timm", reason="timm is not installed")
CPU = Compute(torch.device("cpu"), "float32")


@pytest.fixture(scope="module")
def oracle() -> nn.Module:
    """Timm's network with the published weights: every tensor has its place there."""
    network: nn.Module = timm.create_model(TIMM_LITE0.removeprefix("timm:"), pretrained=False)
    network.load_state_dict(timm_lite0_state(), strict=True)
    return network.eval()


def features(network: nn.Module, x: Tensor) -> Tensor:
    """What timm's network gives its classifier."""
    with torch.inference_mode():
        out: Tensor = network.forward_head(network.forward_features(x), pre_logits=True)  # type: ignore[operator]
        return out


def pixels(side: int) -> Tensor:
    """Random images as the trunk takes them."""
    return torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(side)) * 2 - 1


@pytest.mark.parametrize("side", [64, 75, 180])
def test_our_own_lite0_gives_timms_features(oracle: nn.Module, side: int) -> None:
    """Odd sizes too, where "same" padding is lopsided; the control has one tensor of another layer."""
    x = pixels(side)
    with torch.inference_mode():
        ours = load_lite0(CPU)(x)
    theirs = features(oracle, x)
    assert ours.shape == theirs.shape == (3, 1280)
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    state = timm_lite0_state()
    state["blocks.5.1.bn1.bias"] = state["blocks.5.2.bn1.bias"]
    other = timm.create_model(TIMM_LITE0.removeprefix("timm:"), pretrained=False).eval()
    other.load_state_dict(state)
    assert (ours - features(other, x)).abs().max() > 1e-2


def test_timms_file_as_a_plan_names_it_gives_the_same(oracle: nn.Module, tmp_path: Path) -> None:
    """Read by its digest, traced, and with every BatchNorm folded."""
    path = tmp_path / "lite0.safetensors"
    digest = save_weights(timm_lite0_state(), path)
    model = NetworkModel(
        kind="network",
        architecture=TIMM_LITE0,
        weights_sha256=digest,
        trainable="head",
        image_size=96,
        views=1,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    part = frozen_part(model, weights=path)
    assert part is not None
    assert part.shape == (1280,)
    x = pixels(96)
    with torch.inference_mode():
        torch.testing.assert_close(part.layers(x), features(oracle, x), rtol=0, atol=1e-4)
