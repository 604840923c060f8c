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
    layout,
    load_vector,
    named_tensors,
    trainable_vector,
)
from client.networks import linear_head, small_cnn
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
    here = fingerprint(small_cnn(16, classes=9, seed=5))
    torch.manual_seed(2)
    assert fingerprint(small_cnn(16, classes=9, seed=5)) == here == GOLDEN
    code = (
        "import hashlib; from client.model import trainable_vector; from client.networks import small_cnn;"
        "m = small_cnn(16, classes=9, seed=5);"
        "print(hashlib.sha256(trainable_vector(m).astype('<f8').tobytes()).hexdigest())"
    )
    there = subprocess.run(  # noqa: S603 -- our own code
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert there.stdout.strip() == here


def test_another_seed_is_another_network() -> None:
    """The control of the equality above."""
    seeds = {fingerprint(small_cnn(16, classes=9, seed=seed)) for seed in range(3)}
    assert len(seeds) == 3


def test_the_head_starts_from_zero() -> None:
    """A convex problem needs no random start."""
    model = linear_head(512, classes=9)
    assert not trainable_vector(model).any()
    assert trainable_vector(model).shape == (9 * 512,)


def test_the_network_has_a_useful_scale() -> None:
    """Weights of variance 2/fan_in keep activations alive through four blocks."""
    model = small_cnn(16, classes=9, seed=0)
    assert 30_000 < trainable_vector(model).size < 100_000
    out: torch.Tensor = model(torch.randn(8, 3, 64, 64))
    assert out.shape == (8, 9)
    assert 0.05 < out.std() < 5
    weight = next(model[4].parameters())
    assert float(weight.detach().std()) == pytest.approx((2 / (16 * 9)) ** 0.5, rel=0.05)


@pytest.mark.parametrize("side", [16, 17, 33, 64])
def test_the_network_takes_any_side(side: int) -> None:
    """Odd sides too."""
    assert small_cnn(4, classes=3, seed=0)(torch.zeros(1, 3, side, side)).shape == (1, 3)


def test_units_do_not_mix_in_the_network() -> None:
    """GroupNorm: an image's output does not depend on its neighbours in the batch."""
    model = small_cnn(4, classes=3, seed=0).double()
    x = torch.randn(5, 3, 16, 16).double()
    alone, together = model(x[:1]), model(x)[:1]
    torch.testing.assert_close(alone, together, rtol=1e-12, atol=1e-12)


def test_a_vector_survives_loading_and_reading() -> None:
    """Order and shapes agree between reading, writing and naming."""
    model = small_cnn(4, classes=3, seed=0)
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
    model = linear_head(3, classes=2)
    for size in (5, 7):
        with pytest.raises(LocalProtocolError, match="6 trainable parameters"):
            load_vector(model, np.zeros(size))


def test_a_model_without_trainable_parameters_is_refused() -> None:
    """There is nothing to train."""
    with pytest.raises(LocalProtocolError, match="nothing to train"):
        trainable_vector(nn.ReLU())


@pytest.mark.parametrize(("classes", "features"), [(1, 4), (3, 0)])
def test_a_head_of_impossible_size_is_refused(classes: int, features: int) -> None:
    """One class needs no model."""
    with pytest.raises(LocalProtocolError, match="is asked for"):
        linear_head(features, classes=classes)


@pytest.mark.parametrize("width", [0, 6, -4])
def test_a_network_of_impossible_width_is_refused(width: int) -> None:
    """GroupNorm has four groups."""
    with pytest.raises(LocalProtocolError, match="multiple of 4"):
        small_cnn(width, classes=3, seed=0)
