"""Counts and what they say, against their definitions and by hand; the noise of released counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from client.accountant import PrivacyEvent, epsilon_of
from client.calibrate import solve_sigma
from client.evaluate import accuracy, balanced_accuracy, confusion, noisy_counts
from common.errors import LocalProtocolError


def test_scores_agree_with_their_definitions_unit_by_unit() -> None:
    """The oracle never builds a matrix: it counts single decisions."""
    generator = np.random.default_rng(0)
    truth, logits = generator.integers(0, 5, 700), torch.from_numpy(generator.normal(size=(700, 5)))
    counts = confusion(nn.Identity(), logits, torch.from_numpy(truth), classes=5)
    decided = list(zip(truth.tolist(), logits.argmax(1).tolist(), strict=True))
    assert all(counts[t, p] == decided.count((t, p)) for t in range(5) for p in range(5))
    assert accuracy(counts) == pytest.approx(sum(t == p for t, p in decided) / 700)
    recalls = [sum(p == c for t, p in decided if t == c) / sum(t == c for t, _ in decided) for c in range(5)]
    assert balanced_accuracy(counts) == pytest.approx(sum(recalls) / 5)


def test_scores_by_hand() -> None:
    """Two classes with units, one without: it is left out of the mean."""
    counts = np.array([[8, 2, 0], [1, 1, 0], [0, 0, 0]])
    assert accuracy(counts) == 9 / 12
    assert balanced_accuracy(counts) == (0.8 + 0.5) / 2


def test_no_held_out_unit_has_no_score() -> None:
    """A zero would read like a bad model."""
    counts = confusion(nn.Identity(), torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), classes=3)
    assert counts.shape == (3, 3)
    assert counts.sum() == 0
    assert math.isnan(accuracy(counts))
    assert math.isnan(balanced_accuracy(counts))


def test_negative_noisy_cells_count_as_nothing() -> None:
    """Noise may push a cell below zero; scores stay within 0 and 1."""
    counts = np.array([[-3, 4], [-1, 6]])
    assert accuracy(counts) == 0.6
    assert balanced_accuracy(counts) == 0.5


def test_counting_needs_as_many_labels_as_inputs() -> None:
    """Else labels of other units would be counted."""
    with pytest.raises(LocalProtocolError):
        confusion(nn.Identity(), torch.zeros(4, 3), torch.zeros(3, dtype=torch.int64), classes=3)


def test_one_unit_is_one_cell() -> None:
    """The sensitivity of one that is charged."""
    x, y = torch.randn(300, 4), torch.randint(0, 4, (300,))
    with_it, without = (confusion(nn.Identity(), x[k:], y[k:], classes=4) for k in (0, 1))
    assert np.abs(with_it - without).sum() == 1


def test_released_counts_carry_the_charged_noise() -> None:
    """Unbiased, with the standard deviation of the accountant, and integer."""
    sigma = solve_sigma(epsilon=0.5, delta=1e-5, q=1.0, steps=1)
    assert epsilon_of([PrivacyEvent(1.0, sigma, 1)], 1e-5) <= 0.5
    counts = np.full((300, 300), 7, np.int64)
    noise = noisy_counts(counts, sigma=sigma) - counts
    assert noise.dtype == np.int64
    assert noise.std() == pytest.approx(math.sqrt(sigma**2 + 1 / 12), rel=0.012)
    assert abs(noise.mean()) < 5 * sigma / 300
    assert not np.array_equal(noise, noisy_counts(counts, sigma=sigma) - counts)
