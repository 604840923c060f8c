"""Discrete Gaussian noise and Poisson sampling from the operating system's CSPRNG; no seed reaches either.

The sampler is exact up to 2^-100: rejection from a step function over the half Gaussian whose table is kept to
128 bits, with comparisons of 64-bit draws that fall back to decimals of 60 digits where 64 bits do not decide.

References:
    Canonne, Kamath, Steinke, 2020, arXiv:2004.00010 (discrete Gaussian); Karney, 2016 (exact rejection).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from decimal import Decimal, localcontext
from functools import lru_cache
from itertools import accumulate

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from common.errors import LocalProtocolError

# Beyond 13 standard deviations lies less than 2^-124 of the mass.
_REACH = 13
_DIGITS = 60
_CHUNK = 1 << 16
_GUIDE_BITS = 12

Words = NDArray[np.uint64]


def random_words(count: int) -> Words:
    """Uniform 64-bit words, shape (count,), from AES-256-CTR under a fresh key of the operating system."""
    encryptor = Cipher(algorithms.AES256(os.urandom(32)), modes.CTR(os.urandom(16))).encryptor()
    return np.frombuffer(encryptor.update(bytes(8 * count)), dtype=np.uint64)


def discrete_gaussian(count: int, sd: float) -> NDArray[np.int64]:
    """Independent draws with P(k) proportional to exp(-k^2 / (2 sd^2)) on the integers.

    Args:
        count: How many, >= 0.
        sd: Scale in units of the grid, in [0.25, 2^45]; above 1 it is the standard deviation to 1e-7.

    Returns:
        Shape (count,), int64.

    Raises:
        LocalProtocolError: If `sd` is out of its range.

    Guarantees:
        Each draw is within 2^-100 (total variation) of the discrete Gaussian; fresh entropy in each call.
    """
    if not 0.25 <= sd <= 2.0**45:
        raise LocalProtocolError(f"noise of scale {sd} grid steps is asked for; 0.25 to 2^45 is allowed")
    parts: list[NDArray[np.int64]] = []
    missing = count
    while missing > 0:
        part = _candidates(min(missing + missing // 16 + 64, _CHUNK), sd, random_words)[:missing]
        parts.append(part)
        missing -= len(part)
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def bernoulli(count: int, probability: float) -> NDArray[np.bool_]:
    """Independent coins, shape (count,), each true with `probability` rounded down to a multiple of 2^-64.

    Raises:
        LocalProtocolError: If `probability` is not in (0, 1].
    """
    if not 0 < probability <= 1:
        raise LocalProtocolError(f"a coin with probability {probability} is asked for; more than 0 up to 1 is allowed")
    if probability == 1:
        return np.ones(count, np.bool_)
    return random_words(count) < np.uint64(int(math.ldexp(probability, 64)))


def _candidates(count: int, sd: float, draw: Callable[[int], Words]) -> NDArray[np.int64]:
    """One pass of rejection: at most `count` draws, about 0.97 of them."""
    log_width, high, low = _table(sd)
    steps = _steps(draw(count), high, low, draw)
    second = draw(count)
    width = 1 << log_width
    inside = (second & np.uint64(width - 1)).astype(np.int64)
    negative = second >> np.uint64(63) == 1
    # Both terms and the product stay below 2^63: sd <= 2^45 only makes the width large, so floats carry it.
    exponent = inside.astype(np.float64) * (inside + 2.0 * width * steps) / (2.0 * sd * sd)
    keep = _accepted(draw(count), exponent, lambda i: _exact_exponent(int(inside[i]), int(steps[i]), width, sd), draw)
    value = inside + (steps << log_width)
    keep &= ~(negative & (value == 0))
    return np.where(negative, -value, value)[keep]


@lru_cache(maxsize=64)
def _table(sd: float) -> tuple[int, Words, list[int]]:
    """Steps of a function above the half Gaussian.

    Returns:
        log2 of the steps' width; the cumulative weights in units of 2^-128: their upper and lower 64 bits.
        The last, 2^128, is left out.
    """
    log_width = max(0, math.floor(math.log2(sd)) - 4)
    count = math.ceil(_REACH * sd / (1 << log_width))
    with localcontext() as context:
        context.prec = _DIGITS
        scale = 2 * Decimal(sd) ** 2
        weights = [(-(Decimal(v << log_width) ** 2) / scale).exp() for v in range(count)]
        total = sum(weights)
        cumulative = [int(w / total * (1 << 128)) for w in accumulate(weights)][:-1]
    return log_width, np.array([c >> 64 for c in cumulative], np.uint64), [c & (2**64 - 1) for c in cumulative]


def _steps(words: Words, high: Words, low: list[int], draw: Callable[[int], Words]) -> NDArray[np.int64]:
    """Index of the step that holds each 128-bit draw, of which only the upper words are drawn in advance."""
    left = _first_not_below(words, high)
    for i in np.flatnonzero(high[np.minimum(left, len(high) - 1)] == words):
        # The upper word equals those of some thresholds: 64 more bits decide (about once in 2^56 draws).
        right = int(np.searchsorted(high, words[i], side="right"))
        rest = int(draw(1)[0])
        left[i] += sum(rest >= low[j] for j in range(int(left[i]), right))
    return left


def _first_not_below(words: Words, high: Words) -> NDArray[np.int64]:
    """`np.searchsorted(high, words)` in a third of its time, by the words' upper 12 bits."""
    upper, last = np.arange(1 << _GUIDE_BITS, dtype=np.uint64) << np.uint64(64 - _GUIDE_BITS), len(high) - 1
    guide = np.searchsorted(high, upper)
    found: NDArray[np.int64] = guide[words >> np.uint64(64 - _GUIDE_BITS)]
    # A threshold or none between two values of the upper bits: one step is enough for nearly all words.
    found += high[np.minimum(found, last)] < words
    missed = np.flatnonzero(high[np.minimum(found, last)] < words)
    found[missed] = np.searchsorted(high, words[missed])
    return found


def _accepted(
    words: Words,
    exponent: NDArray[np.float64],
    exact_exponent: Callable[[int], Decimal],
    draw: Callable[[int], Words],
) -> NDArray[np.bool_]:
    """Whether words/2^64 < exp(-exponent), decided as if both had 128 bits."""
    uniform = words.astype(np.float64) * 2.0**-64
    chance = np.exp(-exponent)
    accepted = uniform < chance
    # Floats err by less than 2^-50 here; nearer than 2^-48, the decimals decide (about once in 2^47 draws).
    for i in np.flatnonzero(np.abs(uniform - chance) < 2.0**-48):
        with localcontext() as context:
            context.prec = _DIGITS
            bits = (int(words[i]) << 64) | int(draw(1)[0])
            accepted[i] = Decimal(bits) < (-exact_exponent(int(i))).exp() * (1 << 128)
    return accepted


def _exact_exponent(inside: int, step: int, width: int, sd: float) -> Decimal:
    """(y^2 - (step width)^2) / (2 sd^2) for y = inside + step width, to 60 digits."""
    with localcontext() as context:
        context.prec = _DIGITS
        return Decimal(inside * (inside + 2 * width * step)) / (2 * Decimal(sd) ** 2)
