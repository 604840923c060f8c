"""From resources to what is known of each patient: only what the mapping asks for is looked at, and kept."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from client.data.fhir_dates import Moment, moment_of
from client.data.fhir_files import Found, last_part
from client.data.fhir_links import PatientLinks
from client.data.fhir_mapping import CodedFeature, FhirMapping, PresentLabel, ValueLabel
from client.data.fhir_resource import (
    Said,
    codes_of,
    digest_of,
    is_true,
    is_void,
    patient_of,
    said_by,
    when,
    where_invalid,
)

# Names of questions; features are asked by "feature " and their name.
INDEX, LABEL, EVENT, CONTACT = "index", "label", "event", "contact"
_MOST_NAMED = 5
_ID = re.compile(r"[A-Za-z0-9.-]{1,64}")


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of resources of one type: those of any of some codes, or all where `codes` is empty."""

    name: str
    kind: str
    codes: frozenset[str] = frozenset()
    component: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fact:
    """What one resource answers to one question; `serial` is the resource's, by which it is counted once."""

    serial: int
    moment: Moment
    said: Said


@dataclass(frozen=True, slots=True)
class Person:
    """A Patient resource, and the facts that refer to it, by question."""

    id: str
    place: str
    birth: Moment | None
    gender: str | None
    dead: bool
    death: Moment | None
    facts: Mapping[str, list[Fact]]


@dataclass(slots=True)
class LeftOut:
    """Counts records that are not used, each once for one reason, and names the first that are not FHIR."""

    counts: Counter[str] = field(default_factory=Counter)
    invalid: list[str] = field(default_factory=list)
    _seen: set[tuple[str, int]] = field(default_factory=set)

    def fact(self, reason: str, fact: Fact) -> None:
        """A fact that cannot be used; two questions may find the same one."""
        if (reason, fact.serial) not in self._seen:
            self._seen.add((reason, fact.serial))
            self.counts[reason] += 1

    def warnings(self) -> list[str]:
        """Sentences on resources that are not FHIR."""
        shown = [f"{place}: left out, since it is not FHIR R4" for place in self.invalid]
        more = self.counts["not_valid_FHIR_R4"] - len(shown)
        return [*shown, f"{more} more resource(s) are left out, since they are not FHIR R4"] if more > 0 else shown


def questions_of(mapping: FhirMapping, *, contacts: bool) -> tuple[Question, ...]:
    """All that a mapping asks of resources other than Patient."""
    asked = [
        Question(f"feature {name}", feature.source, frozenset(feature.codes), feature.component)
        for name, feature in mapping.features.items()
        if isinstance(feature, CodedFeature)
    ]
    if mapping.index_date.resource is not None:
        asked.append(Question(INDEX, mapping.index_date.resource, frozenset(mapping.index_date.codes)))
    if isinstance(mapping.label, PresentLabel):
        asked.append(Question(LABEL, mapping.label.source, frozenset(mapping.label.codes)))
    if isinstance(mapping.label, ValueLabel):
        asked.append(Question(LABEL, "Observation", frozenset(mapping.label.codes), mapping.label.component))
    if mapping.event is not None and mapping.event.source != "death":
        asked.append(Question(EVENT, mapping.event.source, frozenset(mapping.event.codes)))
    if contacts:
        asked += [Question(CONTACT, kind) for kind in dict.fromkeys(mapping.contacts)]
    return tuple(asked)


@dataclass(slots=True)
class _Collection:
    """What was read so far.

    Resources are told apart within their patient alone: nothing of one patient may decide what stands of another.
    """

    left_out: LeftOut
    by_kind: Mapping[str, list[Question]]
    people: dict[str, tuple[bytes, Person]] = field(default_factory=dict)
    two_of_one_id: set[str] = field(default_factory=set)
    facts: dict[str, dict[str, list[Fact]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    seen: dict[tuple[str, str, str], tuple[bytes, int]] = field(default_factory=dict)
    torn: set[int] = field(default_factory=set)
    links: PatientLinks = field(default_factory=PatientLinks)
    serial: int = 0

    def add(self, found: Found) -> None:
        kind = found.resource.get("resourceType")
        if not isinstance(kind, str):
            self.left_out.counts["resource_of_no_type"] += 1
        elif kind == "Patient":
            self._add_patient(found)
        elif kind in self.by_kind:
            self._add_fact(found, kind)
        else:
            self.left_out.counts["not_asked_for_by_the_mapping"] += 1

    def _valid(self, found: Found, kind: str) -> bool:
        wrong = where_invalid(found.resource, kind)
        if wrong is not None:
            self.left_out.counts["not_valid_FHIR_R4"] += 1
            if len(self.left_out.invalid) < _MOST_NAMED:
                self.left_out.invalid.append(f"{found.place}, {wrong}")
        elif "modifierExtension" in found.resource:
            # FHIR: whoever does not know such an extension must not use the resource.
            self.left_out.counts["changed_by_a_modifier_extension"] += 1
        return wrong is None and "modifierExtension" not in found.resource

    def _add_patient(self, found: Found) -> None:
        resource = found.resource
        if not self._valid(found, "Patient"):
            return
        own = resource.get("id") or last_part(found.full_url)
        if not isinstance(own, str) or not _ID.fullmatch(own):
            self.left_out.counts["patient_without_an_id"] += 1
            return
        self.links.add(own, resource.get("link"), found.patients)
        digest = digest_of(resource, "Patient")
        if own in self.people:
            same = self.people[own][0] == digest
            if not same:
                self.two_of_one_id.add(own)
            self.left_out.counts["copy_of_a_resource" if same else "two_patients_of_one_id"] += 1
            return
        gender, died = resource.get("gender"), moment_of(resource.get("deceasedDateTime"))
        dead = is_true(resource.get("deceasedBoolean")) or "deceasedDateTime" in resource
        birth = moment_of(resource.get("birthDate"))
        self.people[own] = digest, Person(own, found.place, birth, gender, dead, died, self.facts[own])

    def _add_fact(self, found: Found, kind: str) -> None:
        resource, counts = found.resource, self.left_out.counts
        codes = codes_of(resource, kind)
        asked = [each for each in self.by_kind[kind] if not each.codes or not each.codes.isdisjoint(codes)]
        if not asked:
            counts["not_asked_for_by_the_mapping" if codes else "resource_without_a_code"] += 1
            return
        if not self._valid(found, kind):
            return
        patient, moment = patient_of(resource, kind, found.patients), when(resource, kind)
        if is_void(resource, kind):
            counts["entered_in_error_or_cancelled"] += 1
        elif patient is None:
            counts["resource_of_no_patient"] += 1
        elif moment is None:
            counts["resource_without_a_date"] += 1
        elif self._is_new(resource, kind, patient):
            for question in asked:
                said = said_by(resource, question.component)
                self.facts[patient][question.name].append(Fact(self.serial, moment, said))

    def _is_new(self, resource: dict[str, object], kind: str, patient: str) -> bool:
        """Whether it is no copy; gives it the next serial."""
        self.serial += 1
        own = resource.get("id")
        if not isinstance(own, str):
            return True
        digest = digest_of(resource, kind)
        before, serial = self.seen.setdefault((patient, kind, own), (digest, self.serial))
        if serial == self.serial:
            return True
        if before != digest:
            self.torn.add(serial)
        self.left_out.counts["copy_of_a_resource" if before == digest else "two_resources_of_one_id"] += 1
        return False


def collect(resources: Iterable[Found], questions: Iterable[Question], left_out: LeftOut) -> list[Person]:
    """Read all resources once, in any order: a fact may come before its Patient.

    Args:
        resources: Of all files.
        questions: See `questions_of`.
        left_out: Is added to.

    Returns:
        Patients in the order in which they were found.
    """
    by_kind: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        by_kind[question.kind].append(question)
    found = _Collection(left_out, by_kind)
    for resource in resources:
        found.add(resource)
    counts = left_out.counts
    counts["two_patients_of_one_id"] += len(found.two_of_one_id)
    counts["two_resources_of_one_id"] += len(found.torn)
    linked = found.links.left_out()
    strangers = found.facts.keys() - (found.people.keys() - linked.keys())
    counts["resource_of_a_patient_that_is_not_there"] += len(
        {fact.serial for key in strangers for facts in found.facts[key].values() for fact in facts}
    )
    people = [person for _, person in found.people.values() if person.id not in found.two_of_one_id]
    counts.update(linked[person.id] for person in people if person.id in linked)
    people = [person for person in people if person.id not in linked]
    if found.torn:
        for person in people:
            for facts in person.facts.values():
                facts[:] = [fact for fact in facts if fact.serial not in found.torn]
    return people
