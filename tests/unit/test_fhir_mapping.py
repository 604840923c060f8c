"""Every mistake in a mapping of FHIR is one sentence, before any patient is read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from client.data.fhir_resource import _model
from client.data.source import DataPlace, read_data
from common.errors import ConfigError, PlanError
from common.plan_data import SurvivalData, TableData

Json = dict[str, Any]
OBSERVATION = {"from": "Observation", "codes": ["s|c"], "take": "last"}
LABEL: Json = {"take": "present", "from": "Condition", "codes": ["s|9"], "first_day": 1, "last_day": 365}
LABEL |= {"present": "ill", "absent": "well", "not_followed": "absent"}
MAPPING: Json = {
    "form": "fhir",
    "index_date": {"date": "2020-06-15"},
    "features": {
        "age": {"from": "birthDate"},
        "sex": {"from": "gender", "values": {"female": "f"}},
        "visits": {"from": "Encounter", "codes": ["s|v"], "take": "count"},
    },
}
NUMBER = {"kind": "number", "low": 0, "high": 100}
FEATURES: list[Json] = [
    NUMBER | {"name": "age", "unit": "a", "missing": "leave-out"},
    {"kind": "category", "name": "sex", "values": ["f", "m"], "missing": "flag"},
    NUMBER | {"name": "visits", "unit": "1", "missing": "flag"},
]
HELD_OUT = {"held_out": 0.2, "held_out_salt": "salt"}


def read(folder: Path, mapping: Json, *, survival: bool = False, time_unit: str = "d", age_unit: str = "a") -> object:
    """Write the mapping, and read one Patient with it."""
    (folder / "x.ndjson").write_text('{"resourceType": "Patient", "id": "p", "birthDate": "1950-01-01"}')
    (folder / "mapping.yaml").write_text(yaml.safe_dump(mapping), encoding="utf-8")
    features = [FEATURES[0] | {"unit": age_unit}, *FEATURES[1:]]
    table = {"kind": "table", "classes": ["well", "ill"], "features": features, **HELD_OUT}
    times = {"kind": "survival", "time_unit": time_unit, "cuts": [1.0], "features": features, **HELD_OUT}
    data = SurvivalData.model_validate(times) if survival else TableData.model_validate(table)
    return read_data(DataPlace(folder / "x.ndjson", folder / "mapping.yaml"), data, unit="patient")


def problem_of(folder: Path, mapping: Json, **how: Any) -> str:  # noqa: ANN401 -- passed on
    """What is said of a mapping, without the path of its file."""
    with pytest.raises(ConfigError) as seen:
        read(folder, mapping, **how)
    return str(seen.value).removeprefix(f"{folder / 'mapping.yaml'}: ")


def test_the_mapping_itself_is_right(tmp_path: Path) -> None:
    """The control of all the others."""
    read(tmp_path, MAPPING | {"label": LABEL})


@pytest.mark.parametrize(
    ("name", "feature", "problem"),
    [
        ("weight", OBSERVATION, "mapping: features.weight: the plan has no such feature; it has age, sex, visits"),
        (
            "age",
            {"from": "absent"},
            (
                "mapping: features.age: seen `from: absent`; the plan uses nobody without this feature; say where it "
                "stands, or agree on a plan with `missing: flag`"
            ),
        ),
        (
            "age",
            {"from": "Condition", "codes": ["s|c"], "take": "mean"},
            "mapping: features.age.take: seen 'mean' with Condition, which has no value; present and count are allowed",
        ),
        (
            "age",
            OBSERVATION | {"take": "count"},
            "mapping: features.age.take: 'count' has the unit 1, the plan's is 'a'",
        ),
        (
            "age",
            OBSERVATION | {"values": {"s|c": "f"}},
            "mapping: features.age: seen values for words, and the plan wants a number; map it to a quantity",
        ),
        (
            "sex",
            {"from": "birthDate"},
            "mapping: features.sex: seen birthDate, and the plan wants one of f, m; map another",
        ),
        (
            "sex",
            OBSERVATION,
            "mapping: features.sex.values: seen none; say which of f, m each code stands for",
        ),
        (
            "sex",
            {"from": "gender", "values": {"male": "man"}},
            "mapping: features.sex.values: seen 'man'; the plan knows f, m; correct it",
        ),
        (
            "sex",
            OBSERVATION | {"take": "mean", "values": {"s|c": "f"}},
            "mapping: features.sex.take: seen 'mean'; for a category first, last and present are allowed",
        ),
        (
            "sex",
            OBSERVATION | {"take": "present", "values": {"present": "f"}},
            (
                "mapping: features.sex.values: with take: present the keys `present` and `absent` are allowed, and "
                "both are needed"
            ),
        ),
        (
            "age",
            {"from": "birthdate"},
            (
                "features.age.from: seen 'birthdate'; 'absent', 'birthDate', 'gender', 'Condition', 'Encounter', "
                "'Immunization', 'MedicationAdministration', 'MedicationRequest', 'MedicationStatement', "
                "'Observation', 'Procedure' are allowed"
            ),
        ),
        ("age", {"codes": ["s|c"]}, "key 'features.age.from' is missing; add it"),
        (
            "age",
            OBSERVATION | {"codes": ["39156-5"]},
            "features.age.codes.0: seen '39156-5'; a code is written as `system|code`, without spaces",
        ),
    ],
)
def test_a_wrong_feature_is_one_sentence(tmp_path: Path, name: str, feature: Json, problem: str) -> None:
    """What was seen, and what is allowed."""
    assert (
        problem_of(tmp_path, MAPPING | {"label": LABEL, "features": MAPPING["features"] | {name: feature}}) == problem
    )


def test_a_feature_that_is_not_mapped_is_one_sentence(tmp_path: Path) -> None:
    """That this site does not have it is written down, not left to be guessed."""
    features = {name: MAPPING["features"][name] for name in ("age", "sex")}
    assert problem_of(tmp_path, MAPPING | {"label": LABEL, "features": features}) == (
        "mapping: key 'features.visits' is missing; say where it stands, or write {from: absent}"
    )
    read(tmp_path, MAPPING | {"label": LABEL, "features": features | {"visits": {"from": "absent"}}})


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, "seen no label; a plan on data of kind 'table' learns from it: add it"),
        (
            {"label": LABEL, "event": {"from": "death"}},
            "mapping: event: seen one with a plan on a table; remove it, and write label",
        ),
        (
            {"label": LABEL | {"present": "sick"}},
            "mapping: label: seen 'sick'; the plan knows well, ill; correct it",
        ),
        (
            {"label": LABEL | {"absent": "ill"}},
            "mapping: label: present and absent are both 'ill'; correct one",
        ),
        (
            {"label": LABEL, "index_date": {"date": "2020-01-01", "resource": "Encounter", "take": "last"}},
            "index_date: seen both or none of date and resource; write one of them",
        ),
        (
            {"label": LABEL, "index_date": {"resource": "Encounter"}},
            "index_date: 'take' (first or last) is written with resource, and neither it nor codes with date",
        ),
    ],
)
def test_a_wrong_outcome_is_one_sentence(tmp_path: Path, changes: Json, problem: str) -> None:
    """Label, event and index date of a table."""
    assert problem_of(tmp_path, MAPPING | changes) == problem


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, "seen no time and event; a plan on data of kind 'survival' learns from it: add it"),
        (
            {"event": {"from": "death"}, "label": LABEL},
            "mapping: label: seen one with a plan on survival data; remove it, and write event",
        ),
        ({"event": {"from": "Condition"}}, "event: codes are written for every event but death, which has none"),
        (
            {"event": {"from": "death", "codes": ["s|c"]}},
            "event: codes are written for every event but death, which has none",
        ),
    ],
)
def test_a_wrong_event_is_one_sentence(tmp_path: Path, changes: Json, problem: str) -> None:
    """The same for survival."""
    assert problem_of(tmp_path, MAPPING | changes, survival=True) == problem


def test_units_that_days_do_not_become_are_one_sentence(tmp_path: Path) -> None:
    """Ages and times are counted in days."""
    assert problem_of(tmp_path, MAPPING | {"label": LABEL}, age_unit="fortnight") == (
        "mapping: features.age: the plan's unit is 'fortnight'; an age can be had in d, wk, mo, a"
    )
    assert problem_of(tmp_path, MAPPING | {"event": {"from": "death"}}, survival=True, time_unit="h") == (
        "mapping: event: the plan's time unit is 'h'; times of FHIR are days, and can be had in d, wk, mo, a; declare "
        "in the plan how 'd' is converted"
    )


def test_without_fhir_resources_it_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library is an extra: None in sys.modules is Python's own way to say that a module is not there."""
    monkeypatch.setitem(sys.modules, "fhir.resources.R4B.patient", None)
    _model.cache_clear()
    with pytest.raises(ConfigError) as seen:
        read(tmp_path, MAPPING | {"label": LABEL})
    assert str(seen.value) == ("FHIR is read by fhir.resources, which is not installed; install fedward[data]")
    assert not isinstance(seen.value, PlanError)
