"""Requests as Flower messages, sent and answered one at a time, so that no two need to be in memory.

What is longer than a page goes in several messages, of which callers see the first request and the whole reply.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from flwr.app import Message, MessageType, Metadata
from flwr.serverapp import Grid

from common.errors import MalformedMessage, PeerError
from common.messages import KEY_KINDS, Kind
from common.pages import request_bytes
from common.records import REPLY, REQUEST, frame_to_record, page_to_record, record_to_frame
from common.wire import body_start
from server.ask import Attempt
from server.exchange import LOST, NODE_UNAVAILABLE, NodeError
from server.long_messages import Conversation, FollowUp, LongMessages
from server.progress import ProgressFile
from server.pull import Pull

log = logging.getLogger(__name__)

# One reply is asked for per pause: asking for all would load all that are there.
POLL_S = 0.1
# How long one reply may keep the others waiting while it arrives.
PATIENCE_S = 5.0
Deadline = Callable[[], float]
MESSAGE_TYPES: dict[Kind, str] = {
    **dict.fromkeys(KEY_KINDS, MessageType.QUERY),
    "hello": MessageType.QUERY,
    "checkpoint": MessageType.QUERY,
    "restore": MessageType.QUERY,
    "keys": MessageType.QUERY,
    "unmask": MessageType.QUERY,
    "verify": MessageType.QUERY,
    "stat": MessageType.TRAIN,
    "train": MessageType.TRAIN,
    "eval": MessageType.EVALUATE,
    "finish": MessageType.QUERY,
}


def messages_of(attempt: Attempt, frames: Iterable[tuple[str, bytes]], *, ttl_s: float) -> Iterator[Message]:
    """The messages of an attempt, each made when it is taken: of all frames only one is in memory.

    Args:
        attempt: Notes who was asked, under which id.
        frames: Hospital and signed request.
        ttl_s: How long an answer is waited for, seconds.
    """
    step = attempt.step
    for hospital, frame in frames:
        attempt.collection.asked(hospital, request_bytes(frame))
        message = Message(
            frame_to_record(frame, REQUEST, shared_from=body_start(frame)),
            dst_node_id=attempt.nodes[hospital],
            message_type=MESSAGE_TYPES[step.kind],
            ttl=ttl_s,
            group_id=f"{step.round}.{attempt.number}",
        )
        del frame
        yield message
        # Flower names a message when it is sent, so it has its id once the next one is asked for. A dead node's error
        # carries another sender than the node: only this id tells whose answer it is.
        attempt.hospitals[message.metadata.message_id] = hospital
        del message


class Answer(NamedTuple):
    """What came back for a message: Flower's id of that, and the frame, or the error that came in its place."""

    identifier: str
    content: bytes | memoryview | NodeError


def answer_of(reply: Message) -> bytes | NodeError:
    """The frame in a reply, or the error that came in its place."""
    if reply.has_error():
        return NodeError(reply.error.code, reply.error.reason or "")
    try:
        return record_to_frame(reply.content, REPLY)
    except MalformedMessage:
        # Refused by `admit` under the same code as any other bytes that are no frame.
        return b""


def take_replies(attempt: Attempt, replies: Iterable[Answer], progress: ProgressFile) -> None:
    """Take the replies to an attempt as they come, and show what each hospital did."""
    step = attempt.step
    for identifier, content in replies:
        hospital = attempt.hospitals[identifier]
        outcome = attempt.collection.take(hospital, content, seconds=time.monotonic() - attempt.started)
        # Else it would be held while the next one comes.
        del content
        log.info("%s %d: %s %s %s", step.kind, step.round, hospital, outcome.outcome, outcome.code)
        progress.record(outcome, step.round)


@dataclass(slots=True)
class _Exchange:
    """One request under way: its first message, what is awaited, and, if anything of it may be long, what was said.

    `awaited` are Flower's ids of messages, with the number of the page that each brings; `answer` is kept for who asks.
    """

    identifier: str
    first: Metadata
    awaited: dict[str, int | None]
    conversation: Conversation | None
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
            for identifier in filter(None, self._grid.push_messages([message])):
                hospital = self._names.get(message.metadata.dst_node_id, "")
                sent = self._long.last_to(hospital) if self._long else None
                conversation = Conversation(self._long, sent) if self._long and sent else None
                exchange = _Exchange(identifier, message.metadata, {identifier: None}, conversation)
                self._under_way[identifier] = exchange
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
        """The answer to a message, if it has come."""
        exchange = self._under_way[identifier]
        for _ in tuple(exchange.awaited):
            if exchange.answer is None:
                _, exchange.answer = self._look(exchange, wait_s=PATIENCE_S)
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
        """Look for the next message of an exchange: whether one came, and the whole answer once it is there."""
        identifier, page = next(iter(exchange.awaited.items()))
        del exchange.awaited[identifier]
        replies = self._pull(identifier, wait_s=wait_s)
        if not replies:
            exchange.awaited[identifier] = page
            return False, None
        came = answer_of(replies.pop())
        answer: bytes | memoryview | NodeError | None = came
        if isinstance(came, NodeError) and came.code in LOST and self._ask_again(exchange, page):
            return True, None
        if isinstance(came, bytes) and exchange.conversation is not None:
            answer = self._continue(exchange, exchange.conversation, came, page)
        return True, answer

    def _continue(
        self, exchange: _Exchange, conversation: Conversation, answer: bytes, page: int | None
    ) -> bytes | memoryview | NodeError | None:
        """Go on with an exchange whose request or reply is long; the whole answer once it is there."""
        try:
            heard = conversation.hear(answer, page)
            if isinstance(heard, bytes | memoryview):
                return heard
            for follow_up in heard:
                if not self._follow_up(exchange, follow_up):
                    return NodeError(NODE_UNAVAILABLE, "")
                # Else it would be held while the next one is made.
                del follow_up
        except PeerError as refusal:
            log.warning("%s", refusal)
            return NodeError.refused(refusal)
        return None

    def _ask_again(self, exchange: _Exchange, page: int | None) -> bool:
        """Ask for a page that Flower has lost; whether that was done."""
        if page is None or exchange.conversation is None:
            return False
        again = exchange.conversation.again(page)
        return again is not None and self._follow_up(exchange, again)

    def _follow_up(self, exchange: _Exchange, follow_up: FollowUp) -> bool:
        """Send a frame to the same node; whether Flower took it."""
        first = exchange.first
        message = Message(
            page_to_record(follow_up.frame, follow_up.page, REQUEST),
            dst_node_id=first.dst_node_id,
            message_type=MessageType.QUERY,
            ttl=first.ttl,
            group_id=first.group_id,
        )
        identifiers = [identifier for identifier in self._grid.push_messages([message]) if identifier]
        if not follow_up.page:
            exchange.awaited |= dict.fromkeys(identifiers, follow_up.answer)
        return bool(identifiers)

    def _pull(self, identifier: str, *, wait_s: float) -> list[Message]:
        """Look for a reply; one that is arriving is waited for once, and then only looked at."""
        known = self._arriving.pop(identifier, None)
        pull = known or Pull(self._grid, identifier)
        replies = pull.replies(wait_s=0.0 if known else wait_s)
        if replies is None:
            self._arriving[identifier] = pull
        return replies or []
