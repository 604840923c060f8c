"""What a chaos run left behind, and what of it is wrong: what `fedward bench chaos --json` writes, and its verdict."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from server.store import Exchange

Charges = Sequence[tuple[int, str]]
"""Round and hash of each training charge in one hospital's ledger, oldest first."""


@dataclass(frozen=True, slots=True)
class Disturbed:
    """Rounds in which a hospital could not be heard because of a fault of its own.

    Args:
        hospital: Who was struck.
        first: The round that was open when the fault struck.
        last: The round with which the hospital was back; None: it never was.
    """

    hospital: str
    first: int
    last: int | None

    def covers(self, hospital: str, number: int) -> bool:
        """Whether it explains that this hospital's work in a round was lost."""
        return hospital == self.hospital and self.first <= number and (self.last is None or number <= self.last)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was found after everything was stopped.

    Args:
        rounds: Training rounds that were asked for.
        min_cohort: Fewest contributors of a complete round.
        hospitals: All names.
        exchanges: What the coordinator's store holds of the run.
        reason: Why the run stopped; empty if it finished.
        models: SHA-256 of the finished model at each hospital that has one.
        charges: What each hospital's ledger holds of the run.
        charges_before: The same at the time when a site had just been killed.
        disturbed: Which hospital was out in which rounds.
        unstruck: Faults that never came about.
        orphans: Processes that were left over.
    """

    rounds: int
    min_cohort: int
    hospitals: tuple[str, ...]
    exchanges: tuple[Exchange, ...]
    reason: str
    models: Mapping[str, str]
    charges: Mapping[str, Charges]
    charges_before: Mapping[str, Charges]
    disturbed: Sequence[Disturbed]
    unstruck: Sequence[str]
    orphans: int


def judge(evidence: Evidence) -> dict[str, Any]:
    """The report on a run; `passed` is false if anything is named in `failures`."""
    report = {
        "rounds": _rounds(evidence),
        "contributions": {name: len(contributions(evidence.exchanges, name)) for name in evidence.hospitals},
        "models": _models(evidence),
        "ledger": _ledgers(evidence),
        "orphans": evidence.orphans,
    }
    failures = [*_failures(report), *(f"a fault that never struck: {kind}" for kind in evidence.unstruck)]
    return report | {"failures": failures, "passed": not failures}


def contributions(exchanges: tuple[Exchange, ...], hospital: str) -> list[int]:
    """Training rounds to which a hospital contributed."""
    return [
        exchange.round
        for exchange in exchanges
        if exchange.kind == "train"
        for outcome in exchange.outcomes
        if (outcome.hospital, outcome.outcome) == (hospital, "contributed")
    ]


def _rounds(evidence: Evidence) -> dict[str, Any]:
    rounds = [e for e in evidence.exchanges if e.kind == "train"]
    complete = {e.round for e in rounds if sum(o.outcome == "contributed" for o in e.outcomes) >= evidence.min_cohort}
    asked = range(1, evidence.rounds + 1)
    return {
        "asked": len(asked),
        "completed": len(complete.intersection(asked)),
        "skipped": [{"round": number, "reason": evidence.reason} for number in asked if number not in complete],
        "attempts": len(rounds),
        "median_s": statistics.median(e.seconds for e in rounds) if rounds else None,
        "longest_s": max((e.seconds for e in rounds), default=None),
    }


def _models(evidence: Evidence) -> dict[str, Any]:
    """Which hospitals hold a finished model, and whether all of them do, and one and the same."""
    finished = [name for name in evidence.hospitals if name in evidence.models]
    missing = [name for name in evidence.hospitals if name not in evidence.models]
    one = len({evidence.models[name] for name in finished}) == 1
    return {"finished_at": finished, "missing_at": missing, "equal": one and not missing}


def _ledgers(evidence: Evidence) -> dict[str, Any]:
    """Charges and releases of all hospitals; what a killed one had charged must stand, unchanged, at the end.

    A charge without a release is budget that was lost. It is explained only where the hospital itself was struck in
    that round: its upload was on a line that was cut, or the round went on without it.
    """
    charges = {name: evidence.charges.get(name, ()) for name in evidence.hospitals}
    releases = {name: set(contributions(evidence.exchanges, name)) for name in evidence.hospitals}
    charged = {name: Counter(number for number, _ in charges[name]) for name in evidence.hospitals}
    unreleased = [(n, r) for n in evidence.hospitals for r in sorted(charged[n]) if r not in releases[n]]
    explained = [(n, r) for n, r in unreleased if any(one.covers(n, r) for one in evidence.disturbed)]
    return {
        "charges": sum(map(len, charges.values())),
        "releases": sum(map(len, releases.values())),
        "uncharged_releases": [_at(n, r) for n in evidence.hospitals for r in sorted(releases[n] - set(charged[n]))],
        "charged_twice": [_at(n, r) for n in evidence.hospitals for r, times in charged[n].items() if times > 1],
        "lost_to_a_fault": [_at(n, r) for n, r in explained],
        "unreleased_charges": [_at(n, r) for n, r in unreleased if (n, r) not in explained],
        "ledgers_that_forgot": [
            name for name, before in evidence.charges_before.items() if charges[name][: len(before)] != before
        ],
    }


def _failures(report: Mapping[str, Any]) -> Iterator[str]:
    rounds, models, ledger = report["rounds"], report["models"], report["ledger"]
    for skipped in rounds["skipped"]:
        yield f"round {skipped['round']} is missing ({skipped['reason'] or 'no reason is known'})"
    if models["missing_at"]:
        yield f"no finished model at {', '.join(models['missing_at'])}"
    elif not models["equal"]:
        yield "the finished models differ"
    for key, text in (
        ("uncharged_releases", "a release without a charge"),
        ("charged_twice", "a round that was charged twice"),
        ("unreleased_charges", "a charge without a release, and without a fault there"),
    ):
        for row in ledger[key]:
            yield f"{text}: {row['hospital']}, round {row['round']}"
    for name in ledger["ledgers_that_forgot"]:
        yield f"{name}'s ledger forgot what it had charged before the kill"
    if report["orphans"]:
        yield f"{report['orphans']} processes are left over"


def _at(hospital: str, number: int) -> dict[str, Any]:
    return {"hospital": hospital, "round": number}
