"""What a connector hands over: rows in the plan's terms, and what it left out or changed on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

Value = float | str | None


@dataclass(frozen=True, slots=True)
class RawRow:
    """What a connector found of one patient in one place, in the plan's units and words.

    Attributes:
        place: Where it stands, for messages to this hospital's eyes: file and row, never a value.
        patient: Whose it is, or None where the mapping says that each row is a patient of its own.
        values: By feature or variant; None, or no entry, where it is missing. Numbers are in the plan's unit.
        label: Name of the class; empty for survival data.
        time: Until event or censoring, in the plan's time unit; None for classes.
        event: Whether the event was seen.
    """

    place: str
    patient: str | None
    values: Mapping[str, Value]
    label: str = ""
    time: float | None = None
    event: bool = False


@dataclass(slots=True)
class Reading:
    """What a connector hands over: its rows, and what it left out or changed on the way.

    Attributes:
        rows: In the order of the source.
        left_out: How many records are not in `rows`, by reason (words for people, `_` for spaces).
        converted: How many numbers were converted, by feature and unit ("cholesterol from mmol/L").
        warnings: Sentences for this hospital's eyes; no patient's value stands in one.
    """

    rows: list[RawRow] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    converted: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)
