"""Finds a unit or a scale that was mixed up: most of its numbers lie where the plan says that none should."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from client.data.expression_scale import parts, pseudocount
from common.errors import DataError
from common.plan_expression import ExpressionData
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


def refuse_mixed_scale(data: ExpressionData, values: NDArray[np.float64]) -> None:
    """Refuse expression of which more than half lies outside of the genes' public ranges: one scale holds for all.

    Args:
        data: What the plan declares.
        values: All that one site has, shape (n, genes), in the plan's scale; NaN and infinities are passed over.

    Raises:
        DataError: Names the plan's scale and the one that would fit; no value.
    """
    known = np.isfinite(values)
    count = int(np.count_nonzero(known))
    if count < FEWEST_VALUES or _mostly_inside(values, data):
        return
    measure, _ = parts(data.scale)
    plus = pseudocount(measure)
    with np.errstate(all="ignore"):  # what is no number then lies outside
        as_if = {measure: np.log2(values + plus), f"log2_{measure}": 2.0**values - plus}
    fitting = next((scale for scale, numbers in as_if.items() if _mostly_inside(numbers, data, known)), None)
    hint = "" if fitting is None else f"; they would lie inside if the mapping's `scale` were '{fitting}'"
    raise DataError(
        f"gene expression: most of {count} values lie outside of the plan's ranges in '{data.scale}'{hint}; correct "
        "`scale` in the mapping, or list the words that mean missing"
    )


def _mostly_inside(values: NDArray[np.float64], data: ExpressionData, known: NDArray[np.bool_] | None = None) -> bool:
    known = np.isfinite(values) if known is None else known
    low, high = (np.array(ends) for ends in zip(*((gene.low, gene.high) for gene in data.features), strict=True))
    return bool(2 * np.count_nonzero((low <= values) & (values <= high)) >= np.count_nonzero(known))


def _lies_inside(values: NDArray[np.float64], feature: NumberFeature) -> bool:
    inside = (feature.low <= values) & (values <= feature.high)
    return bool(2 * np.count_nonzero(inside) >= len(values) and feature.low <= np.median(values) <= feature.high)
