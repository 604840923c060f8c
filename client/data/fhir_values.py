"""From a patient's facts in a window to one number or one word."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from client.data.fhir_mapping import CodedFeature
from client.data.fhir_people import Fact, LeftOut
from client.data.fhir_resource import Quantity, Unusable, Words
from common.errors import PlanError
from common.plan_features import NumberFeature, in_unit

# No sum of numbers up to this overflows.
_LARGEST = 1e100
Kept = TypeVar("Kept", float, str)

_SUMMARIES: dict[str, Callable[[Sequence[float]], float]] = {
    # fsum is exact: the order of the files decides no last digit.
    "mean": lambda values: math.fsum(values) / len(values),
    "max": max,
    "min": min,
}


@dataclass(frozen=True, slots=True)
class Window:
    """Days, both with their ends; None: no end."""

    first: int | None
    last: int | None

    def holds(self, fact: Fact) -> bool | None:
        """Whether a fact lies inside; None if its date is too coarse to say."""
        moment = fact.moment
        first = moment.first if self.first is None else self.first
        last = moment.last if self.last is None else self.last
        if moment.last < first or moment.first > last:
            return False
        return True if first <= moment.first and moment.last <= last else None


def inside(facts: Sequence[Fact], window: Window, left_out: LeftOut) -> list[Fact]:
    """Facts of the window; those of which nobody can say are left out."""
    kept = []
    for fact in facts:
        holds = window.holds(fact)
        if holds is None:
            left_out.fact("date_too_coarse_for_the_window", fact)
        elif holds:
            kept.append(fact)
    return kept


def number(
    facts: Sequence[Fact], mapped: CodedFeature, feature: NumberFeature, *, left_out: LeftOut, converted: Counter[str]
) -> float | None:
    """The number that a feature takes from facts of its window.

    Args:
        facts: In any order.
        mapped: What the mapping says.
        feature: What the plan says.
        left_out: Is added to: values that cannot be used; they count as if they were not there.
        converted: Is added to: values that were converted, by feature and unit.

    Returns:
        In the plan's unit; None if there is none. Of several at one moment the mean counts.
    """
    if mapped.take == "present":
        return float(bool(facts))
    if mapped.take == "count":
        return float(len({fact.serial for fact in facts}))
    values: list[tuple[float, float]] = []
    for fact in facts:
        said = _converted(fact, mapped, feature, converted)
        if isinstance(said, Unusable):
            left_out.fact(said.reason, fact)
        else:
            values.append((fact.moment.instant, said))
    if not values:
        return None
    if mapped.take in ("first", "last"):
        return _SUMMARIES["mean"](_at_the_end(values, mapped.take))
    return float(_SUMMARIES[mapped.take]([value for _, value in values]))


def word(
    facts: Sequence[Fact], values: Mapping[str, str], take: Literal["first", "last"], *, left_out: LeftOut
) -> str | None:
    """The plan's word that the first or the last fact says.

    Args:
        facts: In any order.
        values: The plan's word by what resources say.
        take: Which fact counts.
        left_out: Is added to: facts that say nothing that `values` names; they count as if they were not there.

    Returns:
        None if there is none, or if facts of one moment say different words.
    """
    found: list[tuple[float, str]] = []
    for fact in facts:
        if isinstance(fact.said, Unusable):
            left_out.fact(fact.said.reason, fact)
            continue
        words = fact.said.words if isinstance(fact.said, Words) else ()
        meant = {values[each] for each in words if each in values}
        if len(meant) == 1:
            found.append((fact.moment.instant, meant.pop()))
        else:
            left_out.fact("value_that_the_mapping_contradicts" if meant else "value_not_in_the_mapping", fact)
    said = set(_at_the_end(found, take))
    if len(said) > 1:
        left_out.counts["different_values_of_one_moment"] += 1
    return said.pop() if len(said) == 1 else None


def _at_the_end(values: Sequence[tuple[float, Kept]], take: str) -> list[Kept]:
    if not values:
        return []
    instants = [instant for instant, _ in values]
    end = max(instants) if take == "last" else min(instants)
    return [value for instant, value in values if instant == end]


def _converted(fact: Fact, mapped: CodedFeature, feature: NumberFeature, converted: Counter[str]) -> float | Unusable:
    if isinstance(fact.said, Unusable):
        return fact.said
    if not isinstance(fact.said, Quantity):
        return Unusable("value_that_is_no_number")
    unit = fact.said.unit or mapped.unit or ("1" if feature.unit == "1" else None)
    if unit is None:
        return Unusable("quantity_without_a_unit")
    try:
        value = in_unit(fact.said.value, unit, own=feature.unit, others=feature.other_units)
    except PlanError:
        return Unusable("unit_not_in_the_plan")
    if abs(value) > _LARGEST:
        return Unusable("number_too_large")
    if unit != feature.unit:
        # The plan names this unit, so a word of the data does not reach the report.
        converted[f"{feature.name} from {unit}"] += 1
    return value
