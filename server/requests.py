"""What the coordinator asks for, in which order, and the signed request to each hospital."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
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

    def write(self, step: Step, *, attempt: int, applied: dict[str, int], to: Sequence[str]) -> dict[str, bytes]:
        """Signed frames for some hospitals, each with the aggregates that it has not applied yet.

        Args:
            step: What is asked for.
            attempt: Attempt of that step.
            applied: Last applied round per hospital; a hospital that is not in it gets all aggregates.
            to: Recipients.
        """
        frames: dict[str, bytes] = {}
        parcels: dict[int, tuple[Aggregate, ...]] = {}
        for hospital in to:
            first = applied.get(hospital, 0) + 1
            if first not in parcels:
                parcels[first] = tuple(self.aggregates(first, step.round - 1))
            parcel = parcels[first]
            body = b"".join(aggregate.body for aggregate in parcel)
            request = Request(
                kind=step.kind,
                run=self.run,
                plan=self.plan.digest,
                epoch=self.plan.agreed.epoch,
                round=step.round,
                attempt=attempt,
                hospital=hospital,
                aggregates=tuple(aggregate.entry for aggregate in parcel),
                body_sha256=hashlib.sha256(body).hexdigest(),
            )
            frames[hospital] = encode_request(request, body, self.sign)
        return frames
