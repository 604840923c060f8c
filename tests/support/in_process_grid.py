"""Flower's Grid in one process: messages reach real hospitals, or nobody, without SuperLink and network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

import pytest
from flwr.app import Error, Message
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from common.errors import FedwardError
from common.pages import FETCH, LONG_REQUEST, PAGE
from common.records import REPLY, REQUEST, frame_to_record, record_to_frame

Answer = Callable[[bytes], bytes]
NODE_UNAVAILABLE = 5
SUPERLINK_NODE_ID = 1


@dataclass(frozen=True)
class Node:
    """What Flower tells about a connected gateway."""

    node_id: int
    name: str


@dataclass
class InProcessGrid(Grid):
    """Answers as the hospitals' relays would; `sites` are the connected ones.

    A message is answered when it is pulled for; a page, which nobody pulls for, when it is pushed. `slow` holds names
    whose answers are not there yet; `sent` keeps name, group and size of every request, `ttls` the seconds that each
    lives; `lost` are Flower's errors for the pages that are fetched next, `lost_outlines` for the answers to outlines,
    `dropped` says which frames of pages never arrive.
    """

    sites: dict[str, Answer]
    slow: set[str] = field(default_factory=set)
    sent: list[tuple[str, str, int]] = field(default_factory=list)
    waiting: dict[str, tuple[str, Message]] = field(default_factory=dict)
    lost: list[int] = field(default_factory=list)
    lost_outlines: list[int] = field(default_factory=list)
    ttls: list[float] = field(default_factory=list)
    dropped: Callable[[bytes], bool] = lambda _: False
    on_pull: Callable[[], None] = lambda: None
    on_push: Callable[[], None] = lambda: None

    def get_nodes(self) -> Iterable[Node]:  # type: ignore[override]
        """The connected gateways; a name has one id for ever."""
        return [Node(number(name), name) for name in self.sites]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Name the messages as Flower does, and keep them."""
        names = {number(name): name for name in self.sites}
        identifiers = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = message.object_id
            name = names[message.metadata.dst_node_id]
            frame = record_to_frame(message.content, REQUEST)
            self.sent.append((name, message.metadata.group_id, len(frame)))
            self.ttls.append(message.metadata.ttl)
            self.waiting[message.object_id] = (name, message)
            if PAGE.matches(frame) and not self.dropped(frame):
                self._reply(*self.waiting.pop(message.object_id))
            identifiers.append(message.object_id)
            self.on_push()
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Have the hospitals answer."""
        self.on_pull()
        due = [i for i in message_ids if self.waiting[i][0] not in self.slow]
        return [self._reply(*self.waiting.pop(identifier)) for identifier in due]

    def _reply(self, name: str, message: Message) -> Message:
        if name not in self.sites:
            return Message(Error(NODE_UNAVAILABLE, "gone"), reply_to=message)
        asked = record_to_frame(message.content, REQUEST)
        if self.lost and FETCH.matches(asked):
            return Message(Error(self.lost.pop(), "lost"), reply_to=message)
        try:
            frame = self.sites[name](asked)
        except FedwardError as error:
            return Message(Error(102, f"site:{error.code}"), reply_to=message)
        if self.lost_outlines and LONG_REQUEST.matches(asked):
            return Message(Error(self.lost_outlines.pop(), "lost"), reply_to=message)
        return Message(frame_to_record(frame, REPLY), reply_to=message)

    def set_run(self, run: object) -> NoReturn:
        """Not needed here, as what follows."""
        raise NotImplementedError

    @property
    def run(self) -> NoReturn:
        """See `set_run`."""
        raise NotImplementedError

    def create_message(self, *_: object, **__: object) -> NoReturn:
        """See `set_run`."""
        raise NotImplementedError

    def get_node_ids(self) -> NoReturn:
        """See `set_run`."""
        raise NotImplementedError

    def send_and_receive(self, *_: object, **__: object) -> NoReturn:
        """See `set_run`."""
        raise NotImplementedError


def as_server_app(patch: pytest.MonkeyPatch) -> None:
    """Let this process make messages, as Flower lets a ServerApp."""
    for attribute, value in (("_run_id", 7), ("_node_id", SUPERLINK_NODE_ID), ("_task_id", 7)):
        patch.setattr(TaskIdentity, attribute, value)


def number(name: str) -> int:
    """A node id."""
    return int(name.rsplit("-", 1)[1]) + 1000


def connected(sites: Mapping[str, Answer]) -> InProcessGrid:
    """A grid with these hospitals."""
    return InProcessGrid(dict(sites))
