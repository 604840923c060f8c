"""The closed form of a linear head against exact integers: what it sums, how far a unit moves it, and what it reads."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from client.head_sum import FINEST_BITS, HeadSum, _exp, _factors, _weights, _whole_weights

EXAMPLES = 150


@dataclass(frozen=True)
class Case:
    """One head and some units, of any size that floats hold."""

    head: nn.Linear
    x: Tensor
    y: Tensor
    clip: float

    def sums(self) -> HeadSum:
        """The sums under test."""
        return HeadSum(self.head, self.x, self.y, clip=self.clip)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Rows, weights and clip of very different sizes; some rows broken."""
    units, inputs, classes = draw(st.integers(1, 12)), draw(st.integers(1, 40)), draw(st.integers(2, 6))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    head = nn.Linear(inputs, classes, bias=draw(st.booleans())).double()
    with torch.no_grad():
        for parameter in head.parameters():
            size = 10.0 ** draw(st.sampled_from([-200, -5, 0, 0, 1, 3, 150]))
            parameter.copy_(torch.from_numpy(size * generator.standard_normal(parameter.shape)))
    sizes = [draw(st.sampled_from([0.0, 1e-300, 1e-20, 0.03, 1.0, 1.0, 50.0, 1e9, 1e200])) for _ in range(units)]
    x = generator.standard_normal((units, inputs)) * np.array(sizes)[:, None]
    if draw(st.booleans()):
        x[generator.integers(units), generator.integers(inputs)] = draw(
            st.sampled_from([math.nan, math.inf, -math.inf])
        )
    y = generator.integers(0, classes, units)
    clip = 10.0 ** draw(st.sampled_from([-30, -3, 0, 0, 4, 30]))
    return Case(head, torch.from_numpy(x), torch.from_numpy(y), clip)


def exact_parts(case: Case) -> list[NDArray[np.object_]]:
    """Each unit's matrix in units of C*2^-44, as integers of any length, from the factors of that unit alone."""
    sums = case.sums()
    parts = []
    for unit in range(len(case.y)):
        rows = sums._rows([unit])
        factors = _factors(rows, _whole_weights(_weights(case.head)), clip=case.clip)
        a = np.array([int(one) for one in factors[:, 0]], dtype=object)
        a = np.append(a, -sum(a.tolist()))
        parts.append(np.outer(a, np.array([int(one) for one in rows.b[0]], dtype=object)))
    return parts


def flat(case: Case, matrix: NDArray[np.object_]) -> list[int]:
    """In the order of the parameters: weights, then bias."""
    if case.head.bias is None:
        return matrix.ravel().tolist()
    return [*matrix[:, :-1].ravel().tolist(), *matrix[:, -1].tolist()]


@settings(max_examples=EXAMPLES, deadline=None)
@given(cases())
def test_no_unit_is_longer_than_the_clip(case: Case) -> None:
    """The sensitivity: exactly at most 2^44 units of C*2^-44, whatever the data."""
    for part in exact_parts(case):
        assert sum(int(one) ** 2 for one in part.ravel()) <= (2**FINEST_BITS) ** 2


@settings(max_examples=EXAMPLES, deadline=None)
@given(cases())
def test_the_sum_is_exact(case: Case) -> None:
    """The library's matrix product against integers of any length: to the last bit, in whatever order it sums."""
    due = [int(one) for one in flat(case, np.sum(exact_parts(case), axis=0))]
    assert case.sums()(range(len(case.y))).tolist() == due


@settings(max_examples=EXAMPLES, deadline=None)
@given(cases(), st.data())
def test_a_unit_does_not_see_the_others(case: Case, data: st.DataObject) -> None:
    """Its factors have the same bits alone and among any others; so removing a unit moves nobody else at all."""
    chosen = data.draw(st.lists(st.integers(0, len(case.y) - 1), unique=True, min_size=1))
    sums, whole = case.sums(), _whole_weights(_weights(case.head))
    among = _factors(sums._rows(chosen), whole, clip=case.clip)
    for place, unit in enumerate(chosen):
        alone = _factors(sums._rows([unit]), whole, clip=case.clip)
        assert alone[:, 0].tobytes() == among[:, place].tobytes()


def test_a_plain_product_would_see_them() -> None:
    """The control: logits and sums in floats do depend on the number of rows, or on their order."""
    generator = torch.Generator().manual_seed(1)
    x, weights = (torch.randn(n, 1280, generator=generator, dtype=torch.float64) for n in (352, 9))
    whole = x @ weights.T
    changed = any(not torch.equal(x[:n] @ weights.T, whole[:n]) for n in range(1, 40))
    errors = torch.randn(9, 352, generator=generator, dtype=torch.float64)
    back = torch.arange(351, -1, -1)
    assert changed or not torch.equal(errors @ x, errors[:, back] @ x[back])


@pytest.mark.parametrize("units", [511, 512, 513, 1500])
def test_the_largest_sums_are_exact(units: int) -> None:
    """All units alike, so that nothing cancels: the sum reaches the bound that 53 bits leave for it."""
    inputs = 1280
    head = nn.Linear(inputs, 2, bias=False).double()
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0], [-1.0]]).expand(2, inputs))
    x = torch.full((units, inputs), 1 - 2.0**-20, dtype=torch.float64)
    y = torch.ones(units, dtype=torch.int64)
    one = exact_parts(Case(head, x[:1], y[:1], 0.1))[0]
    seen = HeadSum(head, x, y, clip=0.1)(range(units))
    assert seen.tolist() == [int(v) * units for v in one.ravel()]
    # One entry per class, as long as C allows: 2^44 over sqrt(2 inputs), from each unit.
    assert abs(seen[0]) == pytest.approx(units * 2.0**44 / math.sqrt(2 * inputs), rel=4e-6)


def test_the_exponential_is_one() -> None:
    """Against the library's, over the whole range."""
    t = -np.concatenate([np.linspace(0, 1, 5000), np.geomspace(1e-9, 139.9, 50_000)])
    np.testing.assert_allclose(_exp(t), np.exp(t), rtol=4e-15)
    assert _exp(np.array([-140.1, -1e300, -math.inf])).tolist() == [0, 0, 0]
