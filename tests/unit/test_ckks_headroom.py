"""Planned headroom: the largest updates that a plan allows never wrap, whoever sends them, whatever their shape."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from client.encode import decode_sum_of_updates, encode_steps
from client.encrypt import SecretKey
from common.ckks import PRESETS, CkksParameters, EncryptedSum, add_in_place
from common.errors import DecryptionError, PlanError
from common.grid import Grid, plan_grid
from tests.support.weighted_updates import encode_update

BOTH = pytest.mark.parametrize("parameters", PRESETS.values(), ids=PRESETS)
ROSTERS = {
    "five-equal": [100] * 5,
    "fifty-equal": [37] * 50,
    "one-above-half": [900, 100, 50, 50, 100],
    "one-almost-alone": [10_000, 1, 1],
}
BOUND = 3.7
SLOT_SUM_MAX = 20_000
# Two slots of the last ciphertext are left for the weight and one metric.
PARAMETERS_OF_ONE_CHUNK = 2046


def one_coefficient(sign: float) -> NDArray[np.float64]:
    """All energy in the constant coefficient: the same real value in every complex slot but the weight's."""
    update = np.zeros(PARAMETERS_OF_ONE_CHUNK)
    update[::2] = sign
    return update


def one_parameter(sign: float) -> NDArray[np.float64]:
    """All energy in one slot: spread over all coefficients."""
    update = np.zeros(PARAMETERS_OF_ONE_CHUNK)
    update[11] = sign
    return update


def spread(sign: float) -> NDArray[np.float64]:
    """Energy in every slot, as training makes it."""
    return sign * np.random.default_rng(3).standard_normal(PARAMETERS_OF_ONE_CHUNK)


def encrypted_sum(key: SecretKey, vectors: Sequence[NDArray[np.int64]], grid: Grid) -> EncryptedSum:
    """What the coordinator stores for these hospitals."""
    uploads = [key.encrypt(vector, grid) for vector in vectors]
    words = np.zeros_like(uploads[0].words)
    for upload in uploads:
        add_in_place(words, upload.words, grid.parameters)
    return EncryptedSum(grid.parameters, words, tuple(upload.seeds for upload in uploads))


def maximal_vectors(update: NDArray[np.float64], sizes: Sequence[int], grid: Grid) -> list[NDArray[np.int64]]:
    """Every hospital sends the same update at the bound, and all metric counts fall to the first."""
    maximal = update * (BOUND / np.linalg.norm(update))
    counts = [SLOT_SUM_MAX] + [0] * (len(sizes) - 1)
    return [
        encode_update(maximal, declared_size=size, slots=np.array([count], dtype=np.int64), grid=grid)
        for size, count in zip(sizes, counts, strict=True)
    ]


@BOTH
@pytest.mark.parametrize("sizes", ROSTERS.values(), ids=ROSTERS)
@pytest.mark.parametrize("shape", [one_coefficient, one_parameter, spread])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_equal_updates_at_the_bound_never_wrap(
    parameters: CkksParameters, sizes: list[int], shape: object, sign: float
) -> None:
    """A sum that wraps is silent; so the plan must have room for the worst that it allows."""
    assert callable(shape)
    grid = plan_grid(parameters, sizes, update_norm_bound=BOUND, slot_sum_max=SLOT_SUM_MAX)
    vectors = maximal_vectors(shape(sign), sizes, grid)
    key = SecretKey.generate(parameters)
    integers = key.decrypt(encrypted_sum(key, vectors, grid), grid)
    assert (integers == sum(vectors, np.zeros_like(integers))).all()
    decoded = decode_sum_of_updates(integers, parameter_count=PARAMETERS_OF_ONE_CHUNK, slot_count=1, grid=grid)
    assert (decoded.weight, decoded.slots.tolist()) == (sum(sizes), [SLOT_SUM_MAX])


@pytest.mark.parametrize("sizes", ROSTERS.values(), ids=ROSTERS)
@pytest.mark.parametrize("shape", [one_coefficient, spread])
def test_equal_sums_that_enter_whole_never_wrap(sizes: list[int], shape: object) -> None:
    """Mode `distributed`: n sums at the bound, none weighted. The control plans for weights, and is far past q/2."""
    assert callable(shape)
    parameters = PRESETS["precise"]
    update = shape(1.0)
    maximal = update * (BOUND / np.linalg.norm(update))
    for weighted in (False, True):
        grid = plan_grid(parameters, sizes, update_norm_bound=BOUND, slot_sum_max=SLOT_SUM_MAX, weighted=weighted)
        whole = np.rint(maximal / grid.step).astype(np.int64)
        vectors = [
            encode_steps(whole, declared_size=size, slots=np.zeros(1, dtype=np.int64), grid=grid) for size in sizes
        ]
        if weighted:
            coefficient = len(sizes) * BOUND * grid.gain * parameters.scale * np.sqrt(2 / parameters.ring_degree)
            assert coefficient > parameters.modulus / 2
            continue
        key = SecretKey.generate(parameters)
        integers = key.decrypt(encrypted_sum(key, vectors, grid), grid)
        assert (integers == sum(vectors, np.zeros_like(integers))).all()
        decoded = decode_sum_of_updates(integers, parameter_count=PARAMETERS_OF_ONE_CHUNK, slot_count=1, grid=grid)
        mean = maximal * (len(sizes) / sum(sizes))
        np.testing.assert_allclose(decoded.mean_update, mean, atol=len(sizes) * grid.step)


@BOTH
def test_the_same_updates_wrap_without_planned_headroom(parameters: CkksParameters) -> None:
    """Control: with twice the gain the same five hospitals are past q/2, and the sum is wrong or refused."""
    sizes = ROSTERS["five-equal"]
    grid = plan_grid(parameters, sizes, update_norm_bound=BOUND, slot_sum_max=SLOT_SUM_MAX)
    greedy = dataclasses.replace(grid, gain=2 * grid.gain, step=grid.step / 2)
    vectors = maximal_vectors(one_coefficient(1.0), sizes, greedy)
    key = SecretKey.generate(parameters)
    total = encrypted_sum(key, vectors, greedy)
    try:
        integers = key.decrypt(total, greedy)
    except DecryptionError:
        return
    assert (integers != sum(vectors, np.zeros_like(integers))).any()


def test_the_worst_update_uses_the_room_and_a_usual_one_a_fraction_of_it() -> None:
    """The bound is tight: all energy in one coefficient reaches B, so a larger gain would be unsound."""
    grid = plan_grid(PRESETS["compact"], [100] * 5, update_norm_bound=BOUND, slot_sum_max=0)
    slots = PRESETS["compact"].ring_degree // 2
    constant = BOUND / np.sqrt(slots) * grid.gain * PRESETS["compact"].scale
    assert constant == pytest.approx(grid.room, rel=1e-12)


def test_steps_are_the_designs() -> None:
    """Numbers from the design: 8.6e-7 S for five hospitals with the compact preset; 104 sqrt(n)/B in general."""
    compact = plan_grid(PRESETS["compact"], [100] * 5, update_norm_bound=1.0, slot_sum_max=0)
    assert compact.step == pytest.approx(8.6e-7, rel=0.01)
    precise = plan_grid(PRESETS["precise"], [100] * 5, update_norm_bound=1.0, slot_sum_max=0)
    assert precise.step * np.sqrt(11_500 * 5 / 12) == pytest.approx(1.8e-12, rel=0.05)
    assert compact.encoded_step == pytest.approx(32 * 3.24 * np.sqrt(5 * 1024) / 2**27, rel=1e-12)
    assert compact.step * compact.gain == pytest.approx(compact.encoded_step, rel=1e-12)


def test_slots_take_room_from_the_updates() -> None:
    """Counts share coefficients with the update: a plan with larger counts gets a coarser grid, and at last none."""
    steps = [
        plan_grid(PRESETS["compact"], [100] * 5, update_norm_bound=1.0, slot_sum_max=most).step
        for most in (0, 10**6, 10**7)
    ]
    assert steps == sorted(set(steps))
    with pytest.raises(PlanError, match="no room"):
        plan_grid(PRESETS["compact"], [100] * 5, update_norm_bound=1.0, slot_sum_max=10**8)
    with pytest.raises(PlanError, match="no room"):
        plan_grid(PRESETS["compact"], [10**8] * 5, update_norm_bound=1.0, slot_sum_max=0)
    assert plan_grid(PRESETS["precise"], [10**8] * 5, update_norm_bound=1.0, slot_sum_max=10**9).room > 0


@pytest.mark.parametrize(
    ("sizes", "bound", "slots"),
    [
        ([], 1.0, 0),
        ([5, 0], 1.0, 0),
        ([5, -1], 1.0, 0),
        ([5], 0.0, 0),
        ([5], float("nan"), 0),
        ([5], float("inf"), 0),
        ([5], 1.0, -1),
    ],
)
def test_a_grid_for_an_impossible_plan_is_refused(sizes: list[int], bound: float, slots: int) -> None:
    """Each of these would make weights or steps that mean nothing."""
    with pytest.raises(PlanError):
        plan_grid(PRESETS["compact"], sizes, update_norm_bound=bound, slot_sum_max=slots)
