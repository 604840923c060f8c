"""What the coordinator asks for, in which order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from common.messages import UPLOAD_KINDS, Kind
from common.plan import Plan


@dataclass(frozen=True, slots=True)
class Step:
    """One exchange of the run, before any attempt of it."""

    kind: Kind
    round: int

    @property
    def takes_uploads(self) -> bool:
        """Whether hospitals contribute to it."""
        return self.kind in UPLOAD_KINDS


HELLO = Step("hello", 0)


class Rounds(NamedTuple):
    """Completed rounds whose aggregates are sent, `first` to `last`, both included; none if `first` > `last`."""

    first: int
    last: int


def steps_after(plan: Plan, last_complete_round: int) -> tuple[Step, ...]:
    """What is left of a run: hello, the rounds behind `last_complete_round`, the closing eval if due, finish."""
    rounds = range(max(last_complete_round + 1, plan.first_round), plan.last_round + 1)
    return (
        HELLO,
        *(Step(plan.kind_of(number), number) for number in rounds),
        Step("finish", plan.last_round + 1),
    )
