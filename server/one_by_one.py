"""Requests as Flower messages, sent and answered one at a time, so that no two need to be in memory."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from common.errors import MalformedMessage
from common.messages import KEY_KINDS, Kind
from common.records import REPLY, REQUEST, frame_to_record, record_to_frame
from server.ask import Attempt
from server.exchange import NodeError

# One reply is asked for per pause: asking for all would load all that are there.
POLL_S = 0.1
MESSAGE_TYPES: dict[Kind, str] = {
    **dict.fromkeys(KEY_KINDS, MessageType.QUERY),
    "hello": MessageType.QUERY,
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
            frame_to_record(frame, REQUEST),
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


class OneByOneGrid:
    """The part of a Grid that a strategy needs; `send_and_receive` sends at once and returns a generator of replies."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def nodes(self) -> Mapping[str, int]:
        """Node id per name, of the nodes that are connected; a node without a name is left out."""
        return {node.name: node.node_id for node in self._grid.get_nodes() if node.name}

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Send messages now; yield each reply as it arrives, until all are there or `timeout` seconds have passed.

        A message to a node that is gone yields nothing: Flower gives it no id.
        """
        identifiers = self.send(messages)
        return self._replies(identifiers, None if timeout is None else time.monotonic() + timeout)

    def send(self, messages: Iterable[Message]) -> list[str]:
        """Send messages now; Flower's ids of those that it took."""
        identifiers: list[str] = []
        for message in messages:
            identifiers += self._grid.push_messages([message])
            # Else it would still be held while the next one is made.
            del message
        return [identifier for identifier in identifiers if identifier]

    def answer(self, identifier: str) -> bytes | NodeError | None:
        """The answer to a message, if it has come."""
        replies = list(self._grid.pull_messages([identifier]))
        return answer_of(replies[0]) if replies else None

    def _replies(self, pending: list[str], deadline: float | None) -> Iterator[Message]:
        while pending and (deadline is None or time.monotonic() < deadline):
            candidate = pending.pop(0)
            replies = list(self._grid.pull_messages([candidate]))
            yield from replies
            if not replies:
                pending.append(candidate)
                time.sleep(POLL_S)
