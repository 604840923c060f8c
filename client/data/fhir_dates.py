"""FHIR dates as the days that they may mean: `2012-09` is any day of a month, and a time counts in its own zone."""

from __future__ import annotations

import calendar
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time

from common.errors import ConfigError, PlanError
from common.plan_features import OtherUnit, in_unit

# UCUM's years and months are those of the Julian calendar.
DAYS_OF_UNIT = {"d": 1.0, "wk": 7.0, "mo": 30.4375, "a": 365.25}
_MONTHS = 12
_DATE = re.compile(r"([0-9]{4})(?:-(0[1-9]|1[0-2])(?:-(0[1-9]|[12][0-9]|3[01]))?)?")


@dataclass(frozen=True, slots=True, order=True)
class Moment:
    """A date or time as it stands in a resource.

    Attributes:
        instant: For the order of two: UTC seconds since 1970; a date counts from its first midnight.
        first: First day that may be meant, as `date.toordinal`; the day that clocks showed where it was written.
        last: Last such day: equal to `first` but for a year or a month.
    """

    instant: float
    first: int
    last: int

    @property
    def exact(self) -> bool:
        """Whether it is one day."""
        return self.first == self.last

    @property
    def middle(self) -> int:
        """The day in the middle, of even counts the later."""
        return (self.first + self.last + 1) // 2


def moment_of(text: object) -> Moment | None:
    """What a FHIR `date`, `dateTime` or `instant` means; None if it means no day."""
    if not isinstance(text, str):
        return None
    try:
        if "T" in text:
            # A leap second is FHIR, and not Python.
            seen = datetime.fromisoformat(text.replace(":60", ":59"))
            aware = seen if seen.tzinfo else seen.replace(tzinfo=UTC)
            day = seen.date().toordinal()
            return Moment(aware.timestamp(), day, day)
        parts = _DATE.fullmatch(text)
        if parts is None:
            return None
        year, month, day_of_month = (int(part or 0) for part in parts.groups())
        first = date(year, month or 1, day_of_month or 1)
        last_month = month or _MONTHS
        last = date(year, last_month, day_of_month or calendar.monthrange(year, last_month)[1])
    except (ValueError, OverflowError):
        return None
    midnight = datetime.combine(first, time(), UTC)
    return Moment(midnight.timestamp(), first.toordinal(), last.toordinal())


def age_at(birth: Moment, day: int, unit: str) -> float | None:
    """Age in completed years (`a`), months (`mo`) or weeks (`wk`), or in days (`d`), as people say it.

    Args:
        birth: Of a year or month the middle is taken.
        day: Ordinal of the day that is asked about.
        unit: One of `DAYS_OF_UNIT`.

    Returns:
        None where that middle lies after the day: the age is not known then, as no age is negative.
    """
    days = day - birth.middle
    if days < 0:
        return None
    if unit in ("d", "wk"):
        return float(days // int(DAYS_OF_UNIT[unit]))
    born, then = date.fromordinal(birth.middle), date.fromordinal(day)
    months = (then.year - born.year) * _MONTHS + then.month - born.month - (then.day < born.day)
    return float(months // _MONTHS if unit == "a" else months)


def days_in(unit: str, days: float, others: tuple[OtherUnit, ...]) -> float:
    """A number of days in the plan's unit: by the plan's own rule for `d` if it has one, else as UCUM says.

    Raises:
        ConfigError: If neither knows it.
    """
    try:
        return in_unit(days, "d", own=unit, others=others)
    except PlanError:
        if unit in DAYS_OF_UNIT:
            return days / DAYS_OF_UNIT[unit]
        raise ConfigError(
            f"mapping: event: the plan's time unit is '{unit}'; times of FHIR are days, and can be had in "
            f"{', '.join(DAYS_OF_UNIT)}; declare in the plan how 'd' is converted"
        ) from None
