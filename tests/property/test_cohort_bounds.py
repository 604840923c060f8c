"""The bounds of protocol.md section 3, against the inequalities themselves and against what they are for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import PlanError
from common.plan_bounds import check_bounds, default_threshold, most_colluders

LONGEST = 60
EXHAUSTIVE = 16


def accepted(hospitals: int, threshold: int, min_cohort: int, colluders: int) -> bool:
    """Whether a plan with these numbers loads."""
    try:
        check_bounds(hospitals, threshold=threshold, min_cohort=min_cohort, assumed_colluders=colluders)
    except PlanError:
        return False
    return True


def inequalities(n: int, t: int, m: int, c: int) -> bool:
    """Copied from protocol.md section 3."""
    return n >= 3 and 2 * t >= n + c + 1 and t <= m <= n and m - c >= 2


@pytest.mark.parametrize("hospitals", range(3, LONGEST + 1))
def test_the_defaults_are_sound_for_every_roster(hospitals: int) -> None:
    """floor(2n/3) + 1 of n, and one colluder; one less than the least sound threshold is the control."""
    threshold = default_threshold(hospitals)
    assert threshold == int(2 * hospitals / 3 + 1e-9) + 1
    assert accepted(hospitals, threshold, threshold, 1)
    least = next(t for t in range(1, hospitals + 1) if accepted(hospitals, t, t, 1))
    assert not accepted(hospitals, least - 1, least, 1)


def test_a_plan_loads_exactly_if_the_inequalities_hold() -> None:
    """All numbers up to sixteen hospitals, sound and unsound ones; both kinds are there."""
    verdicts = set()
    for n in range(1, EXHAUSTIVE + 1):
        for t in range(n + 3):
            for m in range(n + 3):
                for c in range(n + 3):
                    verdicts.add(verdict := inequalities(n, t, m, c))
                    assert accepted(n, t, m, c) == verdict, (n, t, m, c)
    assert verdicts == {True, False}


@given(st.integers(1, LONGEST), st.data())
def test_a_plan_of_any_size_loads_exactly_if_the_inequalities_hold(n: int, data: st.DataObject) -> None:
    """Near the bounds, where an error of one would show."""
    c = data.draw(st.integers(0, n), label="c")
    t = data.draw(st.integers((n + c) // 2 - 1, (n + c) // 2 + 3), label="t")
    m = data.draw(st.sampled_from((t - 1, t, t + 1, n, n + 1, c + 1, c + 2)), label="m")
    assert accepted(n, t, m, c) == inequalities(n, t, m, c)


def test_more_hospitals_than_can_share_a_secret_are_refused() -> None:
    """The control is the longest roster."""
    assert accepted(LONGEST, 41, 41, 1)
    assert not accepted(LONGEST + 1, 41, 41, 1)


def test_no_accepted_plan_lets_a_single_update_out() -> None:
    """Two sums of one round take more revealing honest hospitals than there are, and split views leave two in a sum.

    The second is the design's formula for what a coordinator can take out of a sum by naming different survivors to
    different hospitals. The control: without the first bound, one update would be left alone.
    """
    alone = 0
    for n in range(3, LONGEST + 1):
        for t in range(2, n + 1):
            for m in range(t, n + 1):
                for c in range(1, min(t, m - 1)):
                    honest = n - c
                    left = honest - honest * (n - m) // (t - c)
                    if accepted(n, t, m, c):
                        assert 2 * (t - c) > honest
                        assert left >= 2
                        assert c <= most_colluders(n, threshold=t, min_cohort=m)
                    elif m - c >= 2:
                        alone += left < 2
    assert alone


@given(st.integers(3, LONGEST), st.data())
def test_the_most_colluders_are_those_that_a_plan_could_assume(n: int, data: st.DataObject) -> None:
    """What `approve` says is the largest number with which the same plan still loads."""
    t = data.draw(st.integers(n // 2 + 1, n), label="t")
    m = data.draw(st.integers(t, n), label="m")
    most = most_colluders(n, threshold=t, min_cohort=m)
    sound = [c for c in range(n + 1) if accepted(n, t, m, c)]
    assert sound == list(range(most + 1))
