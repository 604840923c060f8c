"""Five hospitals hold the same kind of records in three forms, and end with one model: `fedward demo --sites`.

`pytest -m slow tests/e2e/test_mixed_records.py`, about two minutes: real processes, TLS, TenSEAL and Opacus.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from client.data.rows import RawRow
from common.config import load_settings
from common.plan import Plan
from common.plan_data import TableData
from scripts.row_files import write_rows
from scripts.split_rows import deal_rows
from scripts.synthetic_rows import draw_rows
from tests.support.fhir_rows import Layout, mapping_for, rows_as_resources, write_bundles, write_ndjson
from tests.support.flower_federation import environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PLAN = Path(__file__).parents[2] / "configs" / "plans" / "heart.yaml"
PER_MMOL = 38.67
LAYOUT = Layout(age="age", gender="sex", genders={"female": "female", "male": "male"}, units={"cholesterol": "mmol/L"})


def drawn(data: TableData) -> list[RawRow]:
    """Patients with names, whole years and a known sex, as FHIR has them."""
    rows = []
    for number, row in enumerate(draw_rows(data, 600, seed=3)):
        age = row.values.get("age")
        values = dict(row.values) | {
            "age": None if age is None else float(round(float(age))),
            "sex": row.values.get("sex") or "female",
        }
        rows.append(replace(row, patient=f"patient-{number}", values=values))
    return rows


def in_own_words(folder: Path, rows: tuple[RawRow, ...], data: TableData) -> dict[str, str]:
    """A semicolon table in German, with cholesterol in mmol/L and codes of its own."""
    plain = write_rows(folder, rows, data)
    with plain.path.open(encoding="utf-8", newline="") as stream:
        lines = list(csv.DictReader(stream))
    table = folder / "Herz.csv"
    with table.open("w", encoding="cp1252", newline="") as stream:
        writer = csv.writer(stream, delimiter=";")
        names = [feature.name for feature in data.features]
        writer.writerow(["Fall", *names, "Gefäß verengt"])
        for line in lines:
            cells = [line[name] for name in names]
            place = names.index("cholesterol")
            if cells[place]:
                cells[place] = f"{float(cells[place]) / PER_MMOL:.6f}".replace(".", ",")
            cells = [cell.replace(".", ",") if cell.replace(".", "").lstrip("-").isdigit() else cell for cell in cells]
            writer.writerow([line["patient_id"], *cells, {"disease": "j", "healthy": "n"}[line["label"]]])
    mapping = yaml.safe_load((folder / "mapping.yaml").read_text(encoding="utf-8"))
    mapping |= {"encoding": "cp1252", "delimiter": ";", "decimal": ",", "patient": "Fall"}
    mapping["label"] = {"column": "Gefäß verengt", "classes": {"j": "disease", "n": "healthy"}}
    mapping["features"]["cholesterol"]["unit"] = "mmol/L"
    (folder / "mapping.yaml").write_text(yaml.safe_dump(mapping, allow_unicode=True), encoding="utf-8")
    return {"data": f"{folder.name}/Herz.csv", "mapping": f"{folder.name}/mapping.yaml"}


def as_fhir(folder: Path, rows: tuple[RawRow, ...], data: TableData, *, bundles: bool) -> dict[str, str]:
    """Bundles or NDJSON of the same patients."""
    (write_bundles if bundles else write_ndjson)(folder / "export", rows_as_resources(rows, data, LAYOUT))
    (folder / "mapping.yaml").write_text(mapping_for(data, LAYOUT), encoding="utf-8")
    return {"data": f"{folder.name}/export", "mapping": f"{folder.name}/mapping.yaml"}


def test_five_hospitals_with_three_forms_of_records_end_with_one_model(tmp_path: Path) -> None:
    """CSV in the plan's words and in a hospital's own, FHIR bundles, NDJSON; all take part in each round."""
    data = load_settings(PLAN, Plan).data
    assert isinstance(data, TableData)
    parts = deal_rows(drawn(data), 5, seed=0)
    folders = [tmp_path / f"hospital-{number}" for number in range(1, 6)]
    write_rows(folders[0], parts[0], data)
    held = [
        {"data": "hospital-1/rows.csv", "mapping": "hospital-1/mapping.yaml"},
        in_own_words(folders[1], parts[1], data),
        as_fhir(folders[2], parts[2], data, bundles=True),
        as_fhir(folders[3], parts[3], data, bundles=True),
        as_fhir(folders[4], parts[4], data, bundles=False),
    ]
    sites = tmp_path / "sites.yaml"
    sites.write_text(yaml.safe_dump({"sites": [{"name": f.name, **own} for f, own in zip(folders, held, strict=True)]}))
    report = tmp_path / "report.json"
    command = [str(Path(sys.executable).with_name("fedward")), "demo", "--plan", str(PLAN), "--sites", str(sites)]
    command += ["--rounds", "4", "--work", str(tmp_path / "work"), "--results", str(tmp_path / "results")]
    done = subprocess.run(  # noqa: S603 -- our own command
        [*command, "--json", str(report)], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(report.read_text())
    assert [len(row["contributors"]) for row in told["rounds"]] == [5] * 4
    assert told["unit"] == "patient"
    assert told["rounds"][-1]["accuracy"] > 0.6
    units = [each["units"] + each["held_out_units"] for each in told["hospitals"]]
    assert units == [len(part) for part in parts]
    models = list((tmp_path / "work").glob("federation/hospital-*/results/*/model.safetensors"))
    assert len(models) == 5
    assert len({model.read_bytes() for model in models}) == 1
