"""What the coordinator asks for, in which order, and the signed request to each hospital."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from common.messages import Kind, Request, encode_request
from common.plan import Plan
from server.aggregate import Aggregate


@dataclass(frozen=True, slots=True)
class Step:
    """One exchange of the run, before any attempt of it."""

    kind: Kind
    round: int


def steps_after(plan: Plan, last_complete_round: int) -> tuple[Step, ...]:
    """What is left of a run: hello, the rounds behind `last_complete_round`, the closing eval if due, finish."""
    rounds = range(last_complete_round + 1, plan.last_round + 1)
    kinds: list[Kind] = ["train" if number <= plan.training.rounds else "eval" for number in rounds]
    return (
        Step("hello", 0),
        *(Step(kind, number) for kind, number in zip(kinds, rounds, strict=True)),
        Step("finish", plan.last_round + 1),
    )


@dataclass(frozen=True, slots=True)
class RequestWriter:
    """Writes requests of one run.

    Args:
        plan: The plan.
        run: Run id.
        sign: Signs with the coordinator's identity key.
        aggregates: Returns the stored aggregates of rounds first to last.
    """

    plan: Plan
    run: str
    sign: Callable[[bytes], bytes]
    aggregates: Callable[[int, int], Sequence[Aggregate]]

    def write(
        self, step: Step, *, attempt: int, applied: dict[str, int], to: Sequence[str]
    ) -> Iterator[tuple[str, bytes]]:
        """Hospital and signed frame, one at a time, each with the aggregates that the hospital has not applied yet.

        Hospitals in the same state get the same aggregates, which are read once: whoever drops each frame before asking
        for the next holds one body and one frame, however many hospitals there are.

        Args:
            step: What is asked for.
            attempt: Attempt of that step.
            applied: Last applied round per hospital; a hospital that is not in it gets all aggregates.
            to: Recipients.
        """
        for first in sorted({applied.get(hospital, 0) + 1 for hospital in to}):
            group = [hospital for hospital in to if applied.get(hospital, 0) + 1 == first]
            yield from self._write_alike(step, attempt, first=first, to=group)

    def _write_alike(self, step: Step, attempt: int, *, first: int, to: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        aggregates = self.aggregates(first, step.round - 1)
        entries = tuple(aggregate.entry for aggregate in aggregates)
        body = b"".join(aggregate.body for aggregate in aggregates)
        del aggregates
        digest = hashlib.sha256(body).hexdigest()
        for hospital in to:
            request = Request(
                kind=step.kind,
                run=self.run,
                plan=self.plan.digest,
                epoch=self.plan.agreed.epoch,
                round=step.round,
                attempt=attempt,
                hospital=hospital,
                aggregates=entries,
                body_sha256=digest,
            )
            yield hospital, encode_request(request, body, self.sign)
