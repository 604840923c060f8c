"""Requests as Flower messages, sent and answered one at a time, so that no two need to be in memory."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from common.errors import MalformedMessage
from common.messages import KEY_KINDS, Kind
from common.records import REPLY, REQUEST, frame_to_record, record_to_frame
from common.wire import body_start
from server.ask import Attempt
from server.exchange import NodeError
from server.progress import ProgressFile

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
        attempt.collection.asked(hospital, len(frame))
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


def answer_of(reply: Message) -> bytes | NodeError:
    """The frame in a reply, or the error that came in its place."""
    if reply.has_error():
        return NodeError(reply.error.code, reply.error.reason or "")
    try:
        return record_to_frame(reply.content, REPLY)
    except MalformedMessage:
        # Refused by `admit` under the same code as any other bytes that are no frame.
        return b""


def take_replies(attempt: Attempt, replies: Iterable[Message], progress: ProgressFile) -> None:
    """Take the replies to an attempt as they come, and show what each hospital did."""
    step = attempt.step
    for reply in replies:
        hospital = attempt.hospitals[reply.metadata.reply_to_message_id]
        outcome = attempt.collection.take(hospital, answer_of(reply), seconds=time.monotonic() - attempt.started)
        log.info("%s %d: %s %s %s", step.kind, step.round, hospital, outcome.outcome, outcome.code)
        progress.record(outcome, step.round)


class _Pull:
    """One look for a reply.

    Once a hospital has begun to send, Flower's own call returns only when the last byte is there: hours later, if the
    hospital's line is slow or was cut. So it has a thread, which nobody needs to wait for.
    """

    def __init__(self, grid: Grid, identifier: str) -> None:
        self._grid, self._identifier = grid, identifier
        self._replies: list[Message] = []
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def replies(self, *, wait_s: float) -> list[Message] | None:
        """The reply, or nothing if there is none yet; None if it has begun to arrive and is not all there."""
        self._thread.join(wait_s)
        if self._thread.is_alive():
            return None
        if self._failure is not None:
            raise self._failure
        return self._replies

    def _look(self) -> None:
        try:
            self._replies = list(self._grid.pull_messages([self._identifier]))
        except Exception as error:  # noqa: BLE001 -- raised again where the reply is asked for
            self._failure = error


class OneByOneGrid:
    """The part of a Grid that a strategy needs; `send_and_receive` sends at once and returns a generator of replies."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._arriving: dict[str, _Pull] = {}

    def nodes(self) -> Mapping[str, int]:
        """Node id per name, of the nodes that are connected; a node without a name is left out."""
        return {node.name: node.node_id for node in self._grid.get_nodes() if node.name}

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
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
            identifiers += self._grid.push_messages([message])
            # Else it would still be held while the next one is made.
            del message
        return [identifier for identifier in identifiers if identifier]

    def ask(
        self, kind: Kind, frames: Mapping[str, bytes], nodes: Mapping[str, int], *, deadline: Deadline, ttl_s: float
    ) -> Iterator[tuple[str, bytes | NodeError]]:
        """Send one small frame to each hospital; yield hospital and answer as they come.

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
        for reply in self._replies(list(names), deadline):
            yield names[reply.metadata.reply_to_message_id], answer_of(reply)

    def answer(self, identifier: str) -> bytes | NodeError | None:
        """The answer to a message, if it has come."""
        replies = self._pull(identifier, wait_s=PATIENCE_S)
        return answer_of(replies[0]) if replies else None

    def _replies(self, pending: list[str], deadline: Deadline) -> Iterator[Message]:
        while pending and time.monotonic() < deadline():
            candidate = pending.pop(0)
            left_s = min(PATIENCE_S, deadline() - time.monotonic())
            replies = self._pull(candidate, wait_s=max(0.0, left_s))
            yield from replies
            if not replies:
                pending.append(candidate)
                time.sleep(POLL_S)
        for late in pending:
            # Whatever of it comes now is dropped with its thread.
            self._arriving.pop(late, None)

    def _pull(self, identifier: str, *, wait_s: float) -> list[Message]:
        """Look for a reply; one that is arriving is waited for once, and then only looked at."""
        known = self._arriving.pop(identifier, None)
        pull = known or _Pull(self._grid, identifier)
        replies = pull.replies(wait_s=0.0 if known else wait_s)
        if replies is None:
            self._arriving[identifier] = pull
        return replies or []
