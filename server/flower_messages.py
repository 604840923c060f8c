"""Requests as Flower messages, and the frames in what comes back."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from flwr.app import Message, MessageType

from common.errors import MalformedMessage
from common.messages import KEY_KINDS, Kind
from common.pages import request_bytes
from common.records import REPLY, REQUEST, frame_to_record, record_to_frame
from common.wire import body_start
from server.ask import Attempt
from server.exchange import NodeError
from server.progress import ProgressFile

log = logging.getLogger(__name__)

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
