"""From a hospital's rows, in the plan's terms, to one row of numbers for each privacy unit.

A connector reads its own form and yields `RawRow`s; all that decides what is trained on happens here, the same for
every form: ranges, categories, missing values, labels, and one row and one label for each unit.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from client.data.table import PrivacyUnit, UnitName, labels_by_unit
from common.canonical import canonical_bytes
from common.errors import DataError
from common.plan_data import (
    CategoryFeature,
    GenotypeData,
    NumberFeature,
    RowData,
    SurvivalData,
    row_constant,
    row_scale,
)

Value = float | str | None


@dataclass(frozen=True, slots=True)
class RawRow:
    """What a connector found of one patient in one place, in the plan's units and words.

    Attributes:
        place: Where it stands, for messages to this hospital's eyes: file and row, never a value.
        patient: Whose it is, or None where the mapping says that each row is a patient of its own.
        values: By feature or variant; None, or no entry, where it is missing. Numbers are in the plan's unit.
        label: Name of the class; empty for survival data.
        time: Until event or censoring, in the plan's time unit; None for classes.
        event: Whether the event was seen.
    """

    place: str
    patient: str | None
    values: Mapping[str, Value]
    label: str = ""
    time: float | None = None
    event: bool = False


@dataclass(slots=True)
class Reading:
    """What a connector hands over: its rows, and what it left out or changed on the way.

    Attributes:
        rows: In the order of the source.
        left_out: How many records are not in `rows`, by reason (words for people, `_` for spaces).
        converted: How many numbers were converted, by feature and unit ("cholesterol from mmol/L").
        warnings: Sentences for this hospital's eyes; no patient's value stands in one.
    """

    rows: list[RawRow] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    converted: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class RowRecord:
    """One row that counts; see `client.data.table.ImageRecord` for the names that both share."""

    place: str
    label_index: int
    unit: str
    sha256: str
    ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class RowTable:
    """The rows of one source, encoded by public constants alone; see `client.data.table.SiteTable`.

    Attributes:
        rows: Shape (records, inputs), float64, each of L2 norm 1 at most: each feature's inputs, then the constant.
        times: Shape (records,), float64, in the plan's time unit; empty for classes. There `label_index` is 1 for an
            event and 0 for a censored time.
        converted: See `Reading`.
        clipped: How many numbers lay outside of their public range, by feature: they count as its end.
    """

    records: tuple[RowRecord, ...]
    rows: NDArray[np.float64]
    times: NDArray[np.float64]
    classes: tuple[str, ...]
    unit_name: UnitName
    patient_column: str | None
    warnings: tuple[str, ...]
    left_out: Mapping[str, int]
    converted: Mapping[str, int]
    clipped: Mapping[str, int]

    def unit_labels(self) -> dict[str, int]:
        """Each unit's label, in the units' sorted order: the order of every per-unit array."""
        return labels_by_unit(self.records)

    def unit_rows(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """One row per unit, in the order of `unit_labels`: the mean of its rows, and its time.

        Returns:
            Rows, shape (units, inputs), norm 1 at most; times, shape (units,), or empty for classes. A unit's row is a
            function of its own rows alone: they are added in the order of their digests.
        """
        of_unit: dict[str, list[int]] = defaultdict(list)
        for place in sorted(range(len(self.records)), key=lambda i: self.records[i].sha256):
            of_unit[self.records[place].unit].append(place)
        units = sorted(of_unit)
        rows = np.stack([self.rows[of_unit[unit]].mean(axis=0) for unit in units])
        times = np.array([self.times[of_unit[unit][0]] for unit in units]) if self.times.size else np.zeros(0)
        return rows, times


def encode_rows(reading: Reading, data: RowData, *, unit: PrivacyUnit, patient_column: str | None) -> RowTable:
    """Check and encode what a connector found.

    Args:
        reading: The connector's rows.
        data: The plan's declaration.
        unit: `patient`: all rows of a patient are one unit; `record`: each row is.
        patient_column: What the mapping calls the source of `RawRow.patient`; None where each row is a patient.

    Raises:
        DataError: If no row is left, or a row names a feature, class or value that the plan does not.
    """
    left_out, clipped, warnings = Counter(reading.left_out), Counter[str](), list(reading.warnings)
    kept: list[tuple[RawRow, RowRecord, NDArray[np.float64]]] = []
    twins: Counter[str] = Counter()
    for raw in reading.rows:
        label = _label(raw, data)
        values = _encode(raw, data, clipped)
        if values is None:
            left_out["missing_value"] += 1
            continue
        digest = _digest(raw)
        ids = (f"patient:{raw.patient}",) if raw.patient is not None else ()
        if unit == "patient" and ids:
            name = ids[0]
        else:
            # Equal rows are different people: the first, the second, ... of their kind.
            name = f"sha256:{digest}-{twins[digest]}"
            twins[digest] += 1
        kept.append((raw, RowRecord(raw.place, label, name, digest, ids), values))
    kept = _one_label_per_unit(kept, left_out, warnings, survival=isinstance(data, SurvivalData))
    if not kept:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items())) or "nothing was found"
        raise DataError(f"no row of the data can be used ({reasons}); correct the data or the mapping")
    warnings += [
        f"{n} value(s) of {name} lie outside of the plan's range: its end is taken" for name, n in clipped.items()
    ]
    times = [raw.time for raw, _, _ in kept if raw.time is not None]
    return RowTable(
        records=tuple(record for _, record, _ in kept),
        rows=np.stack([values for _, _, values in kept]),
        times=np.array(times, dtype=np.float64),
        classes=data.classes,
        unit_name="record" if unit == "record" else "patient",
        patient_column=patient_column if unit == "patient" else None,
        warnings=tuple(warnings),
        left_out=dict(left_out),
        converted=dict(reading.converted),
        clipped=dict(clipped),
    )


def _label(raw: RawRow, data: RowData) -> int:
    if isinstance(data, SurvivalData):
        if raw.time is None or not math.isfinite(raw.time) or raw.time < 0:
            raise DataError(f"{raw.place}: the time is missing, negative or not finite; map it, or leave the row out")
        return int(raw.event)
    if raw.label not in data.classes:
        raise DataError(
            f"{raw.place}: its label is none of the plan's classes ({', '.join(data.classes)}); map the label to one"
        )
    return data.classes.index(raw.label)


def _encode(raw: RawRow, data: RowData, clipped: Counter[str]) -> NDArray[np.float64] | None:
    """The row's inputs, or None where a value is missing that must be there."""
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
    return np.array([number for part in (*parts, (row_constant(data),)) for number in part]) * row_scale(data)


def _alleles(raw: RawRow, variant: str) -> Sequence[float]:
    count = raw.values.get(variant)
    if count is None:
        return (0.0,)
    if count not in (0, 1, 2):
        raise DataError(f"{raw.place}: the allele count of {variant} is none of 0, 1, 2; correct the file")
    return (float(count) - 1.0,)


def _number(raw: RawRow, feature: NumberFeature, value: Value, clipped: Counter[str]) -> Sequence[float]:
    flag = (0.0,) if feature.missing == "flag" else ()
    if value is None:
        return (0.0, 1.0)
    if not isinstance(value, float | int) or not math.isfinite(value):
        raise DataError(f"{raw.place}: {feature.name} is not a finite number; correct it, or declare it missing")
    inside = min(max(value, feature.low), feature.high)
    clipped[feature.name] += inside != value
    return (2.0 * (inside - feature.low) / (feature.high - feature.low) - 1.0, *flag)


def _category(raw: RawRow, feature: CategoryFeature, value: Value) -> Sequence[float]:
    if value is not None and value not in feature.values:
        raise DataError(
            f"{raw.place}: {feature.name} is none of the plan's values ({', '.join(feature.values)}); map it to one"
        )
    flag = (float(value is None),) if feature.missing == "flag" else ()
    return (*(float(value == each) for each in feature.values), *flag)


def _digest(raw: RawRow) -> str:
    """Digest of what the row says, not of where it stands."""
    said = {"values": {k: raw.values[k] for k in sorted(raw.values)}, "label": raw.label, "time": raw.time}
    return hashlib.sha256(canonical_bytes(said | {"event": raw.event, "patient": raw.patient})).hexdigest()


def _one_label_per_unit(
    kept: list[tuple[RawRow, RowRecord, NDArray[np.float64]]],
    left_out: Counter[str],
    warnings: list[str],
    *,
    survival: bool,
) -> list[tuple[RawRow, RowRecord, NDArray[np.float64]]]:
    """Leave out patients whose rows contradict each other: of two labels, or of two times, neither can be believed."""
    said: dict[str, set[tuple[int, float | None]]] = defaultdict(set)
    for raw, record, _ in kept:
        said[record.unit].add((record.label_index, raw.time if survival else None))
    torn = {unit for unit, labels in said.items() if len(labels) > 1}
    if torn:
        left_out["conflicting_label"] += sum(record.unit in torn for _, record, _ in kept)
        warnings.append(f"{len(torn)} patient(s) carry more than one {'time' if survival else 'label'}: left out")
    return [each for each in kept if each[1].unit not in torn]


def left_out_in_words(left_out: Mapping[str, int]) -> Iterable[str]:
    """How many records were left out, by reason, for people."""
    return (f"{count} {reason.replace('_', ' ')}" for reason, count in sorted(left_out.items()) if count)
