"""What the coordinator has stored of rounds that are over, whole."""

from __future__ import annotations

from server.aggregate import Aggregate
from server.parts import History
from server.steps import Rounds
from server.store import Store


def stored_sums(store: Store, run: str, first: int, last: int) -> tuple[Aggregate, ...]:
    """The sums of rounds `first` to `last`, both included, in order."""
    pairs = zip(store.entries(run, first, last), store.bodies(run, first, last), strict=True)
    return tuple(Aggregate.held(entry, body.read(0, body.size_bytes)) for entry, body in pairs)


def sent_aggregates(history: History, rounds: Rounds) -> tuple[Aggregate, ...]:
    """What a request brings of them: the last one with all that verifies it."""
    body, made, start = history.body(rounds), [], 0
    for entry in history.entries(rounds):
        made.append(Aggregate.held(entry, body.read(start, start + entry.body_bytes)))
        start += entry.body_bytes
    assert start == body.size_bytes
    return tuple(made)
