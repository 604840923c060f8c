"""Whatever JSON stands in a resource, the connector counts it or says one sentence: never a traceback."""

from __future__ import annotations

import copy
import json
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from client.data.fhir import read_fhir
from client.data.fhir_dates import moment_of
from client.data.fhir_mapping import FhirMapping
from common.config import parse_settings
from common.errors import DataError
from common.plan_data import TableData
from tests.support.fhir_rows import SYSTEM

MAPPING = f"""
form: fhir
index_date: {{resource: Encounter, take: last}}
features:
  age: {{from: birthDate}}
  x: {{from: Observation, codes: ["{SYSTEM}|x"], component: ["{SYSTEM}|y"], take: mean}}
  z: {{from: Observation, codes: ["{SYSTEM}|x"], take: last, values: {{"{SYSTEM}|c": "yes"}}}}
label:
  {{from: Condition, codes: ["{SYSTEM}|c"], take: present, first_day: 0, last_day: 9, present: a, absent: b,
    not_followed: leave-out}}
"""
SETTINGS = parse_settings(MAPPING, FhirMapping, source="mapping")
NUMBER = {"kind": "number", "low": 0, "high": 100, "missing": "flag"}
PLAN = TableData.model_validate(
    {
        "kind": "table",
        "classes": ["a", "b"],
        "held_out": 0.2,
        "held_out_salt": "salt",
        "features": [
            NUMBER | {"name": "age", "unit": "mo"},
            NUMBER | {"name": "x", "unit": "1"},
            {"kind": "category", "name": "z", "values": ["yes", "no"], "missing": "flag"},
        ],
    }
)
CODE = {"coding": [{"system": SYSTEM, "code": "x"}]}
SUBJECT = {"reference": "Patient/p"}
RESOURCES: list[dict[str, Any]] = [
    {
        "resourceType": "Patient",
        "id": "p",
        "birthDate": "1957-02-28",
        "gender": "male",
        "deceasedDateTime": "2021-01-01T00:00:00Z",
        "link": [{"type": "replaces", "other": {"reference": "Patient/q"}}],
    },
    {
        "resourceType": "Observation",
        "id": "o",
        "status": "final",
        "code": CODE,
        "subject": SUBJECT,
        "effectivePeriod": {"start": "2020-01-01", "end": "2020-01-02"},
        "component": [
            {
                "code": {"coding": [{"system": SYSTEM, "code": "y"}]},
                "valueQuantity": {"value": 1.5, "unit": "1", "system": "http://unitsofmeasure.org", "code": "1"},
            }
        ],
        "valueCodeableConcept": {"coding": [{"system": SYSTEM, "code": "c"}]},
    },
    {
        "resourceType": "Condition",
        "code": {"coding": [{"system": SYSTEM, "code": "c"}]},
        "subject": SUBJECT,
        "verificationStatus": {"coding": [{"system": "s", "code": "confirmed"}]},
        "onsetDateTime": "2020-02-02",
    },
    {
        "resourceType": "Encounter",
        "status": "finished",
        "class": {"code": "AMB"},
        "type": [CODE],
        "subject": SUBJECT,
        "period": {"start": "2020-02-02T10:00:00+01:00"},
    },
]
ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**299), 10**299)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from(
        ["2020", "0001-01-01", "9999-12-31", "2020-01-01T10:00:60Z", "Patient/", "urn:uuid:", '{"a": 1}']
    ),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


def places(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The paths of all values below a value."""
    pairs: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = list(enumerate(value))
    return [each for key, below in pairs for each in ((*path, key), *places(below, (*path, key)))]


PLACES = [(number, path) for number, resource in enumerate(RESOURCES) for path in places(resource)]


def read(resources: list[Any]) -> int:
    """How many rows are made of resources."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.ndjson"
        file.write_text("".join(json.dumps(each) + "\n" for each in resources), encoding="utf-8")
        return len(read_fhir(file, PLAN, SETTINGS).rows)


def test_the_resources_are_read_as_they_are() -> None:
    """The control: unchanged they make a row, so a change is a change of something that is read."""
    assert read(RESOURCES) == 1


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(PLACES), ODD), min_size=1, max_size=3))
@example([((0, ("link", 0)), '{"type": "replaced-by", "other": {"reference": "Patient/q"}}')])
@example([((0, ("birthDate",)), "9999-12-31"), ((3, ("period", "start")), "0001-01-01T00:00:00+14:00")])
def test_odd_values_anywhere_are_counted_or_one_sentence(
    changes: list[tuple[tuple[int, tuple[Any, ...]], Any]],
) -> None:
    """Up to three values of any kind at any place of four valid resources."""
    resources = copy.deepcopy(RESOURCES)
    for (number, path), odd in changes:
        below: Any = resources[number]
        try:
            for key in path[:-1]:
                below = below[key]
            below[path[-1]] = odd
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    try:
        rows = read(resources)
    except DataError:
        return
    assert rows <= 1


@given(st.dates())
def test_a_day_is_itself(day: date) -> None:
    """A full date means one day, a month all of its days, a year all of its."""
    whole, month, year = (moment_of(text) for text in (day.isoformat(), day.isoformat()[:7], day.isoformat()[:4]))
    assert whole is not None
    assert month is not None
    assert year is not None
    assert whole.first == whole.last == day.toordinal()
    assert year.first <= month.first <= day.toordinal() <= month.last <= year.last
    assert (date.fromordinal(month.first).day, date.fromordinal(month.last).month) == (1, day.month)
    assert year.last - year.first in (364, 365)


@pytest.mark.parametrize(
    "text", [None, 5, "", "T", "20", "2020-13", "2020-02-30", "2020-01-01T25:00:00Z", "x-y", "0000"]
)
def test_what_is_no_date_means_no_day(text: object) -> None:
    """None, and no error."""
    assert moment_of(text) is None
