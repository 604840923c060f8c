"""The connector `fhir`: bundles and NDJSON of FHIR R4, one row for each Patient (docs/data.md)."""

from __future__ import annotations

from pathlib import Path

from client.data.connector import Connector
from client.data.fhir_dates import age_at, days_in
from client.data.fhir_files import read_resources
from client.data.fhir_fit import check_fit
from client.data.fhir_mapping import AbsentFeature, BirthDate, FhirMapping, Gender, MappedFeature, PresentLabel
from client.data.fhir_outcome import NotUsed, index_day, label_of, time_to_event
from client.data.fhir_people import LeftOut, Person, collect, questions_of
from client.data.fhir_values import Window, inside, number, word
from client.data.rows import RawRow, Reading, Value, left_out_in_words
from common.errors import DataError
from common.plan_data import SurvivalData, TableData
from common.plan_features import Feature, NumberFeature


def read_fhir(path: Path, data: TableData | SurvivalData, mapping: FhirMapping) -> Reading:
    """Read what the mapping asks for, and make one row of each Patient.

    Args:
        path: A bundle, an NDJSON file, or a folder of them; each is read once, NDJSON line by line.
        data: The plan's declaration.
        mapping: What stands where.

    Raises:
        ConfigError: If the mapping does not fit the plan, or fhir.resources is not installed.
        DataError: If a file is no FHIR JSON, or there is no Patient.
    """
    check_fit(mapping, data)
    reading, left_out = Reading(), LeftOut()
    contacts = mapping.event is not None or (
        isinstance(mapping.label, PresentLabel) and mapping.label.not_followed == "leave-out"
    )
    people = collect(read_resources(path, left_out.counts), questions_of(mapping, contacts=contacts), left_out)
    if not people:
        reasons = ", ".join(left_out_in_words(left_out.counts)) or "nothing was found"
        raise DataError(f"no Patient of the data can be used ({reasons}); export Patient resources with the others")
    for person in people:
        row = _row(person, data, mapping, reading=reading, left_out=left_out)
        if isinstance(row, NotUsed):
            left_out.counts[row.reason] += 1
        else:
            reading.rows.append(row)
    reading.left_out.update(+left_out.counts)
    reading.warnings += left_out.warnings()
    return reading


def _row(
    person: Person, data: TableData | SurvivalData, mapping: FhirMapping, *, reading: Reading, left_out: LeftOut
) -> RawRow | NotUsed:
    day = index_day(person, mapping)
    if isinstance(day, NotUsed):
        return day
    outcome = _outcome(person, data, mapping, day, left_out=left_out)
    if isinstance(outcome, NotUsed):
        return outcome
    label, time, event = outcome
    values = {
        feature.name: _value(person, feature, mapping.features[feature.name], day, reading=reading, left_out=left_out)
        for feature in data.features
        if not isinstance(mapping.features[feature.name], AbsentFeature)
    }
    return RawRow(person.place, person.id, values, label, time, event)


def _outcome(
    person: Person, data: TableData | SurvivalData, mapping: FhirMapping, day: int, *, left_out: LeftOut
) -> tuple[str, float | None, bool] | NotUsed:
    """Class, time and event of a patient; empty where the mapping tells none."""
    if not _tells_outcome(mapping):
        return "", None, False
    if isinstance(data, SurvivalData):
        seen = time_to_event(person, mapping, day)
        if isinstance(seen, NotUsed):
            return seen
        return "", days_in(data.time_unit, float(seen[0]), data.other_time_units), seen[1]
    label = label_of(person, mapping, day, left_out=left_out)
    return label if isinstance(label, NotUsed) else (label, None, False)


def _value(  # noqa: PLR0913 -- keyword-only
    person: Person, feature: Feature, mapped: MappedFeature, day: int, *, reading: Reading, left_out: LeftOut
) -> Value:
    if isinstance(mapped, AbsentFeature):
        return None
    if isinstance(mapped, BirthDate):
        unit = feature.unit if isinstance(feature, NumberFeature) else ""
        return None if person.birth is None else age_at(person.birth, day, unit)
    if isinstance(mapped, Gender):
        return next((word for gender, word in mapped.values.items() if gender == person.gender), None)
    window = Window(None if mapped.window_days is None else day - mapped.window_days, day)
    facts = inside(person.facts.get(f"feature {feature.name}", []), window, left_out)
    if isinstance(feature, NumberFeature):
        return number(facts, mapped, feature, left_out=left_out, converted=reading.converted)
    values = mapped.values or {}
    if mapped.take == "present":
        return values["present" if facts else "absent"]
    return word(facts, values, "last" if mapped.take == "last" else "first", left_out=left_out)


def _tells_outcome(mapping: FhirMapping) -> bool:
    return mapping.label is not None or mapping.event is not None


CONNECTOR: Connector[TableData | SurvivalData, FhirMapping] = Connector(
    form="fhir",
    kinds=(TableData, SurvivalData),
    mapping=FhirMapping,
    read=read_fhir,
    patient_of=lambda _: "Patient.id",
    tells_outcome=_tells_outcome,
)
