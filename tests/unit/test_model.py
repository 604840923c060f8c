"""The models start from the same bits everywhere, and travel as one vector."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from client.model import (
    build_model,
    layout,
    load_vector,
    named_tensors,
    trainable_vector,
)
from common.errors import LocalProtocolError

ROOT = Path(__file__).parents[2]
# The network's start for seed 5, as every hospital must make it, in this version and the next.
GOLDEN = "3c55256de347d2217b8a866629c35b2ef10d2fc667f805b447917cc79f2e7003"


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of the vector's little-endian bytes."""
    return hashlib.sha256(trainable_vector(model).astype("<f8").tobytes()).hexdigest()


def test_the_network_starts_from_the_same_bits_in_every_process() -> None:
    """Hospitals never receive a model: each builds it, and they must agree to the last bit."""
    torch.manual_seed(1)
    here = fingerprint(build_model("groupnorm-cnn", classes=9, width=16, seed=5))
    torch.manual_seed(2)
    assert fingerprint(build_model("groupnorm-cnn", classes=9, width=16, seed=5)) == here == GOLDEN
    code = (
        "import hashlib; from client.model import build_model, trainable_vector;"
        "m = build_model('groupnorm-cnn', classes=9, width=16, seed=5);"
        "print(hashlib.sha256(trainable_vector(m).astype('<f8').tobytes()).hexdigest())"
    )
    there = subprocess.run(  # noqa: S603 -- our own code
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert there.stdout.strip() == here


def test_another_seed_is_another_network() -> None:
    """The control of the equality above."""
    seeds = {fingerprint(build_model("groupnorm-cnn", classes=9, width=16, seed=seed)) for seed in range(3)}
    assert len(seeds) == 3


def test_the_head_starts_from_zero() -> None:
    """A convex problem needs no random start."""
    model = build_model("lite0-head", classes=9, features=512)
    assert not trainable_vector(model).any()
    assert trainable_vector(model).shape == (9 * 512,)


def test_the_network_has_a_useful_scale() -> None:
    """Weights of variance 2/fan_in keep activations alive through four blocks."""
    model = build_model("groupnorm-cnn", classes=9, width=16, seed=0)
    assert 30_000 < trainable_vector(model).size < 100_000
    out = model(torch.randn(8, 3, 64, 64))
    assert out.shape == (8, 9)
    assert 0.05 < out.std() < 5
    weight = model[4].weight  # type: ignore[index]
    assert float(weight.detach().std()) == pytest.approx((2 / (16 * 9)) ** 0.5, rel=0.05)


@pytest.mark.parametrize("side", [16, 17, 33, 64])
def test_the_network_takes_any_side(side: int) -> None:
    """Odd sides too."""
    assert build_model("groupnorm-cnn", classes=3, width=4, seed=0)(torch.zeros(1, 3, side, side)).shape == (1, 3)


def test_units_do_not_mix_in_the_network() -> None:
    """GroupNorm: an image's output does not depend on its neighbours in the batch."""
    model = build_model("groupnorm-cnn", classes=3, width=4, seed=0).double()
    x = torch.randn(5, 3, 16, 16).double()
    alone, together = model(x[:1]), model(x)[:1]
    torch.testing.assert_close(alone, together, rtol=1e-12, atol=1e-12)


def test_a_vector_survives_loading_and_reading() -> None:
    """Order and shapes agree between reading, writing and naming."""
    model = build_model("groupnorm-cnn", classes=3, width=4, seed=0)
    vector = np.arange(trainable_vector(model).size, dtype=np.float64)
    load_vector(model, vector)
    np.testing.assert_array_equal(trainable_vector(model), vector)
    tensors = named_tensors(model, vector)
    assert [(name, tuple(t.shape)) for name, t in tensors.items()] == list(layout(model))
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, tensors[name])


def test_frozen_parameters_are_not_in_the_vector() -> None:
    """They are public, and not trained."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))
    for parameter in model[0].parameters():
        parameter.requires_grad = False
    assert trainable_vector(model).shape == (9,)
    assert [name for name, _ in layout(model)] == ["1.weight", "1.bias"]


def test_a_vector_of_another_length_is_refused() -> None:
    """Else a model would be loaded in part."""
    model = build_model("lite0-head", classes=2, features=3)
    for size in (5, 7):
        with pytest.raises(LocalProtocolError, match="6 trainable parameters"):
            load_vector(model, np.zeros(size))


def test_a_model_without_trainable_parameters_is_refused() -> None:
    """There is nothing to train."""
    with pytest.raises(LocalProtocolError, match="nothing to train"):
        trainable_vector(nn.ReLU())


@pytest.mark.parametrize(
    ("classes", "features", "width"),
    [(1, 4, 4), (3, 0, 4)],
)
def test_a_head_of_impossible_size_is_refused(classes: int, features: int, width: int) -> None:
    """One class needs no model."""
    with pytest.raises(LocalProtocolError):
        build_model("lite0-head", classes=classes, features=features, width=width)


@pytest.mark.parametrize("width", [0, 6, -4])
def test_a_network_of_impossible_width_is_refused(width: int) -> None:
    """GroupNorm has four groups."""
    with pytest.raises(LocalProtocolError, match="multiple of 4"):
        build_model("groupnorm-cnn", classes=3, width=width)
