"""Replies are taken one at a time, and one that hangs on a bad line holds up no other."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import cast

import pytest
from flwr.app import Message
from flwr.serverapp import Grid

from common.records import REPLY, REQUEST, frame_to_record, record_to_frame
from server import one_by_one
from server.one_by_one import OneByOneGrid
from tests.support.in_process_grid import as_server_app

PATIENCE_S = 0.05


class HalfArrived:
    """Flower's side, where one reply has begun to arrive: its own call waits for the rest. The others are there."""

    def __init__(self, stuck: str) -> None:
        self.stuck, self.rest = stuck, threading.Event()
        self.looks: list[str] = []
        self.sent: dict[str, Message] = {}

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """What a message holds is its name."""
        names = []
        for message in messages:
            name = record_to_frame(message.content, REQUEST).decode()
            message.metadata.__dict__["_message_id"] = name
            self.sent[name] = message
            names.append(name)
        return names

    def pull_messages(self, identifiers: Iterable[str]) -> list[Message]:
        """As Flower does: begun is taken."""
        (identifier,) = identifiers
        self.looks.append(identifier)
        if identifier == self.stuck:
            self.rest.wait()
        if identifier == "lost":
            raise ConnectionError("the SuperLink is gone")
        return [Message(frame_to_record(f"reply to {identifier}".encode(), REPLY), reply_to=self.sent[identifier])]


@pytest.fixture
def flower(monkeypatch: pytest.MonkeyPatch) -> Iterable[HalfArrived]:
    """Ends its thread."""
    as_server_app(monkeypatch)
    monkeypatch.setattr(one_by_one, "PATIENCE_S", PATIENCE_S)
    monkeypatch.setattr(one_by_one, "POLL_S", 0.01)
    side = HalfArrived("slow")
    yield side
    side.rest.set()


def ask(flower: HalfArrived, *names: str, timeout: float | None) -> Iterable[str]:
    """The replies as they come."""
    messages = [
        Message(frame_to_record(name.encode(), REQUEST), dst_node_id=1, message_type="query", ttl=60.0)
        for name in names
    ]
    for name, content in OneByOneGrid(cast(Grid, flower)).send_and_receive(messages, timeout=timeout):
        assert isinstance(content, bytes)
        assert content.decode() == f"reply to {name}"
        yield content.decode()


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
