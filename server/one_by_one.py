"""Requests are sent and answered one at a time, so that no two need to be in memory.

What is long goes in several messages, of which callers see the first request and the whole reply.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from flwr.app import Message, MessageType, Metadata
from flwr.serverapp import Grid

from common.errors import PeerError
from common.messages import Kind
from common.records import REQUEST, frame_to_record, page_to_record
from server.conversation import Conversation
from server.exchange import LOST, MESSAGE_UNAVAILABLE, NODE_UNAVAILABLE, NodeError
from server.flower_messages import MESSAGE_TYPES, Answer, answer_of
from server.long_messages import FollowUp, LongMessages
from server.pull import Pull

log = logging.getLogger(__name__)

# One reply is asked for per pause: asking for all would load all that are there.
POLL_S = 0.1
# How long one reply may keep the others waiting while it arrives.
PATIENCE_S = 5.0
# How long one is worked on that somebody asks about in passing.
MOMENT_S = 1.0
Deadline = Callable[[], float]


@dataclass(slots=True)
class _Exchange:
    """One request under way: its first message, what is awaited, and, if anything of it may be long, what was said.

    `end` is when its time is over, on the monotonic clock; `awaited` are Flower's ids of messages, with the number of
    the page that each brings; `follow_ups` are sent one by one before anything is looked for; `answer` is kept for who
    asks.
    """

    first: Metadata
    end: float
    awaited: dict[str, int | None]
    conversation: Conversation | None
    follow_ups: Iterator[FollowUp] = field(default_factory=lambda: iter(()))
    answer: bytes | memoryview | NodeError | None = None


class OneByOneGrid:
    """The part of a Grid that a strategy needs; `send_and_receive` sends at once and returns a generator of replies.

    Args:
        grid: Flower's.
        long: What goes in pages; None: nothing does.
    """

    def __init__(self, grid: Grid, long: LongMessages | None = None) -> None:
        self._grid, self._long = grid, long
        self._arriving: dict[str, Pull] = {}
        self._under_way: dict[str, _Exchange] = {}
        self._names: dict[int, str] = {}

    def nodes(self) -> Mapping[str, int]:
        """Node id per name, of the nodes that are connected; a node without a name is left out."""
        nodes = {node.name: node.node_id for node in self._grid.get_nodes() if node.name}
        self._names |= {node: name for name, node in nodes.items()}
        return nodes

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Answer]:
        """Send messages now; yield each reply as it arrives, until all are there or `timeout` seconds have passed.

        A message to a node that is gone yields nothing: Flower gives it no id.
        """
        identifiers = self.send(messages)
        end = math.inf if timeout is None else time.monotonic() + timeout
        return self._replies(identifiers, lambda: end)

    def send(self, messages: Iterable[Message]) -> list[str]:
        """Send messages now; Flower's ids of those that it took."""
        identifiers: list[str] = []
        for message in messages:
            end = time.monotonic() + message.metadata.ttl
            for identifier in filter(None, self._grid.push_messages([message])):
                hospital = self._names.get(message.metadata.dst_node_id, "")
                sent = self._long.last_to(hospital) if self._long else None
                conversation = Conversation(self._long, sent) if self._long and sent else None
                self._under_way[identifier] = _Exchange(message.metadata, end, {identifier: None}, conversation)
                identifiers.append(identifier)
            # Else it would still be held while the next one is made.
            del message
        return identifiers

    def ask(
        self, kind: Kind, frames: Mapping[str, bytes], nodes: Mapping[str, int], *, deadline: Deadline, ttl_s: float
    ) -> Iterator[tuple[str, bytes | NodeError]]:
        """Send one frame to each hospital; yield hospital and answer as they come.

        Args:
            kind: What is asked.
            frames: Signed request per hospital.
            nodes: Their node ids.
            deadline: When to stop waiting, on the monotonic clock; asked before each look.
            ttl_s: How long Flower keeps the requests, seconds.
        """
        names: dict[str, str] = {}
        for name, frame in frames.items():
            record, kind_of_message = frame_to_record(frame, REQUEST), MESSAGE_TYPES[kind]
            message = Message(record, dst_node_id=nodes[name], message_type=kind_of_message, ttl=ttl_s, group_id=kind)
            names |= dict.fromkeys(self.send([message]), name)
        for identifier, content in self._replies(list(names), deadline):
            yield names[identifier], bytes(content) if isinstance(content, memoryview) else content

    def answer(self, identifier: str) -> bytes | memoryview | NodeError | None:
        """The answer to a message, if it has come; what follows on what has come is sent, for a moment."""
        exchange, idle, until = self._under_way[identifier], 0, time.monotonic() + MOMENT_S
        while exchange.answer is None and idle < max(1, len(exchange.awaited)):
            came, exchange.answer = self._look(exchange, wait_s=PATIENCE_S)
            idle = 0 if came else idle + 1
            if time.monotonic() > until:
                break
        if exchange.answer is not None:
            self.forget(identifier)
        return exchange.answer

    def forget(self, identifier: str) -> None:
        """Wait no more for the answer to a message."""
        exchange = self._under_way.pop(identifier, None)
        if exchange is None:
            return
        if exchange.conversation is not None:
            exchange.conversation.close()
        for late in exchange.awaited:
            # Whatever of it comes now is dropped with its thread.
            self._arriving.pop(late, None)

    def close(self) -> None:
        """Wait for nothing any more."""
        for identifier in tuple(self._under_way):
            self.forget(identifier)

    def _replies(self, identifiers: list[str], deadline: Deadline) -> Iterator[Answer]:
        pending = list(identifiers)
        while pending and time.monotonic() < deadline():
            candidate = pending.pop(0)
            left_s = min(PATIENCE_S, deadline() - time.monotonic())
            came, answer = self._look(self._under_way[candidate], wait_s=max(0.0, left_s))
            if answer is not None:
                self.forget(candidate)
                found = [Answer(candidate, answer)]
                del answer
                # Whoever takes it holds the only copy.
                yield found.pop()
            else:
                pending.append(candidate)
                came = self._serve(exclude=pending) or came
                time.sleep(0.0 if came else POLL_S)
        for late in pending:
            self.forget(late)

    def _serve(self, *, exclude: Collection[str]) -> bool:
        """Go on with long messages that somebody asks about later; whether anything came."""
        others = [one for name, one in self._under_way.items() if name not in exclude and one.answer is None]
        came = False
        for exchange in others:
            if exchange.conversation is not None and exchange.conversation.is_long:
                one, exchange.answer = self._look(exchange, wait_s=0.0)
                came |= one
        return came

    def _look(self, exchange: _Exchange, *, wait_s: float) -> tuple[bool, bytes | memoryview | NodeError | None]:
        """Send the next message of an exchange, or look for one: whether there was any, and the answer if it is whole.

        One at a time: a deadline is looked at in between, and hospitals share the way.
        """
        follow_up = next(exchange.follow_ups, None)
        if follow_up is not None:
            return True, self._follow_up(exchange, follow_up)
        identifier, page = next(iter(exchange.awaited.items()))
        del exchange.awaited[identifier]
        replies = self._pull(identifier, wait_s=wait_s)
        if not replies:
            exchange.awaited[identifier] = page
            return False, None
        came = answer_of(replies.pop())
        if exchange.conversation is None:
            return True, came
        return True, self._continue(exchange, exchange.conversation, came, page)

    def _continue(
        self, exchange: _Exchange, conversation: Conversation, came: bytes | NodeError, page: int | None
    ) -> bytes | memoryview | NodeError | None:
        """Go on with an exchange whose request or reply may be long; the whole answer once it is there."""
        if isinstance(came, NodeError):
            again = conversation.again(page) if came.code in LOST else None
            return came if again is None else self._follow_up(exchange, again)
        try:
            heard = conversation.hear(came, page)
        except PeerError as refusal:
            log.warning("%s", refusal)
            return NodeError.refused(refusal)
        if isinstance(heard, bytes | memoryview):
            return heard
        exchange.follow_ups = heard
        return None

    def _follow_up(self, exchange: _Exchange, follow_up: FollowUp) -> NodeError | None:
        """Send a frame to the same node, for as long as is left; the error if that cannot be."""
        first, left_s = exchange.first, exchange.end - time.monotonic()
        if left_s <= 0:
            # What Flower says of a message whose time is over.
            return NodeError(MESSAGE_UNAVAILABLE, "")
        message = Message(
            page_to_record(follow_up.frame, follow_up.page, REQUEST),
            dst_node_id=first.dst_node_id,
            message_type=MessageType.QUERY,
            ttl=left_s,
            group_id=first.group_id,
        )
        identifiers = [identifier for identifier in self._grid.push_messages([message]) if identifier]
        if not follow_up.page:
            exchange.awaited |= dict.fromkeys(identifiers, follow_up.answer)
        return None if identifiers else NodeError(NODE_UNAVAILABLE, "")

    def _pull(self, identifier: str, *, wait_s: float) -> list[Message]:
        """Look for a reply; one that is arriving is waited for once, and then only looked at."""
        known = self._arriving.pop(identifier, None)
        pull = known or Pull(self._grid, identifier)
        replies = pull.replies(wait_s=0.0 if known else wait_s)
        if replies is None:
            self._arriving[identifier] = pull
        return replies or []
