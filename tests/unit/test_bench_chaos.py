"""The accidents of the chaos bench: all kinds, no hospital twice, early enough to recover, and the same again."""

from __future__ import annotations

import pytest

from scripts.bench_chaos import ON_COORDINATOR, ON_SITES, ChaosOptions, chaos_plan, schedule

HOSPITALS = tuple(f"hospital-{number}" for number in range(1, 6))


@pytest.mark.parametrize("rounds", [2, 7, 20])
def test_each_kind_strikes_once_in_the_first_half(rounds: int) -> None:
    """More than two hospitals out at once could not be a cohort."""
    faults = schedule(ChaosOptions(rounds, len(HOSPITALS), 1.0, 7, None), HOSPITALS)
    assert sorted(fault.kind for fault in faults) == sorted(ON_SITES + ON_COORDINATOR)
    struck = [fault.hospital for fault in faults if fault.hospital]
    assert len(set(struck)) == len(ON_SITES)
    assert all(1 <= fault.after_round <= max(1, rounds // 2) for fault in faults)


def test_the_seed_decides() -> None:
    """A failure can be repeated."""
    first, again, other = (schedule(ChaosOptions(20, len(HOSPITALS), 1.0, seed, None), HOSPITALS) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_the_plan_is_the_demo_on_small_images() -> None:
    """It is parsed, so that a change of the demo's plan cannot break the bench unseen."""
    plan = chaos_plan(20)
    assert plan.training.rounds == 20
    assert plan.cohort.min_cohort == 3
