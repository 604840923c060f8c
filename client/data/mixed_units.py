"""Finds a column whose unit was mixed up: most of its numbers lie where the plan says that none should."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.errors import DataError
from common.plan_features import NumberFeature

# Of fewer numbers half may lie outside by chance: one odd patient, scored alone, is no mistake.
FEWEST_VALUES = 10


def refuse_mixed_units(feature: NumberFeature, values: NDArray[np.float64]) -> None:
    """Refuse numbers of which more than half, or the median, lie outside of the feature's public range.

    Args:
        feature: What the plan declares.
        values: All that one site has of it, shape (n,), in the plan's unit; NaN and infinities are passed over.

    Raises:
        DataError: Names the feature, its range, and the unit that would fit; no value.
    """
    known = values[np.isfinite(values)]
    if len(known) < FEWEST_VALUES or _lies_inside(known, feature):
        return
    hint = next(
        (
            f"; they would lie inside {words} {other.unit}"
            for other in feature.other_units
            for words, as_if in (
                ("if they were", known * other.factor + other.offset),
                ("if they were not converted from", (known - other.offset) / other.factor),
            )
            if _lies_inside(as_if, feature)
        ),
        "",
    )
    raise DataError(
        f"{feature.name}: most of its {len(known)} values lie outside of the plan's range, {feature.low:g} to "
        f"{feature.high:g} {feature.unit}{hint}; correct its unit in the mapping, or list the words that mean missing"
    )


def _lies_inside(values: NDArray[np.float64], feature: NumberFeature) -> bool:
    inside = (feature.low <= values) & (values <= feature.high)
    return bool(2 * np.count_nonzero(inside) >= len(values) and feature.low <= np.median(values) <= feature.high)
