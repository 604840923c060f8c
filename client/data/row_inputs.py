"""One row's inputs to the model, made from public constants alone: ranges, categories, missing values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.data.reading import RawRow, Value
from common.errors import DataError
from common.plan_data import GenotypeData, RowData, row_constant, row_scale
from common.plan_features import CategoryFeature, NumberFeature


@dataclass(frozen=True, slots=True, eq=False)
class RowInputs:
    """What a model is given of one row.

    Attributes:
        values: Shape (inputs,), float64, of L2 norm 1 at most (and 1e-12 of rounding).
        clipped: Features whose number lay outside of its public range: they count as its end.
    """

    values: NDArray[np.float64]
    clipped: tuple[str, ...]


def encode_row(raw: RawRow, data: RowData) -> RowInputs | None:
    """The row's inputs, or None where a value is missing that must be there.

    Of a feature's inputs at most one differs from 0, or they are one number in [-1, 1]: the row's norm is that of
    `common.plan_data.row_scale`.

    Raises:
        DataError: If a value is none that the plan knows; names the place, and no value.
    """
    clipped: list[str] = []
    if isinstance(data, GenotypeData):
        parts: list[Sequence[float]] = [_alleles(raw, variant.id) for variant in data.variants]
    else:
        parts = []
        for feature in data.features:
            value = raw.values.get(feature.name)
            if value is None and feature.missing == "leave-out":
                return None
            if isinstance(feature, NumberFeature):
                parts.append(_number(raw, feature, value, clipped))
            else:
                parts.append(_category(raw, feature, value))
    numbers = [number for part in (*parts, (row_constant(data),)) for number in part]
    return RowInputs(np.array(numbers) * row_scale(data), tuple(clipped))


def finite_or_nan(value: Value) -> float:
    """A value as a number; NaN if it is none, or none that a float can hold."""
    try:
        return float(value) if isinstance(value, float | int) else math.nan
    except OverflowError:  # an integer of hundreds of digits
        return math.nan


def _alleles(raw: RawRow, variant: str) -> Sequence[float]:
    count = raw.values.get(variant)
    if count is None:
        return (0.0,)
    if count not in (0, 1, 2):
        raise DataError(f"{raw.place}: the allele count of {variant} is none of 0, 1, 2; correct the file")
    return (float(count) - 1.0,)


def _number(raw: RawRow, feature: NumberFeature, value: Value, clipped: list[str]) -> Sequence[float]:
    flag = (0.0,) if feature.missing == "flag" else ()
    if value is None:
        return (0.0, 1.0)
    number = finite_or_nan(value)
    if not math.isfinite(number):
        raise DataError(f"{raw.place}: {feature.name} is not a finite number; correct it, or declare it missing")
    inside = min(max(number, feature.low), feature.high)
    if inside != number:
        clipped.append(feature.name)
    return (2.0 * (inside - feature.low) / (feature.high - feature.low) - 1.0, *flag)


def _category(raw: RawRow, feature: CategoryFeature, value: Value) -> Sequence[float]:
    if value is not None and value not in feature.values:
        raise DataError(
            f"{raw.place}: {feature.name} is none of the plan's values ({', '.join(feature.values)}); map it to one"
        )
    flag = (float(value is None),) if feature.missing == "flag" else ()
    return (*(float(value == each) for each in feature.values), *flag)
