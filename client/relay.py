"""The ClientApp: passes opaque bytes between Flower and the site service's Unix socket, and knows nothing.

Flower lets the coordinator push code into this process, so it owns nothing, and what it sends to the site is checked
there like bytes from a stranger. Exception texts would reach the coordinator word for word: only codes leave.
"""

from __future__ import annotations

import os
import re
import time

import grpc
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from common.frame_bounds import MAX_FRAME_BYTES
from common.records import REPLY, REQUEST, frame_to_record, record_to_frame

SITE_SOCKET = "FEDWARD_SITE_SOCKET"
EXCHANGE = "/fedward.Site/Exchange"
ERROR_CODE = 102
CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", MAX_FRAME_BYTES),
    ("grpc.max_receive_message_length", MAX_FRAME_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A proxy of the environment must never see a hospital's frames.
    ("grpc.enable_http_proxy", 0),
)
RETRY_PAUSE_S = 0.2
_SITE_CODE = re.compile(r"[A-Za-z]{1,40}")


def exchange(frame: bytes, *, socket: str, timeout_s: float) -> bytes:
    """Send a frame to the site service and return its reply; a service that is down or dies meanwhile is waited for.

    Raises:
        grpc.RpcError: If the site refuses the frame, or gives no reply in time.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            # A fresh channel: one whose service died backs off for longer than the service takes to come back.
            with grpc.insecure_channel(f"unix:{socket}", options=CHANNEL_OPTIONS) as channel:
                call = channel.unary_unary(EXCHANGE, request_serializer=None, response_deserializer=None)
                return bytes(call(frame, timeout=max(0.0, deadline - time.monotonic()), wait_for_ready=True))
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() + RETRY_PAUSE_S > deadline:
                raise
            time.sleep(RETRY_PAUSE_S)


def failure_code(error: Exception) -> str:
    """What may leave the hospital about an exception: the site's own code, or the kind of failure; never a text."""
    if not isinstance(error, grpc.RpcError):
        return type(error).__name__
    status = error.code()
    if status is grpc.StatusCode.FAILED_PRECONDITION and _SITE_CODE.fullmatch(error.details() or ""):
        return str(error.details())
    return "".join(part.capitalize() for part in status.name.split("_"))


def relay(message: Message, _context: Context) -> Message:
    """Answer one message of the coordinator with what the site service says."""
    try:
        # The time to live counts from the arrival: the clocks of coordinator and hospital may differ.
        reply = exchange(
            record_to_frame(message.content, REQUEST), socket=os.environ[SITE_SOCKET], timeout_s=message.metadata.ttl
        )
        return Message(frame_to_record(reply, REPLY), reply_to=message)
    except Exception as error:  # noqa: BLE001 -- Flower would send the text of whatever escapes to the coordinator
        return Message(Error(ERROR_CODE, f"site:{failure_code(error)}"), reply_to=message)


app = ClientApp()
app.query()(relay)
app.train()(relay)
app.evaluate()(relay)
