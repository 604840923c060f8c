"""Replies are taken one at a time, and one that hangs on a bad line holds up no other."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import cast

import pytest
from flwr.app import Message
from flwr.serverapp import Grid

from server import one_by_one
from server.one_by_one import OneByOneGrid

PATIENCE_S = 0.05


class HalfArrived:
    """Flower's side, where one reply has begun to arrive: its own call waits for the rest. The others are there."""

    def __init__(self, stuck: str) -> None:
        self.stuck, self.rest = stuck, threading.Event()
        self.looks: list[str] = []

    def push_messages(self, messages: Iterable[object]) -> list[str]:
        """Messages stand for themselves."""
        return [str(message) for message in messages]

    def pull_messages(self, identifiers: Iterable[str]) -> list[str]:
        """As Flower does: begun is taken."""
        (identifier,) = identifiers
        self.looks.append(identifier)
        if identifier == self.stuck:
            self.rest.wait()
        if identifier == "lost":
            raise ConnectionError("the SuperLink is gone")
        return [f"reply to {identifier}"]


@pytest.fixture
def flower(monkeypatch: pytest.MonkeyPatch) -> Iterable[HalfArrived]:
    """Ends its thread."""
    monkeypatch.setattr(one_by_one, "PATIENCE_S", PATIENCE_S)
    monkeypatch.setattr(one_by_one, "POLL_S", 0.01)
    side = HalfArrived("slow")
    yield side
    side.rest.set()


def ask(flower: HalfArrived, *names: str, timeout: float | None) -> Iterable[object]:
    """The replies as they come."""
    return OneByOneGrid(cast(Grid, flower)).send_and_receive(cast(list[Message], list(names)), timeout=timeout)


def test_a_reply_that_hangs_halfway_holds_up_neither_the_others_nor_the_end(flower: HalfArrived) -> None:
    """One hospital on a cut line would else stop the coordinator for the two hours that Flower waits."""
    assert list(ask(flower, "slow", "a", "b", timeout=0.3)) == ["reply to a", "reply to b"]
    assert flower.looks.count("slow") == 1


def test_a_reply_that_arrives_slowly_is_taken_once_it_is_there(flower: HalfArrived) -> None:
    """It is the same look, for Flower gives a reply only once."""
    taken = []
    for reply in ask(flower, "slow", "a", timeout=None):
        taken.append(reply)
        flower.rest.set()
    assert taken == ["reply to a", "reply to slow"]
    assert flower.looks.count("slow") == 1


def test_a_failure_to_look_is_not_taken_for_no_reply(flower: HalfArrived) -> None:
    """It ends the run's attempt, as before there were threads."""
    with pytest.raises(ConnectionError):
        list(ask(flower, "lost", timeout=1.0))
