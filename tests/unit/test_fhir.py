"""The connector `fhir` on small handwritten resources: each rule of docs/data.md, section FHIR."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from client.data.fhir import read_fhir
from client.data.fhir_mapping import FhirMapping
from client.data.reading import RawRow, Reading
from common.config import parse_settings
from common.errors import DataError
from common.plan_data import SurvivalData, TableData

Json = dict[str, Any]
LOINC, SNOMED, UCUM = "http://loinc.org", "http://snomed.info/sct", "http://unitsofmeasure.org"
GLUCOSE = f"{LOINC}|2345-7"
HELD_OUT = {"held_out": 0.2, "held_out_salt": "salt"}
NUMBER = {"kind": "number", "low": 0, "high": 500, "missing": "flag"}
FEATURES = [
    NUMBER | {"name": "age", "unit": "a"},
    {"kind": "category", "name": "sex", "values": ["f", "m"], "missing": "flag"},
    NUMBER | {"name": "glucose", "unit": "mg/dL", "other_units": [{"unit": "mmol/L", "factor": 18.0}]},
    NUMBER | {"name": "systolic", "unit": "mm[Hg]"},
    {"kind": "category", "name": "smoker", "values": ["yes", "no"], "missing": "flag"},
    NUMBER | {"name": "asthma", "unit": "1"},
]
MAPPING: Json = {
    "form": "fhir",
    "index_date": {"date": "2020-06-15"},
    "features": {
        "age": {"from": "birthDate"},
        "sex": {"from": "gender", "values": {"female": "f", "male": "m"}},
        "glucose": {"from": "Observation", "codes": [GLUCOSE, "urn:here|sugar"], "take": "last", "window_days": 30},
        "systolic": {
            "from": "Observation",
            "codes": [f"{LOINC}|85354-9"],
            "component": [f"{LOINC}|8480-6"],
            "take": "last",
        },
        "smoker": {
            "from": "Observation",
            "codes": [f"{LOINC}|72166-2"],
            "take": "last",
            "values": {f"{SNOMED}|1": "yes", f"{SNOMED}|2": "no", "true": "yes", "never": "no"},
        },
        "asthma": {"from": "Condition", "codes": [f"{SNOMED}|195967001"], "take": "present"},
    },
}
LABEL = {"take": "present", "from": "Condition", "codes": [f"{SNOMED}|9"], "first_day": 1, "last_day": 365}
LABEL |= {"present": "ill", "absent": "well", "not_followed": "absent"}
REPLACED = {"link": [{"type": "replaced-by", "other": {"reference": "Patient/p"}}]}
YES_AND_NO = {"coding": [{"system": SNOMED, "code": "1"}, {"system": SNOMED, "code": "2"}]}
PATIENT: Json = {"resourceType": "Patient", "id": "p", "birthDate": "1957-06-15", "gender": "female"}


def read(
    folder: Path, resources: Sequence[Json], mapping: Json = MAPPING, *, survival: bool = False, **changes: Json
) -> Reading:
    """Resources as NDJSON, read with a mapping of which parts are changed."""
    (folder / "x.ndjson").write_text("".join(json.dumps(each) + "\n" for each in resources), encoding="utf-8")
    outcome = {"event": {"from": "death"}} if survival else {"label": LABEL}
    settings = parse_settings(yaml.safe_dump(mapping | outcome | changes), FhirMapping, source="mapping")
    kind: Json = {"kind": "survival", "time_unit": "d", "cuts": [1.0]} if survival else {"kind": "table"}
    classes = {} if survival else {"classes": ["well", "ill"]}
    model = SurvivalData if survival else TableData
    return read_fhir(
        folder / "x.ndjson", model.model_validate({**kind, **classes, "features": FEATURES, **HELD_OUT}), settings
    )


def only(reading: Reading) -> RawRow:
    """The one row."""
    assert len(reading.rows) == 1
    return reading.rows[0]


def concept(code: str) -> Json:
    """A CodeableConcept of `system|code`."""
    system, _, bare = code.partition("|")
    return {"coding": [{"system": system, "code": bare}]}


def resource(kind: str, code: str, **elements: object) -> Json:
    """A valid resource of patient `p`."""
    common: Json = {"resourceType": kind, "subject": {"reference": "Patient/p"}, "code": concept(code)}
    needed: dict[str, Json] = {
        "Observation": {"status": "final", "effectiveDateTime": "2020-06-01"},
        "Condition": {"onsetDateTime": "2020-06-01"},
        "Procedure": {"status": "completed", "performedDateTime": "2020-06-01"},
        "Encounter": {"status": "finished", "class": {"code": "AMB"}, "period": {"start": "2020-06-01"}},
    }
    if kind == "Encounter":
        common["type"] = [common.pop("code")]
    return common | needed[kind] | elements


def glucose(value: object, when: str = "2020-06-01", *, loinc: str = GLUCOSE, **quantity: object) -> Json:
    """A glucose in mg/dL, unless `quantity` says otherwise."""
    said = {"value": value, "unit": "mg/dL", "system": UCUM, "code": "mg/dL"} | quantity
    return resource("Observation", loinc, effectiveDateTime=when, valueQuantity=said)


def glucose_of(folder: Path, *resources: Json, **changes: object) -> object:
    """What the feature `glucose` is, after changes of its mapping."""
    features = MAPPING["features"] | {"glucose": MAPPING["features"]["glucose"] | changes}
    return only(read(folder, [PATIENT, *resources], features=features)).values["glucose"]


def test_a_patient_is_one_row(tmp_path: Path) -> None:
    """All kinds of features at once; the Patient may come last."""
    pressure = {
        "component": [
            {"code": concept(f"{LOINC}|{c}"), "valueQuantity": {"value": v, "unit": "mm[Hg]"}}
            for c, v in (("8480-6", 131), ("8462-4", 80))
        ]
    }
    resources = [
        glucose(5.5, loinc="urn:here|sugar", code="mmol/L"),
        resource("Observation", f"{LOINC}|85354-9", **pressure),
        resource("Observation", f"{LOINC}|72166-2", valueCodeableConcept=concept(f"{SNOMED}|2")),
        resource("Condition", f"{SNOMED}|195967001"),
        resource("Condition", f"{SNOMED}|9", onsetDateTime="2020-12-01"),
        PATIENT,
    ]
    reading = read(tmp_path, resources)
    row = only(reading)
    assert row.values == {
        "age": 63.0,
        "sex": "f",
        "glucose": 99.0,
        "systolic": 131.0,
        "smoker": "no",
        "asthma": 1.0,
    }
    assert (row.patient, row.label, row.place) == ("p", "ill", "x.ndjson, line 6")
    assert reading.converted == {"glucose from mmol/L": 1}
    assert not reading.left_out
    assert not reading.warnings


def test_a_patient_of_whom_nothing_is_known_has_missing_values(tmp_path: Path) -> None:
    """Absence of a Condition is 0; absence of everything else is missing."""
    row = only(read(tmp_path, [{"resourceType": "Patient", "id": "p"}]))
    assert row.values == {"age": None, "sex": None, "glucose": None, "systolic": None, "smoker": None, "asthma": 0.0}
    assert row.label == "well"


@pytest.mark.parametrize(
    ("take", "expected"),
    [("last", 120.0), ("first", 90.0), ("mean", 100.0), ("max", 120.0), ("min", 90.0)],
)
def test_values_of_the_window_are_summed_up(tmp_path: Path, take: str, expected: float) -> None:
    """The window holds the index date and thirty days before; what comes later is never a feature."""
    days = {"2020-05-15": 5, "2020-05-16": 90, "2020-06-01": 90, "2020-06-15": 120, "2020-06-16": 400}
    assert glucose_of(tmp_path, *(glucose(v, day) for day, v in days.items()), take=take) == expected


def test_the_order_of_a_file_decides_nothing(tmp_path: Path) -> None:
    """Sums are exact, and of two values at one moment the mean counts."""
    found = [glucose(value, "2020-06-01T08:00:00Z") for value in (0.1, 0.2, 0.3)]
    results = {glucose_of(tmp_path, *order) for order in (found, found[::-1], found[2:] + found[:2])}
    assert len(results) == 1


def test_times_are_ordered_across_zones_and_days_are_the_clock_s(tmp_path: Path) -> None:
    """Half past eleven at night in New York lies in the window that its date lies in, after noon in Berlin."""
    late = glucose(200, "2020-06-15T23:30:00-04:00")
    noon = glucose(100, "2020-06-15T12:00:00+02:00")
    assert glucose_of(tmp_path, late, noon) == 200.0
    assert glucose_of(tmp_path, glucose(7, "2020-06-16T00:30:00+14:00"), noon) == 100.0


@pytest.mark.parametrize(
    ("period", "value"),
    [
        ({"start": "2020-06-14", "end": "2020-06-16"}, None),
        ({"start": "2020-05-01", "end": "2020-06-14"}, 90.0),
        ({"start": "2020-06-14"}, 90.0),
    ],
)
def test_an_observation_counts_when_it_is_over(tmp_path: Path, period: Json, value: float | None) -> None:
    """A day's record that ends after the index date was not known then."""
    said = glucose(90)
    del said["effectiveDateTime"]
    assert glucose_of(tmp_path, said | {"effectivePeriod": period}) == value


@pytest.mark.parametrize(("start", "there"), [("2020-06-14", 1.0), ("2020-06-16", 0.0)])
def test_a_procedure_counts_from_its_start(tmp_path: Path, start: str, there: float) -> None:
    """It has happened even if it is not over."""
    features = MAPPING["features"] | {"asthma": {"from": "Procedure", "codes": ["s|p"], "take": "present"}}
    done = resource("Procedure", "s|p", performedPeriod={"start": start, "end": "2020-07-01"})
    del done["performedDateTime"]
    assert only(read(tmp_path, [PATIENT, done], features=features)).values["asthma"] == there


DRUG: Json = {"medicationCodeableConcept": concept("s|drug")}
TO_P: Json = {"subject": {"reference": "Patient/p"}}


@pytest.mark.parametrize(
    ("kind", "elements", "void"),
    [
        (
            "MedicationRequest",
            DRUG | TO_P | {"intent": "order", "status": "active", "authoredOn": "2020-06-01"},
            "draft",
        ),
        (
            "MedicationStatement",
            DRUG | TO_P | {"status": "active", "effectivePeriod": {"start": "2020-06"}},
            "not-taken",
        ),
        (
            "MedicationAdministration",
            DRUG | TO_P | {"status": "completed", "effectiveDateTime": "2020-06-01"},
            "not-done",
        ),
        (
            "Immunization",
            {
                "status": "completed",
                "vaccineCode": concept("s|drug"),
                "patient": {"reference": "Patient/p"},
                "occurrenceDateTime": "2020-06-01",
            },
            "not-done",
        ),
    ],
)
def test_drugs_and_vaccines_are_resources_too(tmp_path: Path, kind: str, elements: Json, void: str) -> None:
    """Each type has its own elements and statuses; one that was not given is left out."""
    features = MAPPING["features"] | {"asthma": {"from": kind, "codes": ["s|drug"], "take": "count"}}
    index = {"date": "2020-07-15"}
    given = {"resourceType": kind} | elements
    counted = read(tmp_path, [PATIENT, given, given | {"status": void}], features=features, index_date=index)
    assert only(counted).values["asthma"] == 1.0
    assert counted.left_out == {"entered_in_error_or_cancelled": 1}
    reference = {key: value for key, value in given.items() if key not in ("medicationCodeableConcept", "vaccineCode")}
    by_reference = reference | {"medicationReference": {"reference": "Medication/m"}}
    assert read(tmp_path, [PATIENT, by_reference], features=features).left_out == {"resource_without_a_code": 1}


@pytest.mark.parametrize(("date", "counts"), [("2020-06", None), ("2020", None), ("2020-05", None), ("2019", False)])
def test_a_partial_date_counts_only_where_all_its_days_do(tmp_path: Path, date: str, counts: bool | None) -> None:  # noqa: FBT001
    """June may be after the index date, and May may be before the window; 2019 is outside for sure."""
    reading = read(tmp_path, [PATIENT, glucose(90, date)])
    assert only(reading).values["glucose"] is None
    assert reading.left_out == ({"date_too_coarse_for_the_window": 1} if counts is None else {})


def test_a_partial_date_inside_counts(tmp_path: Path) -> None:
    """The control of the test above: all of May lies in a window of 60 days."""
    assert glucose_of(tmp_path, glucose(90, "2020-05"), window_days=60) == 90.0


@pytest.mark.parametrize(
    ("birth", "age"), [("1957-06-15", 63), ("1957-06-16", 62), ("1957", 62), ("1957-06", 62), ("1957-05", 63)]
)
def test_an_age_is_in_completed_years(tmp_path: Path, birth: str, age: int) -> None:
    """Of a year or a month the middle counts: 2 July, or the 16th."""
    assert only(read(tmp_path, [PATIENT | {"birthDate": birth}])).values["age"] == age


@pytest.mark.parametrize(
    ("birth", "day", "age"),
    [
        ("2020", "2020-01-01", None),
        ("2020", "2020-07-01", None),
        ("2020", "2020-07-02", 0),
        ("2020-06", "2020-06-15", None),
        ("2020-06", "2020-06-16", 0),
        ("2020-06-15", "2020-06-15", 0),
    ],
)
def test_no_age_is_negative(tmp_path: Path, birth: str, day: str, age: int | None) -> None:
    """Born in the year of the index date: an age is known from the middle of the days that may be meant."""
    reading = read(tmp_path, [PATIENT | {"birthDate": birth}], index_date={"date": day})
    assert only(reading).values["age"] == age


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (glucose(7, comparator="<"), "quantity_with_a_comparator"),
        (glucose(7, code="g/L"), "unit_not_in_the_plan"),
        (glucose(7) | {"valueQuantity": {"value": 7}}, "quantity_without_a_unit"),
        (glucose(1e200), "number_too_large"),
        (glucose(7) | {"valueQuantity": {"unit": "mg/dL"}}, "no_value"),
        (glucose(7) | {"valueQuantity": None}, "no_value"),
        (resource("Observation", GLUCOSE, valueString="seven"), "value_that_is_no_number"),
        (glucose(7) | {"status": "entered-in-error"}, "entered_in_error_or_cancelled"),
        (glucose(7) | {"status": "cancelled"}, "entered_in_error_or_cancelled"),
        (glucose(7) | {"subject": {"reference": "Patient/stranger"}}, "resource_of_a_patient_that_is_not_there"),
        (glucose(7) | {"subject": {"reference": "Group/p"}}, "resource_of_no_patient"),
        (glucose(7) | {"subject": {"display": "p"}}, "resource_of_no_patient"),
        (glucose(7) | {"subject": None}, "resource_of_no_patient"),
        (glucose(7) | {"code": {"text": "glucose"}}, "resource_without_a_code"),
        (glucose(7) | {"code": {"coding": [{"code": "2345-7"}]}}, "resource_without_a_code"),
        (glucose(7) | {"effectiveDateTime": None}, "resource_without_a_date"),
        (glucose(7) | {"modifierExtension": [{"url": "u", "valueCode": "x"}]}, "changed_by_a_modifier_extension"),
        (glucose(7) | {"resourceType": 5}, "resource_of_no_type"),
        (glucose(7) | {"resourceType": "Claim"}, "not_asked_for_by_the_mapping"),
        (glucose(7, loinc=f"{LOINC}|1"), "not_asked_for_by_the_mapping"),
    ],
)
def test_what_cannot_be_used_is_counted(tmp_path: Path, other: Json, reason: str) -> None:
    """It counts as if it were not there: the older value is taken."""
    later = other | ({"effectiveDateTime": "2020-06-14"} if other.get("effectiveDateTime") else {})
    reading = read(tmp_path, [PATIENT, glucose(90, "2020-05-30"), later])
    assert only(reading).values["glucose"] == 90.0
    assert reading.left_out == {reason: 1}
    assert not reading.warnings


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("Condition", {"verificationStatus": concept("s|entered-in-error")}),
        ("Condition", {"verificationStatus": concept("s|refuted")}),
        ("Procedure", {"status": "not-done"}),
        ("Encounter", {"status": "planned"}),
        ("Encounter", {"status": "cancelled"}),
    ],
)
def test_what_was_not_so_is_not_present(tmp_path: Path, kind: str, changes: Json) -> None:
    """The same resource without that status is."""
    asthma = {"from": kind, "codes": [f"{SNOMED}|5"], "take": "present"}
    features = MAPPING["features"] | {"asthma": asthma}
    there = resource(kind, f"{SNOMED}|5")
    assert only(read(tmp_path, [PATIENT, there], features=features)).values["asthma"] == 1.0
    reading = read(tmp_path, [PATIENT, there | changes], features=features)
    assert only(reading).values["asthma"] == 0.0
    assert reading.left_out == {"entered_in_error_or_cancelled": 1}


@pytest.mark.parametrize(
    ("changes", "element"),
    [
        ({"effectiveDateTime": "2020-13-45"}, "Observation.effectiveDateTime"),
        ({"valueQuantity": {"value": "secret"}}, "Observation.valueQuantity.value"),
        ({"valueQuantity": {"secret": 1}}, "Observation.valueQuantity (has an element that FHIR R4 does not)"),
        ({"secret": 1}, "Observation (has an element that FHIR R4 does not)"),
        ({"subject": "secret"}, "Observation.subject"),
        ({"status": None}, "Observation.status"),
        ({"id": "not an id"}, "Observation.id"),
    ],
)
def test_what_is_not_fhir_is_left_out_and_named(tmp_path: Path, changes: Json, element: str) -> None:
    """By line, type and element; not even a key that the file made up is repeated."""
    reading = read(tmp_path, [PATIENT, glucose(7) | changes])
    assert only(reading).values["glucose"] is None
    assert reading.left_out == {"not_valid_FHIR_R4": 1}
    assert reading.warnings == [f"x.ndjson, line 2, {element}: left out, since it is not FHIR R4"]


def test_nested_extensions_are_left_out(tmp_path: Path) -> None:
    """JSON that Python still reads, and the models of FHIR no longer do."""
    extension: Json = {"url": "u", "valueString": "x"}
    for _ in range(400):
        extension = {"url": "u", "extension": [extension]}
    reading = read(tmp_path, [PATIENT, glucose(7) | {"extension": [extension]}])
    assert reading.left_out == {"not_valid_FHIR_R4": 1}


def test_only_the_first_invalid_ones_are_named(tmp_path: Path) -> None:
    """A file of a million of them makes no million warnings."""
    reading = read(tmp_path, [PATIENT, *[glucose("secret") for _ in range(9)]])
    assert len(reading.warnings) == 6
    assert reading.warnings[-1] == "4 more resource(s) are left out, since they are not FHIR R4"


def test_an_invalid_resource_that_nobody_asked_for_stops_nothing(tmp_path: Path) -> None:
    """A Claim with an odd extension is not even looked at."""
    reading = read(tmp_path, [PATIENT, {"resourceType": "Claim", "extension": 5}, glucose(7)])
    assert only(reading).values["glucose"] == 7.0
    assert not reading.warnings


@pytest.mark.parametrize(
    "reference",
    ["Patient/p", "urn:uuid:p", "https://ehr.example/fhir/Patient/p", "Patient/p/_history/3"],
)
def test_references_of_every_form_are_understood(tmp_path: Path, reference: str) -> None:
    """Relative, in a bundle, absolute, and of a version."""
    said = glucose(7) | {"subject": {"reference": reference}}
    assert only(read(tmp_path, [PATIENT, said])).values["glucose"] == 7.0


def test_a_bundle_s_own_names_come_first(tmp_path: Path) -> None:
    """`urn:uuid:1` is whoever the bundle calls so, in each bundle another."""
    for own in ("a", "b"):
        entries = [
            {"fullUrl": "urn:uuid:1", "resource": PATIENT | {"id": own}},
            {"resource": glucose(ord(own)) | {"subject": {"reference": "urn:uuid:1"}}},
        ]
        content = {"resourceType": "Bundle", "type": "collection", "entry": entries}
        (tmp_path / f"{own}.json").write_text(json.dumps(content))
    settings = parse_settings(yaml.safe_dump(MAPPING | {"label": LABEL}), FhirMapping, source="mapping")
    data = {"kind": "table", "classes": ["well", "ill"], "features": FEATURES, **HELD_OUT}
    reading = read_fhir(tmp_path, TableData.model_validate(data), settings)
    assert [(row.patient, row.values["glucose"]) for row in reading.rows] == [("a", 97.0), ("b", 98.0)]


@pytest.mark.parametrize(
    ("second", "reason", "left"),
    [
        (PATIENT, "copy_of_a_resource", ["p", "q"]),
        (PATIENT | {"gender": "male"}, "two_patients_of_one_id", ["q"]),
        (PATIENT | {"id": None}, "patient_without_an_id", ["p", "q"]),
        (PATIENT | {"id": "r"} | REPLACED, "patient_replaced_by_another", ["p", "q"]),
    ],
)
def test_patients_are_told_apart_by_id(tmp_path: Path, second: Json, reason: str, left: list[str]) -> None:
    """A copy is harmless; two different Patients of one id are both left out, and nobody else is."""
    reading = read(tmp_path, [PATIENT, PATIENT | {"id": "q"}, second])
    assert [row.patient for row in reading.rows] == left
    assert reading.left_out == {reason: 2 if reason == "two_patients_of_one_id" else 1}


def linked(own: str, **links: str) -> Json:
    """A Patient with links, by type (`_` for a hyphen), each to one other."""
    said = [{"type": kind.replace("_", "-"), "other": {"reference": other}} for kind, other in links.items()]
    return PATIENT | {"id": own} | ({"link": said} if said else {})


REPLACED_BY, LINKED_REASON = "patient_replaced_by_another", "patient_linked_to_another"


@pytest.mark.parametrize(
    ("patients", "left", "left_out"),
    [
        ([linked("p"), linked("q")], ["p", "q"], {}),
        ([linked("p", replaces="Patient/q"), linked("q")], ["p"], {REPLACED_BY: 1}),
        ([linked("p", replaces="http://a/Patient/q"), linked("q", replaced_by="Patient/p")], ["p"], {REPLACED_BY: 1}),
        ([linked("p", seealso="Patient/q"), linked("q")], [], {LINKED_REASON: 2}),
        ([linked("p", seealso="Patient/x"), linked("q", seealso="urn:uuid:x")], [], {LINKED_REASON: 2}),
        ([linked("p", seealso="Patient/elsewhere"), linked("q")], ["q"], {LINKED_REASON: 1}),
        ([linked("p", refer="Patient/q"), linked("q")], ["q"], {LINKED_REASON: 1}),
        ([linked("p", seealso="#inside"), linked("q")], ["q"], {LINKED_REASON: 1}),
        ([linked("p", seealso="RelatedPerson/q"), linked("q")], ["p", "q"], {}),
        ([linked("x", replaced_by="Patient/p"), linked("p"), linked("q", replaces="Patient/x")], [], None),
        ([linked(k, replaces=f"Patient/{other}") for k, other in ("pq", "qr", "rs")] + [linked("s")], ["p"], None),
        ([linked("p", replaces="Patient/q"), linked("q", replaces="Patient/p")], [], {REPLACED_BY: 2}),
    ],
)  # fmt: skip
def test_of_linked_patients_one_at_most_is_used(
    tmp_path: Path, patients: list[Json], left: list[str], left_out: dict[str, int] | None
) -> None:
    """Two Patients of one person would be two units; `left` is kept in any order of the resources."""
    other = linked("z")
    for order in (patients, patients[::-1]):
        reading = read(tmp_path, [*order, other])
        assert sorted(str(row.patient) for row in reading.rows) == [*left, "z"]
        assert left_out is None or reading.left_out == left_out


def test_what_is_said_of_a_linked_patient_is_counted(tmp_path: Path) -> None:
    """Their resources are no one's."""
    reading = read(tmp_path, [linked("p", seealso="Patient/q"), glucose(90), linked("z")])
    assert reading.left_out == {LINKED_REASON: 1, "resource_of_a_patient_that_is_not_there": 1}


def test_copies_of_a_resource_count_once(tmp_path: Path) -> None:
    """An export that overlaps another changes nothing; two resources of one id that differ are both left out."""
    one, other = glucose(10) | {"id": "o"}, glucose(40) | {"id": "o"}
    later = one | {"meta": {"lastUpdated": "2020-07-01T00:00:00Z"}, "subject": {"reference": "urn:uuid:p"}}
    assert glucose_of(tmp_path, one, one, later, glucose(40), take="mean") == 25.0
    assert glucose_of(tmp_path, one, other, glucose(40), take="mean") == 40.0
    assert read(tmp_path, [PATIENT, one, other]).left_out == {"two_resources_of_one_id": 2}


def test_a_patient_s_row_depends_on_their_own_resources_alone(tmp_path: Path) -> None:
    """Another patient's resource of the same id, a broken one or a twin, moves nothing (the unit of privacy)."""
    mine = [PATIENT, glucose(10) | {"id": "o"}]
    theirs = [glucose(40) | {"id": "o", "subject": {"reference": "Patient/q"}}, glucose("bad")]
    theirs += [PATIENT | {"id": "q"}, PATIENT | {"id": "q", "gender": "male"}]
    alone, together = read(tmp_path, mine), read(tmp_path, mine + theirs)
    assert only(alone).values == only(together).values


@pytest.mark.parametrize(
    ("said", "expected", "left_out"),
    [
        ({"valueCodeableConcept": concept(f"{SNOMED}|1")}, "yes", {}),
        ({"valueBoolean": True}, "yes", {}),
        ({"valueString": "never"}, "no", {}),
        ({"valueCodeableConcept": concept(f"{SNOMED}|3")}, None, {"value_not_in_the_mapping": 1}),
        ({"valueBoolean": False}, None, {"value_not_in_the_mapping": 1}),
        ({"valueCodeableConcept": YES_AND_NO}, None, {"value_that_the_mapping_contradicts": 1}),
    ],
)
def test_coded_values_are_mapped(tmp_path: Path, said: Json, expected: str | None, left_out: Json) -> None:
    """Codes, truth values and texts, as the mapping names them."""
    reading = read(tmp_path, [PATIENT, resource("Observation", f"{LOINC}|72166-2", **said)])
    assert only(reading).values["smoker"] == expected
    assert reading.left_out == left_out


def test_contradicting_values_of_one_moment_are_missing(tmp_path: Path) -> None:
    """Nobody knows which was later."""
    both = [resource("Observation", f"{LOINC}|72166-2", valueCodeableConcept=concept(f"{SNOMED}|{n}")) for n in (1, 2)]
    reading = read(tmp_path, [PATIENT, *both])
    assert only(reading).values["smoker"] is None
    assert reading.left_out == {"different_values_of_one_moment": 1}


@pytest.mark.parametrize(("take", "day"), [("first", "2018-02-01"), ("last", "2019-02-01")])
def test_the_index_date_may_be_a_resource_s(tmp_path: Path, take: str, day: str) -> None:
    """Each patient has a day of their own; who has none is left out."""
    seen = [resource("Encounter", f"{SNOMED}|77", period={"start": f"{year}-02-01"}) for year in (2019, 2018)]
    index = {"resource": "Encounter", "codes": [f"{SNOMED}|77"], "take": take}
    reading = read(tmp_path, [PATIENT, PATIENT | {"id": "q"}, *seen, glucose(5, day)], index_date=index)
    assert only(reading).values["glucose"] == 5.0
    assert reading.left_out == {"patient_without_an_index_date": 1}


@pytest.mark.parametrize(
    ("patient", "reason"),
    [
        ({"birthDate": "2020-06-16"}, "patient_born_after_the_index_date"),
        ({"deceasedDateTime": "2020-06-14"}, "patient_who_died_before_the_index_date"),
    ],
)
def test_who_did_not_live_then_is_left_out(tmp_path: Path, patient: Json, reason: str) -> None:
    """An index date before birth or after death says nothing of anybody."""
    reading = read(tmp_path, [PATIENT | patient, PATIENT | {"id": "q"}])
    assert only(reading).patient == "q"
    assert reading.left_out == {reason: 1}


def test_an_index_date_of_a_month_is_none(tmp_path: Path) -> None:
    """Windows of days need a day."""
    index = {"resource": "Encounter", "take": "last"}
    reading = read(tmp_path, [PATIENT, resource("Encounter", "s|1", period={"start": "2020-06"})], index_date=index)
    assert not reading.rows
    assert reading.left_out == {"patient_whose_index_date_is_no_day": 1}


@pytest.mark.parametrize(
    ("onset", "label"),
    [("2020-06-15", "well"), ("2020-06-16", "ill"), ("2021-06-15", "ill"), ("2021-06-16", "well"), ("2021", None)],
)
def test_a_label_is_a_condition_in_its_window(tmp_path: Path, onset: str, label: str | None) -> None:
    """From the day after the index date to a year later; of a coarse date that may be inside nobody knows."""
    reading = read(tmp_path, [PATIENT, resource("Condition", f"{SNOMED}|9", onsetDateTime=onset)])
    assert [row.label for row in reading.rows] == ([label] if label else [])
    assert reading.left_out == ({} if label else {"patient_whose_label_has_too_coarse_a_date": 1})


@pytest.mark.parametrize(
    ("patient", "contact", "used"),
    [({}, "2021-06-14", False), ({}, "2021-06-15", True), ({"deceasedDateTime": "2020-08-01"}, "2020-07-01", True)],
)
def test_absence_needs_somebody_who_looked(tmp_path: Path, patient: Json, contact: str, used: bool) -> None:  # noqa: FBT001
    """With `not_followed: leave-out` a patient last seen before the window's end has no label, unless they died."""
    label = LABEL | {"not_followed": "leave-out"}
    reading = read(tmp_path, [PATIENT | patient, resource("Encounter", "s|1", period={"start": contact})], label=label)
    assert [row.label for row in reading.rows] == (["well"] if used else [])
    assert reading.left_out == ({} if used else {"patient_not_followed_long_enough": 1})


def test_a_label_may_be_a_coded_value(tmp_path: Path) -> None:
    """The last of the window; who has none is left out."""
    label = {"take": "last", "from": "Observation", "codes": ["s|grade"], "first_day": -10, "last_day": 10}
    label |= {"values": {"s|0": "well", "s|1": "ill"}}
    days = {"2020-06-10": "s|0", "2020-06-20": "s|1", "2020-07-20": "s|0"}
    graded = [
        resource("Observation", "s|grade", effectiveDateTime=day, valueCodeableConcept=concept(code))
        for day, code in days.items()
    ]
    reading = read(tmp_path, [PATIENT, PATIENT | {"id": "q"}, *graded], label=label)
    assert only(reading).label == "ill"
    assert reading.left_out == {"patient_without_a_label": 1}


@pytest.mark.parametrize(
    ("patient", "contacts", "expected"),
    [
        ({"deceasedDateTime": "2020-06-25T10:00:00Z"}, ["2020-07-01"], (10.0, True)),
        ({"deceasedBoolean": False}, ["2020-07-01", "2020-06-20"], (16.0, False)),
        ({}, ["2020-06-15"], (0.0, False)),
        ({}, ["2020-06-14"], "patient_without_contact_after_the_index_date"),
        ({}, [], "patient_without_contact_after_the_index_date"),
        ({"deceasedBoolean": "true"}, ["2020-07-01"], "patient_who_died_on_an_unknown_day"),
        ({"deceasedBoolean": True}, ["2020-07-01"], "patient_who_died_on_an_unknown_day"),
        ({"deceasedDateTime": "2020"}, ["2020-07-01"], "patient_whose_event_is_on_an_unknown_day"),
    ],
)
def test_time_to_death(tmp_path: Path, patient: Json, contacts: list[str], expected: object) -> None:
    """From the index date to death, or to the last contact."""
    seen = [resource("Encounter", "s|1", period={"start": day}) for day in contacts]
    reading = read(tmp_path, [PATIENT | patient, *seen], survival=True)
    assert [(row.time, row.event) for row in reading.rows] == ([expected] if isinstance(expected, tuple) else [])
    assert reading.left_out == ({} if isinstance(expected, tuple) else {expected: 1})


@pytest.mark.parametrize(
    ("patient", "onsets", "expected"),
    [
        ({}, ["2020-07-15", "2020-06-17"], (2.0, True)),
        ({}, ["2020-06-15"], (0.0, True)),
        ({}, [], (30.0, False)),
        ({"deceasedDateTime": "2020-06-20"}, [], (5.0, False)),
        ({}, ["2020-06-14", "2020-07-01"], "patient_whose_event_was_before_the_index_date"),
        ({}, ["2020-06"], "patient_whose_event_is_on_an_unknown_day"),
    ],
)
def test_time_to_a_condition(tmp_path: Path, patient: Json, onsets: list[str], expected: object) -> None:
    """The first counts; death censors, and what is written down after it is no contact."""
    found = [resource("Condition", f"{SNOMED}|9", onsetDateTime=day) for day in onsets]
    seen = resource("Encounter", "s|1", period={"start": "2020-07-15"})
    event = {"from": "Condition", "codes": [f"{SNOMED}|9"]}
    reading = read(tmp_path, [PATIENT | patient, seen, *found], survival=True, event=event)
    assert [(row.time, row.event) for row in reading.rows] == ([expected] if isinstance(expected, tuple) else [])
    assert reading.left_out == ({} if isinstance(expected, tuple) else {expected: 1})


def test_no_patient_is_one_sentence(tmp_path: Path) -> None:
    """An export of Observations alone."""
    with pytest.raises(DataError) as seen:
        read(tmp_path, [glucose(7)])
    assert str(seen.value) == (
        "no Patient of the data can be used (1 resource of a patient that is not there); export Patient resources with "
        "the others"
    )
