"""From a hospital's rows, in the plan's terms, to one row of numbers for each privacy unit.

A connector reads its own form and yields `RawRow`s; all that decides what is trained on happens here, the same for
every form: ranges, categories, missing values, labels, and one row and one label for each unit.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.data.left_out import left_out_in_words
from client.data.missing_values import about_empty_columns, count_missing
from client.data.mixed_units import refuse_mixed_scale, refuse_mixed_units
from client.data.reading import RawRow, Reading, Value
from client.data.row_inputs import RowInputs, encode_row, finite_or_nan
from client.data.shown_names import name_some
from client.data.table import PrivacyUnit, UnitName, labels_by_unit
from common.canonical import canonical_bytes
from common.errors import DataError
from common.plan_data import GenotypeData, RowData, SurvivalData
from common.plan_expression import ExpressionData
from common.plan_features import NumberFeature
from common.plural import counted

__all__ = ["RawRow", "Reading", "RowRecord", "RowTable", "Value", "encode_rows", "left_out_in_words"]

_MOST_NAMED, _SHOWN = 30, 5


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
        rows: Shape (records, inputs), float64, each of L2 norm 1 at most (and 1e-12 of rounding): each feature's
            inputs, then the constant.
        times: Shape (records,), float64, in the plan's time unit; empty for classes. There `label_index` is 1 for an
            event and 0 for a censored time.
        converted: See `Reading`.
        missing: See `client.data.table.SiteTable`.
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
    missing: Mapping[str, int]

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
        DataError: If no row is left, a row names a feature, class or value that the plan does not, or a feature's
            unit looks mixed up.

    Guarantees:
        What stands of a unit in the table is a function of that unit's own rows and of public constants. Only a
        refusal looks at all rows.
    """
    _refuse_mixed_units(reading.rows, data)
    left_out, warnings = Counter(reading.left_out), list(reading.warnings)
    found: list[_Kept] = []
    twins, names, missing = Counter[str](), data.names, count_missing(reading.rows, data)
    for raw in reading.rows:
        if unknown := raw.values.keys() - names:
            raise DataError(f"{raw.place}: names '{min(unknown)}', which the plan does not; map the plan's names alone")
        label, inputs = _label(raw, data), encode_row(raw, data)
        if inputs is None:
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
        found.append(_Kept(RowRecord(raw.place, label, name, digest, ids), inputs, raw.time))
    kept = _one_label_per_unit(found, left_out, warnings, survival=isinstance(data, SurvivalData))
    if not kept:
        reasons = ", ".join(left_out_in_words(left_out)) or "nothing was found"
        of = f", missing are {name_some(list(missing))}" if left_out["missing_value"] else ""
        raise DataError(f"no row of the data can be used ({reasons}){of}; correct the data or the mapping")
    warnings += about_empty_columns(reading.rows, missing)
    warnings += _about_equal_rows([each.record for each in kept], unit=unit)
    clipped = Counter(name for each in kept for name in each.inputs.clipped)
    warnings += _about_clipped(clipped)
    times = [each.time for each in kept] if isinstance(data, SurvivalData) else []
    return RowTable(
        records=tuple(each.record for each in kept),
        rows=np.stack([each.inputs.values for each in kept]),
        times=np.array(times, dtype=np.float64),
        classes=data.classes,
        unit_name="record" if unit == "record" else "patient",
        patient_column=patient_column if unit == "patient" else None,
        warnings=tuple(warnings),
        left_out=dict(left_out),
        converted=dict(reading.converted),
        clipped=dict(clipped),
        missing=missing,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    """One row that may count."""

    record: RowRecord
    inputs: RowInputs
    time: float | None


def _label(raw: RawRow, data: RowData) -> int:
    if isinstance(data, SurvivalData):
        if raw.time is None or not math.isfinite(raw.time) or raw.time < 0:
            raise DataError(f"{raw.place}: the time is missing, negative or not finite; map it, or leave the row out")
        return 1 if raw.event else 0
    if raw.label not in data.classes:
        raise DataError(
            f"{raw.place}: its label is none of the plan's classes ({', '.join(data.classes)}); map the label to one"
        )
    return data.classes.index(raw.label)


def _digest(raw: RawRow) -> str:
    """Digest of what the row says, not of where it stands or how it is written: 1 is 1.0, and None is no entry."""
    values = {name: _as_said(value) for name, value in raw.values.items() if value is not None}
    time = None if raw.time is None else _as_said(raw.time)
    said = {"values": values, "label": raw.label, "time": time, "event": raw.event, "patient": raw.patient}
    return hashlib.sha256(canonical_bytes(said)).hexdigest()


def _as_said(value: float | str) -> float | str:
    # The sum makes 0.0 of -0.0.
    return value if isinstance(value, str) else float(value) + 0.0


def _one_label_per_unit(
    found: list[_Kept], left_out: Counter[str], warnings: list[str], *, survival: bool
) -> list[_Kept]:
    """Leave out patients whose rows contradict each other: of two labels, or of two times, neither can be believed."""
    said: dict[str, set[tuple[int, float | None]]] = defaultdict(set)
    for each in found:
        said[each.record.unit].add((each.record.label_index, each.time if survival else None))
    torn = {unit for unit, labels in said.items() if len(labels) > 1}
    if torn:
        left_out["conflicting_label"] += sum(each.record.unit in torn for each in found)
        warnings.append(f"{len(torn)} patient(s) carry more than one {'time' if survival else 'label'}: left out")
    return [each for each in found if each.record.unit not in torn]


def _about_equal_rows(records: Sequence[RowRecord], *, unit: PrivacyUnit) -> list[str]:
    """What the hospital should know of rows that say the same: a table that was exported twice looks like this."""
    counts = Counter((each.unit.startswith("patient:"), each.sha256) for each in records)
    equal = Counter[bool]()
    for (named, _), count in counts.items():
        equal[named] += count if count > 1 else 0
    words = {
        False: f"counts as a {unit} of its own",
        True: "enters its patient's mean more than once",
    }
    return [
        f"{counted(equal[named], 'row is', 'rows are')} equal to another row: each {words[named]}"
        for named in words
        if equal[named]
    ]


def _about_clipped(clipped: Counter[str]) -> Iterable[str]:
    """A sentence for each feature; one for all where they are so many that nobody would read them."""
    if len(clipped) > _MOST_NAMED:
        most = ", ".join(name for name, _ in clipped.most_common(_SHOWN))
        yield (
            f"{clipped.total()} values of {len(clipped)} features lie outside of the plan's ranges, most of {most}: "
            "the ranges' ends are taken"
        )
        return
    for name, n in clipped.items():
        seen = counted(n, f"value of {name} lies", f"values of {name} lie")
        yield f"{seen} outside of the plan's range: its end is taken"


def _refuse_mixed_units(rows: Sequence[RawRow], data: RowData) -> None:
    if isinstance(data, ExpressionData):
        values = [finite_or_nan(raw.values.get(gene)) for raw in rows for gene in data.genes]
        refuse_mixed_scale(data, np.array(values).reshape(-1, len(data.genes)))
        return
    for feature in () if isinstance(data, GenotypeData) else data.features:
        if isinstance(feature, NumberFeature):
            refuse_mixed_units(feature, np.array([finite_or_nan(raw.values.get(feature.name)) for raw in rows]))
