"""The hospital's side of the public grid: a weighted update and counts to integers, and the sum of them back.

Layout of a vector: the d integers of the weighted update, the weight slot (the declared size), the metric slots
(counts), then zeros up to whole ciphertexts. Slots are never scaled. All of it is element-wise float64 and int64
arithmetic without BLAS, so that hospitals which decode one sum hold the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.ckks import chunks_for
from common.errors import DecryptionError, LocalProtocolError, WeightMismatch
from common.grid import Grid


@dataclass(frozen=True, slots=True, eq=False)
class DecodedSum:
    """What the sum of the survivors' vectors says.

    Args:
        weight: Sum of the survivors' declared sizes, 1 to `grid.roster_total`.
        slots: Sums of the metric slots, shape (slot_count,), int64, counts.
        mean_update: Mean of the survivors' updates weighted by their declared sizes, or, where hospitals send sums over
            their units, the sums by unit; shape (d,), float64, in units of an update.
    """

    weight: int
    slots: NDArray[np.int64]
    mean_update: NDArray[np.float64]


def weigh(update: NDArray[np.float64], *, declared_size: int, grid: Grid) -> NDArray[np.int64]:
    """Scale an update down to the grid's norm bound, weight it and round it to the grid: post-processing, no more.

    A longer update is scaled down and never refused: a refusal would depend on data.

    Args:
        update: Flat parameter difference, shape (d,), d >= 1, in parameter units.
        declared_size: n_i of this hospital, in records.
        grid: The plan's grid.

    Returns:
        Integers on the grid, shape (d,).

    Raises:
        LocalProtocolError: If the update holds a NaN or an infinity, or is not flat.

    Guarantees:
        The update that enters has an L2 norm of at most grid.update_norm_bound * (1 + 1e-14) before it is weighted.
    """
    _require_flat(update)
    clipped = _scale_down(update.astype(np.float64, copy=False), grid.update_norm_bound)
    weight = declared_size / grid.weight_total
    steps: NDArray[np.int64] = np.rint(clipped * (weight / grid.step)).astype(np.int64)
    return steps


def encode_steps(
    steps: NDArray[np.int64], *, declared_size: int, slots: NDArray[np.int64], grid: Grid
) -> NDArray[np.int64]:
    """Append the weight slot and the metric slots to what lies on the grid already.

    Args:
        steps: Integers on the grid, shape (d,), d >= 1.
        declared_size: n_i of this hospital, in records, as the roster declares it.
        slots: Metric counts, shape (slot_count,).
        grid: The plan's grid.

    Returns:
        Integers on the grid, shape (chunks * N,); nothing is clipped or rounded.

    Raises:
        LocalProtocolError: If a shape, a type, the size or the slots are outside the plan.
    """
    if slots.ndim != 1 or slots.dtype != np.int64 or steps.dtype != np.int64:
        raise LocalProtocolError(
            f"slots of shape {slots.shape} and type {slots.dtype} beside integers of type {steps.dtype}; both must be "
            "flat and int64"
        )
    _require_flat(steps)
    if not 1 <= declared_size <= grid.largest_size:
        raise LocalProtocolError(f"declared size {declared_size} is none of the plan's, for which the grid was made")
    # In Python's integers: the absolute value of the smallest int64 would wrap.
    if sum(abs(int(slot)) for slot in slots) > grid.slot_sum_max:
        raise LocalProtocolError(f"metric slots that sum to more than the plan's {grid.slot_sum_max}")
    used = steps.size + 1 + slots.size
    integers = np.zeros(chunks_for(used, grid.parameters) * grid.parameters.values_per_chunk, dtype=np.int64)
    integers[: steps.size] = steps
    integers[steps.size] = declared_size
    integers[steps.size + 1 : used] = slots
    return integers


def decode_sum_of_updates(
    integers: NDArray[np.int64], *, parameter_count: int, slot_count: int, grid: Grid
) -> DecodedSum:
    """Split the decrypted sum of the survivors' vectors; the inverse of `encode_steps` after `weigh` for a sum.

    The update is divided by the weight slot, so that a hospital that dropped out renormalises itself.

    Args:
        integers: The decrypted sum on the grid, shape (chunks * N,).
        parameter_count: d.
        slot_count: Metric slots of the plan.
        grid: The plan's grid.

    Raises:
        LocalProtocolError: If the shape is not that of the layout.
        WeightMismatch: If the weight slot is not between 1 and the roster's total.
        DecryptionError: If the padding is not zero.
    """
    used = parameter_count + 1 + slot_count
    expected = chunks_for(used, grid.parameters) * grid.parameters.values_per_chunk
    if integers.shape != (expected,) or integers.dtype != np.int64:
        raise LocalProtocolError(f"a sum of shape {integers.shape} and type {integers.dtype}; ({expected},) int64")
    if integers[used:].any():
        raise DecryptionError("an aggregate that no hospitals of this plan made; its padding is not zero; refuse it")
    weight = int(integers[parameter_count])
    if not 1 <= weight <= grid.roster_total:
        raise WeightMismatch(
            f"an aggregate of weight {weight}; the roster's declared sizes sum to {grid.roster_total}; refuse it"
        )
    factor = grid.step * (grid.weight_total / weight)
    return DecodedSum(
        weight=weight,
        slots=integers[parameter_count + 1 : used].copy(),
        mean_update=integers[:parameter_count].astype(np.float64) * factor,
    )


def _require_flat(values: NDArray[np.float64] | NDArray[np.int64]) -> None:
    if values.ndim != 1 or not values.size:
        raise LocalProtocolError(f"an update of shape {values.shape}; it must be flat, and not empty")


def _scale_down(update: NDArray[np.float64], norm_bound: float) -> NDArray[np.float64]:
    """Scale `update` so that its L2 norm is at most `norm_bound`, also where squares would overflow."""
    largest = float(np.max(np.abs(update)))
    if not np.isfinite(largest):
        raise LocalProtocolError(
            "an update with a NaN or an infinity; the local training diverged and must be repaired"
        )
    if largest == 0.0:
        return update
    unit = update / largest
    unit_norm = float(np.sqrt(np.sum(unit * unit)))
    if largest * unit_norm <= norm_bound:
        return update
    return unit * (norm_bound / unit_norm)
