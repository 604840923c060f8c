"""From an update to integers on the public grid: clipping, weights, layout, and refusal of what is no number."""

from __future__ import annotations

import numpy as np
import pytest

from client.encode import decode_sum_of_updates
from common.ckks import PRESETS
from common.errors import DecryptionError, LocalProtocolError, WeightMismatch
from common.grid import plan_grid
from tests.support.weighted_updates import encode_update

GRID = plan_grid(PRESETS["compact"], [120, 80, 50], update_norm_bound=2.0, slot_sum_max=30)
SLOTS = np.array([7, -3], dtype=np.int64)


def test_the_layout_is_update_weight_slots_and_zeros() -> None:
    """Every hospital must put the same thing at the same place, or sums mean nothing."""
    integers = encode_update(np.full(3000, 1e-3), declared_size=80, slots=SLOTS, grid=GRID)
    assert integers.shape == (4096,)
    assert (integers[:3000] == round(1e-3 * 80 / 250 / GRID.step)).all()
    assert integers[3000:3003].tolist() == [80, 7, -3]
    assert not integers[3003:].any()


@pytest.mark.parametrize("factor", [1.0, 1.0001, 1e3, 1e300])
def test_a_long_update_is_scaled_down_to_the_bound_and_never_refused(factor: float) -> None:
    """A refusal would tell the coordinator something about the data; also squares that overflow must not."""
    direction = np.random.default_rng(0).standard_normal(1000)
    direction *= 2.0 / np.linalg.norm(direction)
    with np.errstate(over="ignore"):
        integers = encode_update(direction * factor, declared_size=120, slots=SLOTS, grid=GRID)
    expected = np.rint(direction * (120 / 250 / GRID.step))
    assert np.abs(integers[:1000] - expected).max() <= 1


def test_a_short_update_is_not_scaled() -> None:
    """Control of the clipping: below the bound only weight and grid act."""
    update = np.full(4, 0.5)
    integers = encode_update(update, declared_size=120, slots=SLOTS, grid=GRID)
    assert integers[:4] * GRID.step * 250 / 120 == pytest.approx(update, abs=2 * GRID.step)


def test_an_update_of_zeros_is_an_update() -> None:
    """The closing eval round sends one."""
    assert not encode_update(np.zeros(5), declared_size=50, slots=SLOTS, grid=GRID)[:5].any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused_before_it_is_encoded(bad: float) -> None:
    """A NaN becomes an arbitrary integer and would spoil the model of every hospital."""
    update = np.zeros(100)
    update[17] = bad
    with pytest.raises(LocalProtocolError, match="NaN"):
        encode_update(update, declared_size=50, slots=SLOTS, grid=GRID)


@pytest.mark.parametrize("size", [0, -5, 121])
def test_a_weight_that_the_grid_was_not_made_for_is_refused(size: int) -> None:
    """It would use headroom that belongs to the others."""
    with pytest.raises(LocalProtocolError, match="declared size"):
        encode_update(np.zeros(3), declared_size=size, slots=SLOTS, grid=GRID)


@pytest.mark.parametrize("slots", [[31], [-31], [16, -15], [np.iinfo(np.int64).min]])
def test_slots_beyond_the_plan_are_refused(slots: list[int]) -> None:
    """Counts share coefficients with the update; the plan reserved room for so many and no more."""
    with pytest.raises(LocalProtocolError, match="slots"):
        encode_update(np.zeros(3), declared_size=50, slots=np.array(slots, dtype=np.int64), grid=GRID)


def test_shapes_outside_the_contract_are_refused() -> None:
    """Flat vectors only: tensors are flattened once, by the layout."""
    for update in (np.zeros((2, 2)), np.zeros(0)):
        with pytest.raises(LocalProtocolError, match="flat"):
            encode_update(update, declared_size=50, slots=SLOTS, grid=GRID)
    with pytest.raises(LocalProtocolError, match="flat"):
        encode_update(np.zeros(3), declared_size=50, slots=SLOTS[np.newaxis], grid=GRID)


def test_a_dropout_renormalises_itself() -> None:
    """The mean over the survivors is weighted by the survivors' sizes, whoever is missing."""
    updates = {120: np.full(10, 0.1), 80: np.full(10, -0.2), 50: np.full(10, 0.3)}
    vectors = {n: encode_update(u, declared_size=n, slots=SLOTS, grid=GRID) for n, u in updates.items()}
    decoded = decode_sum_of_updates(vectors[120] + vectors[50], parameter_count=10, slot_count=2, grid=GRID)
    assert decoded.weight == 170
    assert decoded.slots.tolist() == [14, -6]
    assert decoded.mean_update == pytest.approx((120 * 0.1 + 50 * 0.3) / 170, abs=2 * GRID.step)


def test_a_sum_that_no_hospitals_of_the_plan_made_is_refused() -> None:
    """Weight beyond the roster, no weight, values in the padding, another length."""
    good = encode_update(np.zeros(10), declared_size=120, slots=SLOTS, grid=GRID)
    for weight in (0, -1, 251):
        other = good.copy()
        other[10] = weight
        with pytest.raises(WeightMismatch):
            decode_sum_of_updates(other, parameter_count=10, slot_count=2, grid=GRID)
    padded = good.copy()
    padded[-1] = 1
    with pytest.raises(DecryptionError, match="padding"):
        decode_sum_of_updates(padded, parameter_count=10, slot_count=2, grid=GRID)
    with pytest.raises(LocalProtocolError):
        decode_sum_of_updates(good[:-1], parameter_count=10, slot_count=2, grid=GRID)
    with pytest.raises(LocalProtocolError):
        decode_sum_of_updates(good, parameter_count=2046, slot_count=2, grid=GRID)
