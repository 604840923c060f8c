"""Stops a run after a round, once the hospitals hold the model of that round."""

from __future__ import annotations

from collections.abc import Mapping

from common.errors import RunPaused
from server.ask import Attempt, expected_answer
from server.exchange import Collection
from server.flower_messages import messages_of
from server.one_by_one import OneByOneGrid
from server.requests import RequestWriter
from server.steps import HELLO, Rounds


def pause(
    writer: RequestWriter, grid: OneByOneGrid, *, nodes: Mapping[str, int], applied: dict[str, int], last: int
) -> None:
    """Deliver the rounds up to `last` to the connected hospitals, and end the run's work.

    Args:
        writer: Writes the requests.
        grid: Where they go.
        nodes: Node ids of the connected hospitals.
        applied: The last round that each has applied; is brought up to date.
        last: The last complete round.

    Raises:
        RunPaused: Always; says who holds the model.
    """
    plan, timeout_s = writer.plan, writer.plan.cohort.round_timeout_s
    start = plan.first_round - 1
    behind = {name: applied.get(name, start) for name in nodes if applied.get(name, start) < last}
    while behind:
        rounds = {name: writer.part(Rounds(reached + 1, last)) for name, reached in behind.items()}
        expected = expected_answer(plan, writer.run, HELLO, attempt=0, epoch=writer.epoch(HELLO))
        attempt = Attempt(HELLO, 0, {name: nodes[name] for name in behind}, Collection(expected, {}))
        messages = messages_of(attempt, writer.write(HELLO, attempt=0, rounds=rounds), ttl_s=timeout_s)
        for identifier, answer in grid.send_and_receive(messages, timeout=timeout_s):
            attempt.collection.take(attempt.hospitals[identifier], answer, seconds=0.0)
        applied |= attempt.collection.applied
        # One that did not come forward is not asked again.
        behind = {name: applied[name] for name, before in behind.items() if before < applied.get(name, start) < last}
    there = [name for name in nodes if applied.get(name, start) == last]
    raise RunPaused(
        f"paused after round {last}, as it was asked to; {', '.join(there) or 'nobody'} "
        f"{'holds' if len(there) == 1 else 'hold'} its model"
    )
