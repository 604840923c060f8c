"""Rows of patients who do not exist, by any declaration of rows: for demos without data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from client.data.rows import RawRow, Value
from client.data.source import DataPlace
from common.plan_data import GenotypeData, RowData, SurvivalData
from common.plan_features import CategoryFeature, Feature
from scripts.split_rows import deal_rows, write_parts

PATIENTS = 1000
# Of a feature that may be missing, so many are.
_MISSING = 0.1
# How far classes lie apart, in standard deviations of a feature.
_APART = 0.7
# How much allele frequencies differ between classes (F_ST), and how rare an allele may be among all of them.
_FIXATION, _RARE = 0.05, 0.1


def write_synthetic_rows(target: Path, data: RowData, *, hospitals: int, seed: int) -> dict[str, DataPlace]:
    """Draw patients and deal them.

    Args:
        target: Folder to make; see `scripts.split_rows.write_parts`.
        data: The plan's declaration: the rows keep to its features, ranges and classes.
        hospitals: How many parts, >= 1.
        seed: Of the drawing and the dealing, >= 0; the same seed gives the same rows.

    Returns:
        What each hospital holds.
    """
    rows = draw_rows(data, PATIENTS, seed=seed)
    return write_parts(target, deal_rows(rows, hospitals, seed=seed), data)


def draw_rows(data: RowData, patients: int, *, seed: int) -> tuple[RawRow, ...]:
    """Draw patients whose features lean to their class, or to the time that their event takes.

    Args:
        data: The declaration.
        patients: How many, >= 1.
        seed: >= 0.
    """
    random = np.random.default_rng(seed)
    draw = _Genotypes(data, random) if isinstance(data, GenotypeData) else _Features(data.features, data, random)
    rows = []
    for number in range(patients):
        place = f"drawn patient {number + 1}"
        if isinstance(data, SurvivalData):
            risk = float(random.normal())
            # Half of the patients of mean risk have their event before the last cut.
            time = float(random.exponential(data.cuts[-1] / math.log(2) * math.exp(-risk)))
            event = time <= data.cuts[-1]
            values = draw.values(risk)
            rows.append(RawRow(place, None, values, time=round(min(time, data.cuts[-1]), 3), event=event))
        else:
            label = int(random.integers(len(data.classes)))
            rows.append(RawRow(place, None, draw.values(label), data.classes[label]))
    return tuple(rows)


class _Features:
    """Features that lean to a class, or with a risk."""

    def __init__(self, features: tuple[Feature, ...], data: RowData, random: np.random.Generator) -> None:
        self._features, self._random = features, random
        self._lean = random.normal(size=(max(len(data.classes), 1), len(features)))

    def values(self, label: float) -> Mapping[str, Value]:
        lean = self._lean[label] if isinstance(label, int) else self._lean[0] * label
        return {f.name: self._value(f, float(shift)) for f, shift in zip(self._features, lean, strict=True)}

    def _value(self, feature: Feature, shift: float) -> Value:
        random = self._random
        if feature.missing == "flag" and random.random() < _MISSING:
            return None
        position = 1 / (1 + math.exp(-(_APART * shift + random.normal())))
        if isinstance(feature, CategoryFeature):
            return feature.values[min(int(position * len(feature.values)), len(feature.values) - 1)]
        return float(f"{feature.low + position * (feature.high - feature.low):.4g}")


class _Genotypes:
    """Allele counts whose frequencies differ between classes as between populations of one origin.

    References:
        Balding and Nichols, 1995, doi 10.1007/BF01441146: beta distributed around a frequency that all share.
    """

    def __init__(self, data: GenotypeData, random: np.random.Generator) -> None:
        self._names, self._random = [variant.id for variant in data.variants], random
        shared, spread = random.uniform(_RARE, 1 - _RARE, size=len(self._names)), 1 / _FIXATION - 1
        self._frequencies = random.beta(
            shared * spread, (1 - shared) * spread, size=(len(data.classes), len(self._names))
        )

    def values(self, label: float) -> Mapping[str, Value]:
        counts = self._random.binomial(2, self._frequencies[int(label)])
        return {name: float(count) for name, count in zip(self._names, counts, strict=True)}
