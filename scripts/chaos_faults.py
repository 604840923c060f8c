"""The accidents of `fedward bench chaos`: which, when, whom, and what each has cost."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.chaos_verdict import Disturbed

ON_SITES = ("site killed", "line cut", "line slow")
ON_COORDINATOR = ("ServerApp killed", "coordinator killed")


@dataclass(frozen=True, slots=True)
class ChaosOptions:
    """What the command line says; `fault_seconds` is how long a line stays cut or slow."""

    rounds: int
    hospitals: int
    fault_seconds: float
    seed: int
    work: Path | None


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: after which round it strikes, and whom."""

    kind: str
    hospital: str
    after_round: int


@dataclass(frozen=True, slots=True)
class Recovered:
    """A fault and its cost.

    Args:
        fault: What happened.
        seconds: From the fault (a line: from its mending) until the hospital contributed again, or until the next round
            was complete; None: not before the end of the run.
        first: The round that was open when it struck; None: it never struck.
        last: The round with which its cost was over; None: not before the end of the run.
    """

    fault: Fault
    seconds: float | None
    first: int | None
    last: int | None


def schedule(options: ChaosOptions, hospitals: tuple[str, ...]) -> list[Fault]:
    """Each kind of fault once, in the first half of the run, in an order and on hospitals chosen by the seed.

    No two strike after the same round, where the run has rounds enough.
    """
    choice = random.Random(options.seed)  # noqa: S311 -- chooses accidents, nothing secret
    struck = choice.sample(hospitals, len(ON_SITES))
    targets = [*zip(ON_SITES, struck, strict=True), *((kind, "") for kind in ON_COORDINATOR)]
    choice.shuffle(targets)
    places = range(1, max(2, options.rounds // 2))
    rounds = sorted(choice.sample([*places] * -(-len(targets) // len(places)), k=len(targets)))
    return [Fault(kind, hospital, number) for (kind, hospital), number in zip(targets, rounds, strict=True)]


def disturbed(one: Recovered) -> Disturbed | None:
    """In which rounds a hospital was out; None if the fault was not a hospital's, or never struck."""
    return Disturbed(one.fault.hospital, one.first, one.last) if one.fault.hospital and one.first is not None else None


def fault_row(one: Recovered) -> dict[str, Any]:
    """The same for `--json`."""
    return {
        "kind": one.fault.kind,
        "hospital": one.fault.hospital,
        "after_round": one.fault.after_round,
        "struck_in_round": one.first,
        "over_with_round": one.last,
        "seconds_to_recover": one.seconds,
    }
