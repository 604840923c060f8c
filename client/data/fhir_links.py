"""Which Patient resources are one person's, as `Patient.link` says: they must not become two units."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from client.data.fhir_resource import listed, referred_patient


@dataclass(slots=True)
class PatientLinks:
    """The links that were read so far, of whatever type: each says that two resources are of one person.

    What becomes of a Patient is decided from the ids that links name, and not from what else is known of anybody.
    """

    _joined: dict[str, str] = field(default_factory=dict)
    _replaced: set[str] = field(default_factory=set)
    _referring: set[str] = field(default_factory=set)
    _untold: set[str] = field(default_factory=set)

    def add(self, own: str, links: object, patients: Mapping[str, str]) -> None:
        """Take in the links of one Patient.

        Args:
            own: Its id.
            links: Its element `link`.
            patients: Ids by what the resource's bundle calls its Patients.
        """
        for link in listed(links):
            if not isinstance(link, dict) or _names_a_relative(link.get("other")):
                continue
            other, kind = referred_patient(link.get("other"), patients), link.get("type")
            self._join(own, own if other is None else other)
            if kind == "replaced-by":
                self._replaced.add(own)
            elif kind == "refer":
                self._referring.add(own)
            elif other is None:
                self._untold.add(own)
            elif kind == "replaces":
                self._replaced.add(other)

    def left_out(self) -> dict[str, str]:
        """Why Patients are not used, by id: of those that are linked one at most is kept, the one that is in use.

        It is the one that no link calls replaced, or says to refer to another; if there are several, none is kept.
        """
        groups: dict[str, list[str]] = defaultdict(list)
        for each in self._joined:
            groups[self._root(each)].append(each)
        reasons = {}
        for group in groups.values():
            in_use = [each for each in group if each not in self._replaced and each not in self._referring]
            kept = in_use if len(in_use) == 1 and self._untold.isdisjoint(group) else []
            for each in group:
                if each not in kept:
                    replaced = each in self._replaced
                    reasons[each] = "patient_replaced_by_another" if replaced else "patient_linked_to_another"
        return reasons

    def _root(self, patient: str) -> str:
        while (parent := self._joined.setdefault(patient, patient)) != patient:
            # Each look-up halves its way: a chain of links is no matter of its length squared.
            self._joined[patient] = patient = self._joined[parent]
        return patient

    def _join(self, one: str, other: str) -> None:
        self._joined[self._root(one)] = self._root(other)


def _names_a_relative(other: object) -> bool:
    """A link may also say that a Patient is somebody's RelatedPerson, which is no unit."""
    reference = other.get("reference") if isinstance(other, dict) else None
    return isinstance(reference, str) and "RelatedPerson" in reference.partition("/_history/")[0].split("/")[-2:-1]
