"""Writes rows of a table as FHIR R4: what a hospital of the same patients would export, and the mapping that reads it.

`rows_as_resources` gives, for each row, a Patient and an Observation for each known feature; `write_bundles` and
`write_ndjson` lay them on disk, and `mapping_for` says where everything stands.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import yaml

from client.data.rows import RawRow
from common.plan_data import SurvivalData, TableData
from common.plan_features import Feature, NumberFeature

Json = dict[str, Any]
SYSTEM = "https://fedward.example/codes"
UCUM = "http://unitsofmeasure.org"


@dataclass(frozen=True, slots=True)
class Layout:
    """How a table's columns become resources.

    Attributes:
        index: The day that all rows are known at.
        age: Feature, in whole years, that becomes Patient.birthDate; None: no feature does.
        gender: Feature that becomes Patient.gender; None: no feature does.
        genders: FHIR's word for each of that feature's values.
        units: Units to write features in, instead of the plan's; the plan must convert them.
    """

    index: date = date(2020, 6, 1)
    age: str | None = None
    gender: str | None = None
    genders: Mapping[str, str] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)


def rows_as_resources(rows: Sequence[RawRow], data: TableData | SurvivalData, layout: Layout) -> list[list[Json]]:
    """The resources of each row's patient, the Patient first; every row has a patient of its own."""
    return [_resources(row, data, layout) for row in rows]


def write_bundles(folder: Path, patients: Sequence[Sequence[Json]]) -> None:
    """One bundle for each patient, whose references are `urn:uuid:`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, resources in enumerate(patients):
        own = resources[0]["id"]
        entries = [{"fullUrl": f"urn:uuid:{each['id']}", "resource": _referring(each, own)} for each in resources]
        bundle = {"resourceType": "Bundle", "type": "collection", "entry": entries}
        (folder / f"bundle-{number:05}.json").write_text(json.dumps(bundle), encoding="utf-8")


def write_ndjson(folder: Path, patients: Sequence[Sequence[Json]]) -> None:
    """One file for each type of resource, as a bulk export makes them; references are `Patient/ID`."""
    folder.mkdir(parents=True, exist_ok=True)
    of_type: dict[str, list[str]] = defaultdict(list)
    for resources in patients:
        for each in resources:
            of_type[each["resourceType"]].append(json.dumps(each) + "\n")
    for kind, lines in of_type.items():
        (folder / f"{kind}.ndjson").write_text("".join(lines), encoding="utf-8")


def mapping_for(data: TableData | SurvivalData, layout: Layout) -> str:
    """The mapping file, as YAML."""
    content: Json = {"form": "fhir", "index_date": {"date": layout.index.isoformat()}, "features": {}}
    for feature in data.features:
        content["features"][feature.name] = _mapped(feature, layout)
    if isinstance(data, SurvivalData):
        content["event"] = {"from": "Condition", "codes": [f"{SYSTEM}|event"]}
    else:
        classes = {f"{SYSTEM}|class-{number}": name for number, name in enumerate(data.classes)}
        content["label"] = {"take": "last", "from": "Observation", "codes": [f"{SYSTEM}|label"], "values": classes}
        content["label"] |= {"first_day": 0, "last_day": 0}
    return yaml.safe_dump(content, sort_keys=False)


def _mapped(feature: Feature, layout: Layout) -> Json:
    if feature.name == layout.age:
        return {"from": "birthDate"}
    if feature.name == layout.gender:
        return {"from": "gender", "values": {word: value for value, word in layout.genders.items()}}
    mapped: Json = {"from": "Observation", "codes": [f"{SYSTEM}|{feature.name}"], "take": "last", "window_days": 30}
    if not isinstance(feature, NumberFeature):
        mapped["values"] = {f"{SYSTEM}|{feature.name}-{n}": value for n, value in enumerate(feature.values)}
    return mapped


def _resources(row: RawRow, data: TableData | SurvivalData, layout: Layout) -> list[Json]:
    if row.patient is None:
        raise ValueError("a row without a patient cannot be written as FHIR")
    patient: Json = {"resourceType": "Patient", "id": row.patient}
    found = [patient]
    for number, feature in enumerate(data.features):
        value = row.values.get(feature.name)
        if value is None:
            continue
        if feature.name == layout.age:
            patient["birthDate"] = layout.index.replace(year=layout.index.year - int(value)).isoformat()
        elif feature.name == layout.gender:
            patient["gender"] = layout.genders[str(value)]
        else:
            found.append(
                _observation(f"{row.patient}-{number}", feature.name, _said(feature, value, layout), row, layout)
            )
    if isinstance(data, SurvivalData):
        return found + _outcome(row, layout)
    concept = {"valueCodeableConcept": _concept(f"class-{data.classes.index(row.label)}")}
    return [*found, _observation(f"{row.patient}-label", "label", concept, row, layout)]


def _observation(own: str, code: str, said: Json, row: RawRow, layout: Layout) -> Json:
    return {
        "resourceType": "Observation",
        "id": own,
        "status": "final",
        "code": _concept(code),
        "subject": {"reference": f"Patient/{row.patient}"},
        "effectiveDateTime": f"{layout.index.isoformat()}T09:30:00+02:00",
        **said,
    }


def _said(feature: Feature, value: float | str, layout: Layout) -> Json:
    if not isinstance(feature, NumberFeature):
        return {"valueCodeableConcept": _concept(f"{feature.name}-{feature.values.index(str(value))}")}
    unit, number = layout.units.get(feature.name, feature.unit), float(value)
    for other in feature.other_units:
        if other.unit == unit:
            number = (number - other.offset) / other.factor
    return {"valueQuantity": {"value": number, "unit": unit, "system": UCUM, "code": unit}}


def _outcome(row: RawRow, layout: Layout) -> list[Json]:
    """An Encounter at the time's end, and a Condition too if it is an event; times are whole days."""
    then = (layout.index + timedelta(days=int(row.time or 0))).isoformat()
    subject = {"reference": f"Patient/{row.patient}"}
    seen: Json = {"resourceType": "Encounter", "id": f"{row.patient}-seen", "status": "finished", "subject": subject}
    seen |= {"class": {"code": "AMB"}, "type": [_concept("visit")], "period": {"start": then}}
    event: Json = {"resourceType": "Condition", "id": f"{row.patient}-event", "subject": subject}
    event |= {"code": _concept("event"), "onsetDateTime": then}
    return [seen, event] if row.event else [seen]


def _concept(code: str) -> Json:
    return {"coding": [{"system": SYSTEM, "code": code}]}


def _referring(resource: Json, patient: str) -> Json:
    return resource | {"subject": {"reference": f"urn:uuid:{patient}"}} if "subject" in resource else resource
