"""The noise is the discrete Gaussian that the accountant assumes, and no seed reaches it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from decimal import Decimal, localcontext
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from client import noise
from client.noise import bernoulli, discrete_gaussian, random_words
from common.errors import LocalProtocolError

GRID_SD = 2.7 * 2**20


def probabilities(sd: float, reach: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Oracle: the discrete Gaussian's mass by its definition."""
    points = np.arange(-reach, reach + 1)
    weights = np.exp(-(points**2) / (2 * sd * sd))
    return points, weights / weights.sum()


def constant(word: int) -> Callable[[int], NDArray[np.uint64]]:
    """A source of random words that always draws the same one."""
    return lambda count: np.full(count, word, np.uint64)


@pytest.mark.parametrize("sd", [0.3, 1.0, 2.5, 40.0])
def test_small_scales_pass_chi_square_against_the_discrete_gaussian(sd: float) -> None:
    """Point by point: a false alarm once in a million runs."""
    draws = discrete_gaussian(400_000, sd)
    points, mass = probabilities(sd, math.ceil(9 * sd))
    expected = mass * len(draws)
    observed = np.bincount(draws + points[-1], minlength=len(points)).astype(float)
    common = expected >= 10
    pooled_seen = np.append(observed[common], observed[~common].sum())
    pooled_due = np.append(expected[common], expected[~common].sum())
    statistic = float(((pooled_seen - pooled_due) ** 2 / np.maximum(pooled_due, 1e-9))[pooled_due > 1].sum())
    freedom = int((pooled_due > 1).sum()) - 1
    assert statistic < freedom + 5 * math.sqrt(2 * freedom) + 12


def test_a_million_draws_on_the_grid_have_the_declared_spread() -> None:
    """0.5 % on the standard deviation (seven standard errors), no bias, Gaussian kurtosis."""
    draws = discrete_gaussian(1_000_000, GRID_SD).astype(float) / GRID_SD
    assert draws.std() == pytest.approx(1, abs=0.005)
    assert abs(draws.mean()) < 0.006
    assert np.mean(draws**4) == pytest.approx(3, abs=0.06)


def test_large_scales_pass_kolmogorov_smirnov() -> None:
    """Against the Gaussian's distribution function, which differs by less than 1e-6 at this scale."""
    draws = np.sort(discrete_gaussian(200_000, GRID_SD)) / GRID_SD
    reference = np.array([math.erfc(-v / math.sqrt(2)) / 2 for v in draws])
    ranks = np.arange(1, len(draws) + 1) / len(draws)
    distance = np.maximum(ranks - reference, reference - ranks + 1 / len(draws)).max()
    assert distance < 2.7 / math.sqrt(len(draws))


def test_low_bits_are_uniform() -> None:
    """At 2^20 steps per sensitivity the last bits carry nothing of the scale; a float's rounding would show here."""
    low = discrete_gaussian(160_000, GRID_SD) & 15
    observed = np.bincount(low, minlength=16)
    assert float(((observed - 10_000) ** 2 / 10_000).sum()) < 60


def test_tails_reach_as_far_as_they_should() -> None:
    """A sampler cut at four deviations would break the delta of the guarantee."""
    draws = np.abs(discrete_gaussian(1_000_000, 1000.0))
    beyond = int((draws > 4000).sum())
    assert 25 <= beyond <= 115  # 63 expected


def test_no_seed_reaches_noise_or_sampling() -> None:
    """A predictable seed is a predictable noise: the update minus it is the gradient."""
    seen = []
    for _ in range(2):
        torch.manual_seed(7)
        np.random.seed(7)  # noqa: NPY002 -- the legacy seed is what must not matter
        random.seed(7)
        seen.append((discrete_gaussian(1000, GRID_SD), bernoulli(1000, 0.5), torch.rand(3)))
    assert torch.equal(seen[0][2], seen[1][2])  # control: the seed does act on torch
    assert not np.array_equal(seen[0][0], seen[1][0])
    assert not np.array_equal(seen[0][1], seen[1][1])


def test_coins_fall_with_their_probability() -> None:
    """A Poisson sample drawn too often would be under-charged."""
    for probability in (0.01, 0.25, 0.9):
        heads = int(bernoulli(400_000, probability).sum())
        error = math.sqrt(400_000 * probability * (1 - probability))
        assert abs(heads - 400_000 * probability) < 5 * error
    assert bernoulli(100, 1.0).all()


def test_a_step_is_found_by_128_bits_where_64_do_not_decide() -> None:
    """The rare path: the upper word equals a threshold's."""
    high, low = np.array([5, 5, 9], np.uint64), [10, 20, 0]
    for rest, step in ((9, 0), (10, 1), (19, 1), (20, 2)):
        found = noise._steps(np.array([5], np.uint64), high, low, constant(rest))
        assert found.tolist() == [step]
    assert noise._steps(np.array([4, 6, 9], np.uint64), high, low, random_words).tolist() == [0, 2, 3]


@pytest.mark.parametrize("sd", [0.25, 1.0, 40.0, 1000.5, GRID_SD])
def test_a_step_is_found_as_by_binary_search(sd: float) -> None:
    """On, beside and far from every threshold, at the ends of all words, and for random ones."""
    _, high, _ = noise._table(sd)
    beside = np.concatenate([high, high - np.uint64(1), high + np.uint64(1)])
    upper = np.arange(1 << 12, dtype=np.uint64) << np.uint64(52)
    words = np.concatenate([beside, upper, upper - np.uint64(1), random_words(100_000)])
    np.testing.assert_array_equal(noise._first_not_below(words, high), np.searchsorted(high, words))


def test_an_acceptance_is_decided_by_128_bits_where_floats_do_not() -> None:
    """The rare path: the draw is within a float's error of the acceptance probability."""
    with localcontext() as context:
        context.prec = 60
        exact = int((-Decimal("0.3")).exp() * (1 << 128))
    word, rest = np.array([exact >> 64], np.uint64), exact & (2**64 - 1)

    def decide(extra: int) -> bool:
        exponent = np.array([0.3])
        return bool(noise._accepted(word, exponent, lambda _: Decimal("0.3"), constant(extra))[0])

    assert decide(rest)
    assert not decide(rest + 1)


def test_the_table_covers_the_half_line_monotonely() -> None:
    """Weights of the step function: decreasing, positive, and out to thirteen deviations."""
    for sd in (0.25, 1.0, 1000.5, GRID_SD):
        width_log, high, low = noise._table(sd)
        cumulative = [(int(h) << 64) | part for h, part in zip(high, low, strict=True)] + [1 << 128]
        weights = np.diff([0, *cumulative])
        assert all(w > 0 for w in weights)
        assert all(a >= b for a, b in pairwise(weights))
        assert len(cumulative) << width_log >= 13 * sd


@pytest.mark.parametrize("sd", [0.0, -1.0, 0.1, 2.0**46, math.nan])
def test_a_scale_out_of_range_is_refused(sd: float) -> None:
    """A zero scale would be no noise at all."""
    with pytest.raises(LocalProtocolError):
        discrete_gaussian(1, sd)


@pytest.mark.parametrize("probability", [0.0, -0.1, 1.1, math.nan])
def test_a_probability_out_of_range_is_refused(probability: float) -> None:
    """No coin falls with it."""
    with pytest.raises(LocalProtocolError):
        bernoulli(1, probability)
