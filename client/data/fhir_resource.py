"""One FHIR resource: whether it is valid, stands, has a code, a date, a patient, and what value it says."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from client.data.fhir_dates import Moment, moment_of
from client.data.fhir_files import last_part
from common.canonical import canonical_bytes
from common.errors import ConfigError

Json = dict[str, Any]
UCUM = "http://unitsofmeasure.org"


@dataclass(frozen=True, slots=True)
class ElementsOf:
    """Where a type of resource says what we ask, and states in which it says nothing that is so.

    Attributes:
        code: Of CodeableConcepts, one or a list.
        dates: The first that is there counts; of a Period its start (an Observation's: its end, if it has one).
        void: Values of `status` (a Condition's: of `verificationStatus`) of resources that are left out.
        subject: The reference to the patient.
    """

    code: str
    dates: tuple[str, ...]
    void: frozenset[str]
    subject: str = "subject"


ELEMENTS = {
    "Condition": ElementsOf(
        "code", ("onsetDateTime", "onsetPeriod", "recordedDate"), frozenset({"entered-in-error", "refuted"})
    ),
    "Encounter": ElementsOf("type", ("period",), frozenset({"entered-in-error", "cancelled", "planned"})),
    "Immunization": ElementsOf(
        "vaccineCode", ("occurrenceDateTime",), frozenset({"entered-in-error", "not-done"}), "patient"
    ),
    "MedicationAdministration": ElementsOf(
        "medicationCodeableConcept",
        ("effectiveDateTime", "effectivePeriod"),
        frozenset({"entered-in-error", "not-done"}),
    ),
    "MedicationRequest": ElementsOf(
        "medicationCodeableConcept", ("authoredOn",), frozenset({"entered-in-error", "cancelled", "draft"})
    ),
    "MedicationStatement": ElementsOf(
        "medicationCodeableConcept",
        ("effectiveDateTime", "effectivePeriod", "dateAsserted"),
        frozenset({"entered-in-error", "not-taken", "intended"}),
    ),
    "Observation": ElementsOf(
        "code",
        ("effectiveDateTime", "effectiveInstant", "effectivePeriod"),
        frozenset({"entered-in-error", "cancelled"}),
    ),
    "Procedure": ElementsOf(
        "code",
        ("performedDateTime", "performedPeriod"),
        frozenset({"entered-in-error", "not-done", "preparation"}),
    ),
}


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number, and the unit that it names, if any."""

    value: float
    unit: str | None


@dataclass(frozen=True, slots=True)
class Words:
    """Codes (`system|code`), a text, or `true` or `false`."""

    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unusable:
    """No value, and why."""

    reason: str


Said = Quantity | Words | Unusable


def where_invalid(resource: Json, kind: str) -> str | None:
    """The element in which a resource is not FHIR R4, or None.

    It is asked of the R4B models of fhir.resources, which name what is wrong; names that the file made up stay out.

    Raises:
        ConfigError: If fhir.resources is not installed.
    """
    from pydantic import ValidationError  # noqa: PLC0415 -- beside its only use

    try:
        _model(kind).model_validate(resource)
    except RecursionError:
        return f"{kind} (nested too deeply)"
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        made_up = first["type"] == "extra_forbidden"
        known = first["loc"][:-1] if made_up else first["loc"]
        element = ".".join((kind, *(str(part) for part in known if isinstance(part, str) and part != "resource_type")))
        return f"{element} (has an element that FHIR R4 does not)" if made_up else element
    return None


@cache
def _model(kind: str) -> Any:  # noqa: ANN401 -- fhir.resources has no types that mypy sees
    try:
        return getattr(import_module(f"fhir.resources.R4B.{kind.lower()}"), kind)
    except ImportError as error:
        raise ConfigError("FHIR is read by fhir.resources, which is not installed; install fedward[data]") from error


def digest_of(resource: Json, kind: str) -> bytes:
    """Equal for resources that say the same of one patient, in however many exports they stand.

    Exports differ in `meta` (when it was written), in `text`, and in how they refer to the patient.
    """
    form = {"meta", "text", ELEMENTS[kind].subject if kind in ELEMENTS else "meta"}
    said = {element: value for element, value in resource.items() if element not in form}
    return hashlib.sha256(canonical_bytes(said)).digest()


def is_true(value: object) -> bool:
    """Whether it is a FHIR true; fhir.resources passes the word too."""
    return value is True or value == "true"


def codes_of(resource: Json, kind: str) -> frozenset[str]:
    """Codes of what it is about, as `system|code`; a coding of no system or no code is none."""
    return frozenset(_codings(resource.get(ELEMENTS[kind].code)))


def _codings(concepts: object) -> Iterator[str]:
    for concept in concepts if isinstance(concepts, list) else [concepts]:
        codings = concept.get("coding") if isinstance(concept, dict) else None
        for coding in codings if isinstance(codings, list) else ():
            if isinstance(coding, dict):
                system, code = coding.get("system"), coding.get("code")
                if isinstance(system, str) and isinstance(code, str):
                    yield f"{system}|{code}"


def is_void(resource: Json, kind: str) -> bool:
    """Whether its status says that it is not so, or never was."""
    if kind == "Condition":
        codes = {code.rpartition("|")[2] for code in _codings(resource.get("verificationStatus"))}
        return bool(codes & ELEMENTS[kind].void)
    return resource.get("status") in ELEMENTS[kind].void or is_true(resource.get("doNotPerform"))


def when(resource: Json, kind: str) -> Moment | None:
    """The moment that a resource counts at; None if it names none."""
    for element in ELEMENTS[kind].dates:
        value = resource.get(element)
        if isinstance(value, dict):
            ends = ("end", "start") if kind == "Observation" else ("start",)
            value = next((value[end] for end in ends if end in value), None)
        if value is not None:
            return moment_of(value)
    return None


def patient_of(resource: Json, kind: str, patients: dict[str, str]) -> str | None:
    """Id of the Patient that it is about; None if it is about none, or names none by a reference.

    Args:
        resource: The resource.
        kind: Its type.
        patients: Ids by what the resource's bundle calls its Patients.
    """
    return referred_patient(resource.get(ELEMENTS[kind].subject), patients)


def referred_patient(subject: object, patients: Mapping[str, str]) -> str | None:
    """Id of the Patient that a Reference names; None if it names none. `patients` as in `patient_of`."""
    reference = subject.get("reference") if isinstance(subject, dict) else None
    if not isinstance(reference, str):
        return None
    reference = reference.partition("/_history/")[0]
    if reference in patients:
        return patients[reference] or None
    parts = reference.split("/")
    is_patient = len(parts) > 1 and parts[-2] == "Patient"
    return last_part(reference) or None if is_patient or reference.startswith("urn:uuid:") else None


def said_by(resource: Json, component: tuple[str, ...]) -> Said:
    """What an Observation, or its component of one of these codes, gives as its value."""
    if component:
        parts = [part for part in listed(resource.get("component")) if _has_code(part, component)]
        if len(parts) != 1:
            return Unusable("several_components_of_one_code" if parts else "no_such_component")
        resource = parts[0]
    if isinstance(quantity := resource.get("valueQuantity"), dict):
        return _quantity(quantity)
    whole = resource.get("valueInteger")
    if isinstance(whole, int) and not isinstance(whole, bool):
        return Quantity(float(whole), "1")
    if isinstance(truth := resource.get("valueBoolean"), bool):
        return Words(("true" if truth else "false",))
    if isinstance(text := resource.get("valueString"), str):
        return Words((text,))
    words = tuple(_codings(resource.get("valueCodeableConcept")))
    return Words(words) if words else Unusable("no_value")


def _has_code(part: object, codes: tuple[str, ...]) -> bool:
    return isinstance(part, dict) and not frozenset(_codings(part.get("code"))).isdisjoint(codes)


def listed(value: object) -> list[Any]:
    """A list as it is, and an empty one of whatever is none."""
    return value if isinstance(value, list) else []


def _quantity(quantity: Json) -> Said:
    value = quantity.get("value")
    if isinstance(value, bool) or not isinstance(value, float | int):
        return Unusable("no_value")
    if "comparator" in quantity:
        # `< 5` is no number: to take 5 would say more than is known.
        return Unusable("quantity_with_a_comparator")
    code, text = quantity.get("code"), quantity.get("unit")
    if code and quantity.get("system", UCUM) == UCUM:
        return Quantity(float(value), str(code))
    return Quantity(float(value), str(text or code) if text or code else None)
