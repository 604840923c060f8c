"""Rows of patients as a file in the plan's own words, and the mapping that reads it: for parts and drawn data."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from client.data.rows import RawRow
from client.data.source import DataPlace
from common.plan_data import GenotypeData, RowData, SurvivalData
from common.plan_expression import ExpressionData
from common.plan_features import NumberFeature

ROWS, MAPPING = "rows.csv", "mapping.yaml"
_SAMPLE, _PATIENT, _LABEL, _TIME, _EVENT = "sample", "patient_id", "label", "time", "event"


def write_rows(folder: Path, rows: Sequence[RawRow], data: RowData) -> DataPlace:
    """Write rows.csv and mapping.yaml into a new folder.

    Args:
        folder: Is made.
        rows: All with a patient, or all without.
        data: The plan's declaration.
    """
    folder.mkdir(parents=True)
    names = list(_names(data))
    # Genotypes and expression belong to samples, each named once; a patient may have several.
    named = isinstance(data, GenotypeData | ExpressionData)
    owned = all(row.patient is not None for row in rows)
    columns = (*((_SAMPLE,) if named else ()), *((_PATIENT,) if owned else ()), *names, *_outcome_columns(data))
    with (folder / ROWS).open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        for number, row in enumerate(rows, start=1):
            cells = {name: _text(row.values.get(name)) for name in names}
            sample = {_SAMPLE: f"S{number}"} if named else {}
            writer.writerow(cells | _outcome(row, data) | sample | ({_PATIENT: row.patient or ""} if owned else {}))
    text = yaml.safe_dump(_mapping(data, owned=owned), sort_keys=False)
    (folder / MAPPING).write_text(text, encoding="utf-8")
    return DataPlace(folder / ROWS, folder / MAPPING)


def _names(data: RowData) -> Iterable[str]:
    return (each.id for each in data.variants) if isinstance(data, GenotypeData) else (f.name for f in data.features)


def _text(value: float | str | None) -> str:
    return "" if value is None else value if isinstance(value, str) else repr(float(value)).removesuffix(".0")


def _outcome_columns(data: RowData) -> tuple[str, ...]:
    return (_TIME, _EVENT) if isinstance(data, SurvivalData) else (_LABEL,)


def _outcome(row: RawRow, data: RowData) -> dict[str, str]:
    if isinstance(data, SurvivalData):
        return {_TIME: _text(row.time), _EVENT: str(int(row.event))}
    return {_LABEL: row.label}


def _mapping(data: RowData, *, owned: bool) -> dict[str, Any]:
    patient = _PATIENT if owned else "row"
    if isinstance(data, GenotypeData | ExpressionData):
        label = {"column": _LABEL, "classes": {name: name for name in data.classes}}
        of = {"sample": _SAMPLE, **({"patient": patient} if owned else {}), "label": label}
        scale = {"scale": data.scale} if isinstance(data, ExpressionData) else {}
        return {"form": "expression-csv" if scale else "genotype-csv", **scale, **of}
    outcome: dict[str, Any]
    if isinstance(data, SurvivalData):
        codes = {"1": "seen", "0": "censored"}
        outcome = {"time": {"column": _TIME, "unit": data.time_unit}, "event": {"column": _EVENT, "codes": codes}}
    else:
        outcome = {"label": {"column": _LABEL, "classes": {name: name for name in data.classes}}}
    features = {
        feature.name: {"column": feature.name, **({"unit": feature.unit} if isinstance(feature, NumberFeature) else {})}
        for feature in data.features
    }
    return {"form": "csv", "patient": patient, **outcome, "features": features}
