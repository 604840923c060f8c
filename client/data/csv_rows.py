"""Connector `csv`: tables of patients in files of delimiter-separated values; docs/data.md explains the mapping."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from client.data.connector import Connector
from client.data.csv_cells import Codes, Decimal, number
from client.data.csv_file import CsvForm, Delimiter, Encoding, read_cells
from client.data.rows import RawRow, Reading, Value
from common.config import Settings
from common.errors import ConfigError, DataError, PlanError
from common.plan_data import SurvivalData, TableData
from common.plan_features import CategoryFeature, Feature, NumberFeature, OtherUnit, UnitCode, in_unit
from common.printable import PrintableText

EACH_ROW = "row"
ColumnName = Annotated[PrintableText, StringConstraints(min_length=1, max_length=200, strip_whitespace=True)]
Code = Annotated[PrintableText, StringConstraints(max_length=200, strip_whitespace=True)]

# Class, time and event of a patient; or why the row is left out.
Outcome = tuple[str, float | None, bool] | str


class LabelColumn(Settings):
    """Which column holds the class, and what this site's codes mean."""

    column: ColumnName
    classes: dict[Code, PrintableText] = Field(min_length=1)


class TimeColumn(Settings):
    """Which column holds the time until event or censoring."""

    column: ColumnName
    unit: UnitCode


class EventColumn(Settings):
    """Which column says whether the event was seen."""

    column: ColumnName
    codes: dict[Code, Literal["seen", "censored"]] = Field(min_length=1)


class FeatureColumn(Settings):
    """Where a feature of the plan stands at this site."""

    column: ColumnName | None = None
    unit: UnitCode | None = None
    values: dict[Code, PrintableText] = Field(default={})
    missing: tuple[Code, ...] = ()
    absent: bool = False

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.absent and (self.column is not None or self.unit is not None or self.values or self.missing):
            raise ConfigError("seen `absent: true` beside other keys; a feature that this site lacks has no other key")
        if not self.absent and self.column is None:
            raise ConfigError("seen no column; name its `column`, or write `absent: true` if this site lacks it")
        return self


class CsvMapping(Settings):
    """A mapping file of the form csv."""

    form: Literal["csv"]
    encoding: Encoding = "utf-8"
    delimiter: Delimiter | None = None
    decimal: Decimal = "."
    header: tuple[ColumnName, ...] = Field(default=(), max_length=10_000)
    patient: ColumnName
    label: LabelColumn | None = None
    time: TimeColumn | None = None
    event: EventColumn | None = None
    missing: tuple[Code, ...] = ()
    features: dict[str, FeatureColumn]

    @model_validator(mode="after")
    def _distinct_header(self) -> Self:
        twice = next((name for name in self.header if self.header.count(name) > 1), None)
        if twice is not None:
            raise ConfigError(f"header: seen '{twice}' twice; every column needs a name of its own")
        return self


def read_csv(path: Path, data: TableData | SurvivalData, mapping: CsvMapping) -> Reading:
    """Read a file of patients; see `client.data.connector.Connector`."""
    _check_features(data, mapping)
    reading = Reading()
    missing = Codes(dict.fromkeys(("", *mapping.missing), "missing"), "missing")
    cells_of = [
        _FeatureCell(feature, mapping.features[feature.name], mapping, reading)
        for feature in data.features
        if not mapping.features[feature.name].absent
    ]
    outcome_columns, outcome = _outcome(data, mapping, missing)
    patient = () if mapping.patient == EACH_ROW else (mapping.patient,)
    columns = (*(cell.column for cell in cells_of), *outcome_columns, *patient)
    if not columns:
        raise ConfigError("mapping: names no column of the file; map one feature at least")
    for line, cells in read_cells(path, CsvForm(mapping.encoding, mapping.delimiter, mapping.header), columns):
        place = f"{path.name} line {line}"
        if patient and cells[-1] in missing:
            raise DataError(
                f"{place}: the column '{mapping.patient}' is blank; whose each row is must stand there, so fill it in, "
                "or delete the row"
            )
        found = outcome(cells[len(cells_of) :], place)
        if isinstance(found, str):
            reading.left_out[found] += 1
            continue
        values = {
            each.name: None if cell in missing else each.value(cell, place)
            for each, cell in zip(cells_of, cells, strict=False)
        }
        label, time, event = found
        reading.rows.append(RawRow(place, cells[-1] if patient else None, values, label, time, event))
    return reading


class _FeatureCell:
    """Reads the cells of one feature."""

    def __init__(self, feature: Feature, here: FeatureColumn, mapping: CsvMapping, reading: Reading) -> None:
        self.name, self.column = feature.name, here.column or ""
        self._here, self._decimal, self._converted = here, mapping.decimal, reading.converted
        self._missing = Codes(dict.fromkeys(here.missing, "missing"), "missing")
        self._feature = feature
        if isinstance(feature, CategoryFeature):
            values = here.values or {value: value for value in feature.values}
            self._codes = Codes(values, f"features.{feature.name}.values")

    def value(self, cell: str, place: str) -> Value:
        """What a cell says, in the plan's unit and words; None where it is missing."""
        if cell in self._missing:
            return None
        where = f"{place}, column '{self.column}'"
        if isinstance(self._feature, CategoryFeature):
            return self._codes.meaning(cell, where)
        found = number(cell, where, decimal=self._decimal)
        unit = self._here.unit or self._feature.unit
        if unit != self._feature.unit:
            self._converted[f"{self.name} from {unit}"] += 1
        return in_unit(found, unit, own=self._feature.unit, others=self._feature.other_units)


def _outcome(
    data: TableData | SurvivalData, mapping: CsvMapping, missing: Codes[str]
) -> tuple[tuple[str, ...], Callable[[Sequence[str], str], Outcome]]:
    """Columns of what became of a patient, and what reads their cells, which come first in what it is given."""
    label, time, event = mapping.label, mapping.time, mapping.event
    if not _tells_outcome(mapping):
        return (), lambda _cells, _place: ("", None, False)
    if isinstance(data, TableData):
        if label is None or time is not None or event is not None:
            raise ConfigError("mapping: the plan has classes; map a `label`, and neither `time` nor `event`")
        _known("label.classes", label.classes.values(), data.classes, "classes")
        classes = Codes(label.classes, "label.classes")

        def classed(cells: Sequence[str], place: str) -> Outcome:
            if cells[0] in missing:
                return "missing_label"
            return classes.meaning(cells[0], f"{place}, column '{label.column}'"), None, False

        return (label.column,), classed
    if label is not None or time is None or event is None:
        raise ConfigError("mapping: the plan has times to an event; map `time` and `event`, and no `label`")
    _check_unit("time.unit", time.unit, own=data.time_unit, others=data.other_time_units)
    events = Codes(event.codes, "event.codes")

    def timed(cells: Sequence[str], place: str) -> Outcome:
        if cells[0] in missing or cells[1] in missing:
            return "missing_time" if cells[0] in missing else "missing_event"
        found = number(cells[0], f"{place}, column '{time.column}'", decimal=mapping.decimal)
        in_plan = in_unit(found, time.unit, own=data.time_unit, others=data.other_time_units)
        return "", in_plan, events.meaning(cells[1], f"{place}, column '{event.column}'") == "seen"

    return (time.column, event.column), timed


def _check_features(data: TableData | SurvivalData, mapping: CsvMapping) -> None:
    """Refuse a mapping that does not say of every feature of the plan, and of no other, where it stands."""
    names = [feature.name for feature in data.features]
    for name in mapping.features:
        if name not in names:
            raise ConfigError(f"mapping: features.{name}: the plan has no such feature; it has {', '.join(names)}")
    for feature in data.features:
        key, here = f"features.{feature.name}", mapping.features.get(feature.name)
        if here is None:
            raise ConfigError(f"mapping: key '{key}' is missing; name its column, or write {{absent: true}} there")
        if here.absent and feature.missing != "flag":
            raise ConfigError(
                f"mapping: {key}: seen `absent: true`; the plan uses no row without this feature (missing: "
                f"{feature.missing}); map a column, or agree on a plan with `missing: flag`"
            )
        if not here.absent:
            _check_feature(key, feature, here)


def _check_feature(key: str, feature: Feature, here: FeatureColumn) -> None:
    if isinstance(feature, NumberFeature):
        if here.unit is None or here.values:
            raise ConfigError(f"mapping: {key}: is a number in the plan; name the column's `unit`, and no `values`")
        _check_unit(f"{key}.unit", here.unit, own=feature.unit, others=feature.other_units)
        return
    if here.unit is not None:
        raise ConfigError(f"mapping: {key}: is a category in the plan; remove its `unit`")
    _known(f"{key}.values", here.values.values(), feature.values, "values")


def _check_unit(key: str, unit: str, *, own: str, others: tuple[OtherUnit, ...]) -> None:
    try:
        in_unit(0.0, unit, own=own, others=others)
    except PlanError as error:
        raise ConfigError(f"mapping: {key}: {str(error).removeprefix('unit: ')}") from error


def _known(key: str, meanings: Collection[str], allowed: Sequence[str], what: str) -> None:
    for meaning in meanings:
        if meaning not in allowed:
            raise ConfigError(
                f"mapping: {key}: seen '{meaning}'; the plan's {what} are {', '.join(allowed)}; write one of them"
            )


def _patient_of(mapping: CsvMapping) -> str | None:
    return None if mapping.patient == EACH_ROW else mapping.patient


def _tells_outcome(mapping: CsvMapping) -> bool:
    return mapping.label is not None or mapping.time is not None or mapping.event is not None


CONNECTOR = Connector(
    form="csv",
    kinds=(TableData, SurvivalData),
    mapping=CsvMapping,
    read=read_csv,
    patient_of=_patient_of,
    tells_outcome=_tells_outcome,
)
