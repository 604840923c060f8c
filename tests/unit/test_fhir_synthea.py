"""The worked mapping of docs/data.md on 28 real bundles of Synthea, against a short computation in plain JSON."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from datetime import date, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from client.data.fhir import read_fhir
from client.data.fhir_fit import check_fit
from client.data.fhir_mapping import FhirMapping
from client.data.reading import Reading
from client.data.rows import RowTable, encode_rows
from client.data.source import DataPlace, read_data
from common.config import load_settings, parse_settings
from common.plan_data import SurvivalData, TableData

FHIR = Path(__file__).parents[2].parent / "shared" / "data" / "fhir"
EXAMPLE = Path(__file__).parents[2] / "configs" / "mappings" / "fhir-example.yaml"
PAGE = Path(__file__).parents[2] / "docs" / "data.md"
PAGE_EXAMPLE = re.compile(r"^<!-- example: fhir (\w+) -->\n```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
synthea = pytest.mark.skipif(not FHIR.is_dir(), reason="the Synthea bundles are not on this machine")

Json = dict[str, Any]
PLAN = dict(PAGE_EXAMPLE.findall(PAGE.read_text(encoding="utf-8")))["plan"]
TABLE = parse_settings(PLAN, TableData, source="plan")
SURVIVAL = SurvivalData(
    kind="survival",
    time_unit="a",
    cuts=(5.0,),
    features=TABLE.features,
    held_out=TABLE.held_out,
    held_out_salt=TABLE.held_out_salt,
)


@cache
def plain() -> dict[str, list[Json]]:
    """Resources by patient; each bundle but those of organisations is one patient's."""
    found = defaultdict(list)
    for file in sorted(FHIR.glob("*.json")):
        resources = [entry["resource"] for entry in json.loads(file.read_text(encoding="utf-8"))["entry"]]
        for patient in (each for each in resources if each["resourceType"] == "Patient"):
            found[patient["id"]] = resources
    return found


def when(resource: Json) -> datetime:
    """When it was; Synthea always writes full times."""
    period = resource.get("period") or resource.get("performedPeriod") or {}
    text = resource.get("effectiveDateTime") or resource.get("onsetDateTime") or resource.get("authoredOn")
    return datetime.fromisoformat(text or period["start"])


def those(resources: list[Json], kind: str, *codes: str) -> list[Json]:
    """Resources of a type with one of some codes, by time."""
    element = {"Encounter": "type", "MedicationRequest": "medicationCodeableConcept"}.get(kind, "code")
    found = []
    for each in (resource for resource in resources if resource["resourceType"] == kind):
        concept = each[element][0] if kind == "Encounter" else each[element]
        if concept["coding"][0]["code"] in codes:
            found.append(each)
    return sorted(found, key=when)


def expected(resources: list[Json]) -> tuple[Json, str]:
    """What a reader of the mapping would write down for one patient, by hand."""
    patient = next(each for each in resources if each["resourceType"] == "Patient")
    index = when(those(resources, "Encounter", "185349003")[-1]).date()
    born = date.fromisoformat(patient["birthDate"])

    def before(found: list[Json], days: int = 100_000) -> list[Json]:
        return [each for each in found if timedelta(0) <= index - when(each).date() <= timedelta(days)]

    bmi = before(those(resources, "Observation", "39156-5"), 730)
    pressures = [
        part["valueQuantity"]["value"]
        for each in before(those(resources, "Observation", "55284-4"), 1825)
        for part in each["component"]
        if part["code"]["coding"][0]["code"] == "8480-6"
    ]
    cholesterol = [each["valueQuantity"]["value"] for each in before(those(resources, "Observation", "2093-3"))]
    smoking = before(those(resources, "Observation", "72166-2"))
    words = {"266919005": "never", "8517006": "former", "449868002": "current"}
    values = {
        "age": index.year - born.year - ((index.month, index.day) < (born.month, born.day)),
        "sex": patient["gender"],
        "bmi": bmi[-1]["valueQuantity"]["value"] if bmi else None,
        "systolic": sum(pressures) / len(pressures) if pressures else None,
        "cholesterol": max(cholesterol) * 0.02586 if cholesterol else None,
        "smoker": words.get(smoking[-1]["valueCodeableConcept"]["coding"][0]["code"]) if smoking else None,
        "sinusitis": "yes" if before(those(resources, "Condition", "444814009", "40055000")) else "no",
        "prescriptions": len(before(those(resources, "MedicationRequest", "313782", "562251"), 3650)),
    }
    return values, "hypertension" if before(those(resources, "Condition", "38341003")) else "none"


def read(mapping: FhirMapping, data: TableData | SurvivalData) -> Reading:
    """All bundles."""
    return read_fhir(FHIR, data, mapping)


def test_the_page_shows_the_mapping_that_is_shipped() -> None:
    """And it fits the page's plan."""
    shown = dict(PAGE_EXAMPLE.findall(PAGE.read_text(encoding="utf-8")))["mapping"]
    assert shown == EXAMPLE.read_text(encoding="utf-8")
    check_fit(load_settings(EXAMPLE, FhirMapping), TABLE)


@synthea
def test_the_example_mapping_gives_the_numbers_of_a_plain_computation() -> None:
    """Every value of every patient, and every label."""
    reading = read(load_settings(EXAMPLE, FhirMapping), TABLE)
    assert [row.patient for row in reading.rows] == list(plain())
    assert len(reading.rows) == 28
    for row in reading.rows:
        values, label = expected(plain()[row.patient or ""])
        assert row.label == label
        assert row.values.keys() == values.keys()
        for name, value in values.items():
            seen = row.values[name]
            if isinstance(value, float) and isinstance(seen, float):
                assert math.isclose(seen, value, rel_tol=1e-12), name
            else:
                assert seen == value, name
    assert reading.left_out.keys() == {"not_asked_for_by_the_mapping"}
    assert not reading.warnings


@synthea
def test_the_example_mapping_reaches_a_table_of_units() -> None:
    """Through the site's own way of reading: 28 patients, their labels, cholesterol converted."""
    table = read_data(DataPlace(FHIR, EXAMPLE), TABLE, unit="patient")
    assert isinstance(table, RowTable)
    assert table.rows.shape == (28, TABLE.inputs)
    assert table.converted == {"cholesterol from mg/dL": 46}
    assert sum(table.unit_labels().values()) == sum(expected(each)[1] == "hypertension" for each in plain().values())
    assert table.patient_column == "Patient.id"


@synthea
def test_survival_from_the_first_check_up_to_hypertension() -> None:
    """Times in years of 365.25 days, to the first hypertension, or to the last Encounter or death."""
    text = (
        EXAMPLE.read_text(encoding="utf-8")
        .partition("label:")[0]
        .replace("take: last\n  codes", "take: first\n  codes")
    )
    event = 'event: {from: Condition, codes: ["http://snomed.info/sct|38341003"]}\n'
    reading = read(parse_settings(text + event, FhirMapping, source="mapping"), SURVIVAL)
    seen = {row.patient: (row.time, row.event) for row in reading.rows}
    counted = 0
    for patient, resources in plain().items():
        start = when(those(resources, "Encounter", "185349003")[0]).date()
        events = [when(each).date() for each in those(resources, "Condition", "38341003")]
        if events and events[0] < start:
            counted += 1
            continue
        died = next(each for each in resources if each["resourceType"] == "Patient").get("deceasedDateTime")
        contacts = [when(each).date() for each in resources if each["resourceType"] == "Encounter"]
        last = events[0] if events else datetime.fromisoformat(died).date() if died else max(contacts)
        assert seen[patient] == ((last - start).days / 365.25, bool(events))
    assert counted == reading.left_out["patient_whose_event_was_before_the_index_date"]
    assert len(seen) == 28 - counted
    assert encode_rows(reading, SURVIVAL, unit="patient", patient_column="Patient.id").times.min() >= 0


@synthea
def test_nothing_of_a_patient_stands_in_what_is_told() -> None:
    """Places and warnings hold no part of a file's name, since Synthea's names are those of the patients."""
    reading = read(load_settings(EXAMPLE, FhirMapping), TABLE)
    told = " ".join([*(row.place for row in reading.rows), *reading.warnings, *reading.left_out, *reading.converted])
    words = {word for file in FHIR.glob("*.json") for word in file.stem.split("_")}
    assert len(words) > 50
    assert not [word for word in words if word in told]
