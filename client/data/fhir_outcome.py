"""A patient's index date, class, and time to an event, from the facts that the mapping names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from client.data.fhir_dates import Moment
from client.data.fhir_mapping import FhirMapping, PresentLabel
from client.data.fhir_people import CONTACT, EVENT, INDEX, LABEL, Fact, LeftOut, Person
from client.data.fhir_values import Window, inside, word
from common.errors import LocalProtocolError


@dataclass(frozen=True, slots=True)
class NotUsed:
    """A patient who is left out, and why."""

    reason: str


def index_day(person: Person, mapping: FhirMapping) -> int | NotUsed:
    """The ordinal of the day that a patient's features are known at."""
    if mapping.index_date.date is not None:
        day = mapping.index_date.date.toordinal()
    else:
        facts = person.facts.get(INDEX, [])
        if not facts:
            return NotUsed("patient_without_an_index_date")
        pick = max if mapping.index_date.take == "last" else min
        moment = pick(fact.moment for fact in facts)
        if not moment.exact:
            return NotUsed("patient_whose_index_date_is_no_day")
        day = moment.first
    if person.birth is not None and person.birth.first > day:
        return NotUsed("patient_born_after_the_index_date")
    if person.death is not None and person.death.last < day:
        return NotUsed("patient_who_died_before_the_index_date")
    return day


def label_of(person: Person, mapping: FhirMapping, day: int, *, left_out: LeftOut) -> str | NotUsed:
    """A patient's class.

    Raises:
        LocalProtocolError: If the mapping has no label.
    """
    label, facts = mapping.label, person.facts.get(LABEL, [])
    if label is None:
        raise LocalProtocolError("a class is asked for by a mapping without label")
    window = Window(day + label.first_day, day + label.last_day)
    if not isinstance(label, PresentLabel):
        said = word(inside(facts, window, left_out), label.values, label.take, left_out=left_out)
        return NotUsed("patient_without_a_label") if said is None else said
    holds = {window.holds(fact) for fact in facts}
    if True in holds:
        return label.present
    if None in holds:
        return NotUsed("patient_whose_label_has_too_coarse_a_date")
    followed = person.dead or _last_contact(person) >= day + label.last_day
    return label.absent if followed or label.not_followed == "absent" else NotUsed("patient_not_followed_long_enough")


def time_to_event(person: Person, mapping: FhirMapping, day: int) -> tuple[int, bool] | NotUsed:
    """Days from the index date to the event, or to the last contact; whether it is the event.

    Raises:
        LocalProtocolError: If the mapping has no event.
    """
    if mapping.event is None:
        raise LocalProtocolError("a time is asked for by a mapping without event")
    if mapping.event.source == "death":
        if person.dead and person.death is None:
            return NotUsed("patient_who_died_on_an_unknown_day")
        event = person.death
    else:
        event = _first(person.facts.get(EVENT, []))
    if event is not None and event.last < day:
        return NotUsed("patient_whose_event_was_before_the_index_date")
    if event is not None and not event.exact:
        return NotUsed("patient_whose_event_is_on_an_unknown_day")
    if event is not None:
        return event.first - day, True
    last = _last_contact(person)
    return (last - day, False) if last >= day else NotUsed("patient_without_contact_after_the_index_date")


def _first(facts: Sequence[Fact]) -> Moment | None:
    return min((fact.moment for fact in facts), default=None)


def _last_contact(person: Person) -> int:
    """The last day on which a patient was seen, or died: nobody was seen later, whatever was written down. 0: never."""
    seen = max((fact.moment.first for fact in person.facts.get(CONTACT, [])), default=0)
    return seen if person.death is None else person.death.first
