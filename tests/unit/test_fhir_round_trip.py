"""The same patients as rows and as FHIR give the same numbers: what is trained on knows nothing of the form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from client.data.csv_rows import CsvMapping, read_csv
from client.data.rows import RawRow, Reading, RowTable, encode_rows
from client.data.source import DataPlace, read_data
from client.data.table import SiteTable
from common.config import load_settings, parse_settings
from common.plan_data import SurvivalData, TableData
from common.plan_features import NumberFeature
from tests.support.fhir_rows import Layout, mapping_for, rows_as_resources, write_bundles, write_ndjson

HEART = Path(__file__).parents[2].parent / "shared" / "data" / "heart"
COLUMNS = "age,sex,cp,trestbps,chol,fbs,restecg,thalach,exang,oldpeak,slope,ca,thal,num"
LAYOUT = Layout(age="age", gender="sex", genders={"1": "male", "0": "female"})
FEATURES = [
    {"kind": "number", "name": "age", "unit": "a", "low": 20, "high": 90, "missing": "flag"},
    {"kind": "category", "name": "sex", "values": ["0", "1"], "missing": "flag"},
    {"kind": "category", "name": "cp", "values": ["1", "2", "3", "4"], "missing": "flag"},
    {"kind": "number", "name": "trestbps", "unit": "mm[Hg]", "low": 80, "high": 220, "missing": "flag"},
    {
        "kind": "number",
        "name": "chol",
        "unit": "mg/dL",
        "low": 100,
        "high": 600,
        "missing": "flag",
        "other_units": [{"unit": "mmol/L", "factor": 38.67}],
    },
    {"kind": "number", "name": "oldpeak", "unit": "mm", "low": -3, "high": 7, "missing": "flag"},
]
HELD_OUT = {"held_out": 0.2, "held_out_salt": "salt"}
TABLE = TableData.model_validate({"kind": "table", "classes": ["well", "ill"], "features": FEATURES, **HELD_OUT})
SURVIVAL = SurvivalData.model_validate(
    {"kind": "survival", "time_unit": "d", "cuts": [100.0], "features": FEATURES, **HELD_OUT}
)


def heart_rows(hospital: str) -> list[RawRow]:
    """One hospital's file, read by eleven lines of Python."""
    rows = []
    lines = (HEART / f"processed.{hospital}.data").read_text(encoding="utf-8").split()
    for number, line in enumerate(lines, 1):
        cells = dict(zip(COLUMNS.split(","), line.split(","), strict=True))
        values: dict[str, float | str | None] = {}
        for feature in TABLE.features:
            cell = cells[feature.name]
            # In Switzerland and at the VA a cholesterol of 0 stands for none.
            known = None if cell == "?" or (feature.name == "chol" and float(cell) == 0) else float(cell)
            values[feature.name] = str(int(known)) if feature.kind == "category" and known is not None else known
        rows.append(RawRow(f"row {number}", f"{hospital}-{number}", values, "ill" if cells["num"] != "0" else "well"))
    return rows


def handwritten_rows() -> list[RawRow]:
    """Three patients, one of whom little is known."""
    first: dict[str, float | str | None] = {
        "age": 63.0,
        "sex": "1",
        "cp": "4",
        "trestbps": 145.0,
        "chol": 233.0,
        "oldpeak": 2.3,
    }
    second: dict[str, float | str | None] = {
        "age": 41.0,
        "sex": "0",
        "cp": "2",
        "trestbps": 130.5,
        "chol": 700.0,
        "oldpeak": -0.1,
    }
    return [
        RawRow("row 1", "a", first, "well"),
        RawRow("row 2", "b", second, "ill"),
        RawRow("row 3", "c", {name: 29.0 if name == "age" else None for name in first}, "ill"),
    ]


def as_table(rows: Sequence[RawRow], data: TableData | SurvivalData) -> RowTable:
    """What the plan makes of rows that no connector has touched."""
    return encode_rows(Reading(rows=list(rows)), data, unit="patient", patient_column="patient")


def as_fhir(
    folder: Path, rows: Sequence[RawRow], data: TableData | SurvivalData, *, form: str, layout: Layout = LAYOUT
) -> SiteTable:
    """The same through files of FHIR."""
    folder.mkdir(exist_ok=True)
    (folder / "mapping.yaml").write_text(mapping_for(data, layout), encoding="utf-8")
    write = write_bundles if form == "bundles" else write_ndjson
    write(folder / form, rows_as_resources(rows, data, layout))
    return read_data(DataPlace(folder / form, folder / "mapping.yaml"), data, unit="patient")


def assert_same(fhir: SiteTable, rows: RowTable) -> None:
    """Every unit has the same bytes: its row, its time, its label, its digest."""
    assert isinstance(fhir, RowTable)
    assert fhir.unit_labels() == rows.unit_labels()
    for mine, theirs in zip(fhir.unit_rows(), rows.unit_rows(), strict=True):
        assert mine.tobytes() == theirs.tobytes()
        assert mine.dtype == np.float64
    assert {record.unit: record.sha256 for record in fhir.records} == {r.unit: r.sha256 for r in rows.records}
    assert fhir.clipped == rows.clipped


@pytest.mark.parametrize("form", ["bundles", "ndjson"])
def test_a_table_and_fhir_give_the_same_bytes(tmp_path: Path, form: str) -> None:
    """Two hospitals with the same patients train on the same numbers, whatever form they hold."""
    rows = handwritten_rows()
    assert_same(as_fhir(tmp_path, rows, TABLE, form=form), as_table(rows, TABLE))


def test_one_other_value_is_seen(tmp_path: Path) -> None:
    """The control of the test above."""
    rows = handwritten_rows()
    other = [replace(rows[0], values={**rows[0].values, "chol": 233.0000001}), *rows[1:]]
    with pytest.raises(AssertionError):
        assert_same(as_fhir(tmp_path, other, TABLE, form="bundles"), as_table(rows, TABLE))


@pytest.mark.parametrize("form", ["bundles", "ndjson"])
def test_survival_rows_and_fhir_give_the_same_bytes(tmp_path: Path, form: str) -> None:
    """Times in days, events and censored ones."""
    rows = [replace(row, label="", time=17.0 * n, event=n == 1) for n, row in enumerate(handwritten_rows())]
    assert_same(as_fhir(tmp_path, rows, SURVIVAL, form=form), as_table(rows, SURVIVAL))


def test_another_unit_is_converted(tmp_path: Path) -> None:
    """A hospital that measures in mmol/L reaches the same row but for rounding, and is told of the conversion."""
    layout = replace(LAYOUT, units={"chol": "mmol/L"})
    rows = handwritten_rows()
    (tmp_path / "mapping.yaml").write_text(mapping_for(TABLE, layout), encoding="utf-8")
    write_bundles(tmp_path / "data", rows_as_resources(rows, TABLE, layout))
    table = read_data(DataPlace(tmp_path / "data", tmp_path / "mapping.yaml"), TABLE, unit="patient")
    assert isinstance(table, RowTable)
    assert table.converted == {"chol from mmol/L": 2}
    np.testing.assert_allclose(table.unit_rows()[0], as_table(rows, TABLE).unit_rows()[0], atol=1e-12)


def csv_place(folder: Path, hospital: str) -> DataPlace:
    """The hospital's own file with a column of patients, and the mapping that reads it."""
    lines = (HEART / f"processed.{hospital}.data").read_text(encoding="utf-8").split()
    numbered = [f"{hospital}-{number},{line}\n" for number, line in enumerate(lines, 1)]
    (folder / "heart.csv").write_text(f"patient,{COLUMNS}\n" + "".join(numbered), encoding="utf-8")
    features: dict[str, object] = {
        feature.name: {"column": feature.name, "unit": feature.unit}
        if isinstance(feature, NumberFeature)
        else {
            "column": feature.name,
            "values": {f"{value}.0": value for value in feature.values}
            | dict(zip(feature.values, feature.values, strict=True)),
        }
        for feature in TABLE.features
    }
    features["chol"] = {"column": "chol", "unit": "mg/dL", "missing": ["0", "0.0"]}
    label = {"column": "num", "classes": {"0": "well"} | {str(grade): "ill" for grade in range(1, 5)}}
    mapping = {"form": "csv", "patient": "patient", "missing": ["?"], "label": label, "features": features}
    (folder / "csv.yaml").write_text(yaml.safe_dump(mapping), encoding="utf-8")
    return DataPlace(folder / "heart.csv", folder / "csv.yaml")


@pytest.mark.skipif(not HEART.is_dir(), reason="the heart tables are not on this machine")
@pytest.mark.parametrize("hospital", ["cleveland", "hungarian", "switzerland", "va"])
def test_real_hospitals_give_the_same_bytes(tmp_path: Path, hospital: str) -> None:
    """920 real patients with their missing values, read through csv, and as FHIR in both of its forms."""
    rows = heart_rows(hospital)
    table = read_data(csv_place(tmp_path, hospital), TABLE, unit="patient")
    assert isinstance(table, RowTable)
    assert_same(as_table(rows, TABLE), table)
    for form in ("bundles", "ndjson"):
        assert_same(as_fhir(tmp_path, rows, TABLE, form=form), table)
    assert len(table.records) == {"cleveland": 303, "hungarian": 294, "switzerland": 123, "va": 200}[hospital]


@pytest.mark.skipif(not HEART.is_dir(), reason="the heart tables are not on this machine")
def test_the_heart_plan_s_rows_survive_fhir(tmp_path: Path) -> None:
    """All 13 features of configs/plans/heart.yaml."""
    configs = Path(__file__).parents[2] / "configs"
    data = parse_settings(
        yaml.safe_dump(yaml.safe_load((configs / "plans" / "heart.yaml").read_text(encoding="utf-8"))["data"]),
        TableData,
        source="data",
    )
    mapping = load_settings(configs / "mappings" / "heart-uci.yaml", CsvMapping)
    read = read_csv(HEART / "processed.hungarian.data", data, mapping).rows
    rows = [replace(row, patient=f"p{number}") for number, row in enumerate(read)]
    layout = Layout(age="age", gender="sex", genders={"female": "female", "male": "male"})
    assert_same(as_fhir(tmp_path, rows, data, form="ndjson", layout=layout), as_table(rows, data))
    assert len(rows) == 294
