"""Clipped sums of a linear head in closed form, exact: a unit's part is a function of that unit alone, to the last bit.

For cross entropy on logits W x the gradient of one unit is the outer product p (x) x with p = softmax(W x) - onehot(y),
so its norm is |p| |x| and the clipped sum is one matrix product over units. A product of floats rounds by the number of
its rows; here both products are of integers small enough that no sum of them rounds, whatever order a library takes:

* inputs become integers b of 20 bits below their row's largest number, weights integers w with |b| |w| <= 2^53: by
  Cauchy and Schwarz every partial sum of a logit is an integer within 2^53;
* p, scaled and clipped, becomes an integer a with |a| |b| <= 2^44, so that the partial sums over 512 units stay within
  2^53.

So few bits are enough: what they leave out moves each number of a unit's part by about C*2^-21, half a step of the
noise's grid, where logits are small, and by some steps where they are large; privacy does not hang on it.

All else is done number by number with operations that IEEE 754 rounds in one way, and powers of two; the exponential is
made of these too, since a library may compute the last few of an array by another formula than the first.

References:
    Goodfellow, 2015, arXiv:1510.01799 (norms of a layer's gradients without the gradients).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from client.noise_grid import FINEST_BITS

MOST_CLASSES: Final = 1 << 10
MOST_INPUTS: Final = 1 << 15

Floats = NDArray[np.float64]

_INPUT_BITS = 20
_EXACT_BITS = 53
_CHUNK = 1 << (_EXACT_BITS - FINEST_BITS)
# A row that is smaller counts as zero, so that no product below leaves the range of floats downwards.
_LEAST_EXPONENT = -960
# exp(-140) = 2^-202: squares of what is left stay far above the smallest float.
_LEAST_LOGIT = -140.0
# Pays for the rounding of some hundred operations of 2^-53 each, and for summing up to 1024 classes.
_MARGIN = 2.0**-36
# Up to 64 MB of prepared inputs are kept between the steps.
_MOST_KEPT = 1 << 23


@dataclass(frozen=True, slots=True)
class _Rows:
    """Units as integers: `b` (n, inputs) whole numbers in float64, |b| <= 2^20; `scale` (n,): x = b * scale.

    `norm` (n,) is the L2 norm of `b`, and zero for units that count as zero; `y` (n,) their classes.
    """

    b: Floats
    scale: Floats
    norm: Floats
    y: NDArray[np.int64]

    def where(self, chosen: Sequence[int]) -> _Rows:
        rows = np.asarray(chosen, dtype=np.intp)
        return _Rows(self.b[rows], self.scale[rows], self.norm[rows], self.y[rows])


class HeadSum:
    """Clipped sums of the gradients of a linear layer under cross entropy; see `client.clipped_sum.ClippedSum`.

    Inputs are rounded to 20 bits below the largest number of their row (a bias counts as an input of 1), weights to 16
    below the largest weight or, of fewer inputs, more: 22 of 512.

    Args:
        head: At least two and at most `MOST_CLASSES` outputs, at most `MOST_INPUTS` inputs, all parameters trained.
        x: Shape (units, inputs), floating.
        y: Shape (units,), int64, each a class of the head.
        clip: L2 bound C, > 0.

    Guarantees:
        The result is the sum over the chosen units of an integer matrix q_u, a function of x_u, y_u, the parameters and
        C alone, with |q_u| <= 2^44.

        Proof of the bound: q_u = a (x) b with a = rint(f p) but for the last class, whose a is minus the sum of the
        others' as its p is minus the sum of theirs. So a is off by at most 1/2 in K - 1 classes and (K - 1)/2 in the
        last, |a - f p| <= K/2 and |q_u| <= (f |p| + K/2) |b|, where f is at most
        (2^44 (1 - 2^-36) - K/2 |b|) / (|p| |b|), and 2^-36 outweighs the rounding of p's sum (K^1.5 2^-52 of |p|), of
        both norms and of f.
    """

    def __init__(self, head: nn.Linear, x: Tensor, y: Tensor, *, clip: float) -> None:
        self._head, self._x, self._y, self._clip = head, x.detach(), y, clip
        inputs = head.in_features + (head.bias is not None)
        self._kept = self._rows(range(len(y))) if len(y) * inputs <= _MOST_KEPT else None

    def __call__(self, chosen: Sequence[int]) -> NDArray[np.int64]:
        """Sum over `chosen`, in units of C*2^-44, shape (parameters,), in the order of `trainable_vector`."""
        weights = _weights(self._head)
        total = np.zeros(weights.shape, np.int64)
        if np.isfinite(weights).all():  # else no unit has a finite gradient
            whole = _whole_weights(weights)
            for rows in self._chunks(chosen):
                total[:-1] += _product(_factors(rows, whole, clip=self._clip), rows.b).astype(np.int64)
        np.negative(total[:-1].sum(axis=0), out=total[-1])
        if self._head.bias is None:
            return total.ravel()
        return np.concatenate([total[:, :-1].ravel(), total[:, -1]])

    def _chunks(self, chosen: Sequence[int]) -> Iterator[_Rows]:
        if self._kept is not None and len(chosen) == len(self._y) <= _CHUNK:
            yield self._kept
            return
        for start in range(0, len(chosen), _CHUNK):
            part = chosen[start : start + _CHUNK]
            yield self._rows(part) if self._kept is None else self._kept.where(part)

    def _rows(self, chosen: Sequence[int]) -> _Rows:
        rows = torch.as_tensor(np.asarray(chosen, dtype=np.int64), device=self._x.device)
        x = self._x[rows].to("cpu", torch.float64).numpy()
        if self._head.bias is not None:
            x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
        return _whole_numbers(x, self._y[rows.to(self._y.device)].cpu().numpy())


def _weights(head: nn.Linear) -> Floats:
    """Weights with the bias as the last column, shape (classes, inputs)."""
    parts = [head.weight] if head.bias is None else [head.weight, head.bias[:, None]]
    weights: Floats = torch.cat([part.detach().to("cpu", torch.float64) for part in parts], dim=1).numpy()
    return weights


def _whole_numbers(x: Floats, y: NDArray[np.int64]) -> _Rows:
    """Round each row to multiples of a power of two, 2^-20 of its largest number or up to twice that."""
    largest = np.abs(x).max(axis=1, initial=0.0)
    live = np.isfinite(largest) & (largest >= math.ldexp(1.0, _LEAST_EXPONENT))
    exponent = np.where(live, np.frexp(np.where(live, largest, 1.0))[1] - _INPUT_BITS, 0)
    b = np.rint(np.ldexp(np.where(live[:, None], x, 0.0), -exponent[:, None]))
    squares = (b.astype(np.int64) ** 2).sum(axis=1)  # at most 2^15 2^40: exact
    return _Rows(b, np.ldexp(1.0, exponent), np.sqrt(squares.astype(np.float64)), y)


def _whole_weights(weights: Floats) -> tuple[Floats, float]:
    """Differences to the last class as whole numbers, shape (classes - 1, inputs), and their unit, a power of two.

    Guarantees:
        A row's L2 norm times 2^20 sqrt(inputs), which bounds the norm of any unit's integers, is at most 2^53.
    """
    root = math.ceil(math.log2(weights.shape[1]) / 2)
    bits = _EXACT_BITS - _INPUT_BITS - root
    # Halves, so that a difference does not overflow; the last class's logit is then zero.
    difference = weights[:-1] / 2 - weights[-1] / 2
    largest = max(float(np.abs(difference).max()), math.ldexp(1.0, _LEAST_EXPONENT))
    # The norm is at most the largest number times 2^root; what rounding adds is at most that of the bit left free.
    exponent = math.frexp(largest)[1] + root - (bits - 1)
    difference *= math.ldexp(1.0, -exponent)
    return np.rint(difference, out=difference), math.ldexp(1.0, exponent + 1)


def _product(left: Floats, right: Floats) -> Floats:
    """Matrix product of whole numbers whose partial sums all stay within 2^53; exact."""
    product: Floats = torch.mm(torch.from_numpy(left), torch.from_numpy(right)).numpy()
    return product


def _factors(rows: _Rows, whole: tuple[Floats, float], *, clip: float) -> Floats:
    """The factors a of the gradients a (x) b but for the last class: whole numbers, shape (classes - 1, n)."""
    weights, unit = whole
    classes = len(weights) + 1
    with np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore"):
        logits = _product(weights, rows.b.T)
        logits *= unit
        logits *= rows.scale
        p = _error_of_softmax(logits, rows.y)
        last = _sum_rows(p)
        size = np.sqrt(_sum_rows(p * p) + last * last)
        allowed = 2.0**FINEST_BITS * (1 - _MARGIN) - classes / 2 * rows.norm
        free = rows.scale * (2.0**FINEST_BITS / clip)
        p *= np.minimum(free, allowed / (size * rows.norm))
        p[:, ~(np.isfinite(size) & (size > 0) & (rows.norm > 0))] = 0.0
    return np.rint(p, out=p)


def _error_of_softmax(logits: Floats, y: NDArray[np.int64]) -> Floats:
    """Softmax minus one-hot of all classes but the last, whose logit is zero; shape (classes - 1, n)."""
    largest = np.maximum(logits.max(axis=0), 0.0)
    odds = _exp(logits - largest)
    p: Floats = odds / (_sum_rows(odds) + _exp(-largest))
    rows = np.flatnonzero(y < len(p))
    p[y[rows], rows] -= 1.0
    return p


def _sum_rows(rows: Floats) -> Floats:
    """Sum over the first axis in its order: numpy's own takes another order for arrays of another shape."""
    total: Floats = rows[0].copy()
    for row in rows[1:]:
        total += row
    return total


def _exp(t: Floats) -> Floats:
    """Exponential of numbers <= 0, to 1e-15 relative, by operations with one rounding each; zero below exp(-140)."""
    low = np.maximum(t, _LEAST_LOGIT)
    power = np.rint(low * math.log2(math.e))
    # ln 2 in two parts, the first with so few bits that its product is exact.
    rest = ((low - power * 0.693145751953125) - power * 1.42860682030941723212e-6) * 0.125
    series = np.full_like(rest, 1 / math.factorial(8))
    for order in range(7, -1, -1):
        series *= rest
        series += 1 / math.factorial(order)
    for _ in range(3):
        series *= series
    series *= ((power.astype(np.int64) + 1023) << 52).view(np.float64)
    series *= t >= _LEAST_LOGIT
    return series
