"""The site service: a gRPC server on a Unix socket, and the composition of one hospital's parts."""

from __future__ import annotations

import logging
import os
import signal
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from common.errors import FedwardError, LocalProtocolError, SiteStorageError
from common.frame_bounds import MAX_FRAME_BYTES

log = logging.getLogger(__name__)

EXCHANGE = "/fedward.Site/Exchange"
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_FRAME_BYTES),
    ("grpc.max_send_message_length", MAX_FRAME_BYTES),
)


class _Exchange(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc ships no types
    """Opaque bytes in, opaque bytes out; one request at a time."""

    def __init__(self, answer: Callable[[bytes], bytes]) -> None:
        self._answer, self._lock = answer, threading.Lock()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Route the one method that exists."""
        if handler_call_details.method != EXCHANGE:
            return None
        return grpc.unary_unary_rpc_method_handler(self._handle)

    def _handle(self, frame: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            with self._lock:
                return self._answer(frame)
        except FedwardError as error:
            log.warning("refused: %s", error)
            code = error.code
        except Exception:
            # The text of an unexpected error may hold a path or a record's id: it goes to the site's log only.
            log.exception("unexpected error; the request was not answered")
            code = LocalProtocolError.__name__
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, code)
        return b""


def serve(answer: Callable[[bytes], bytes], socket: Path) -> None:
    """Serve requests on a Unix socket until SIGTERM or SIGINT.

    The socket's file mode is its guard (0660): grpc tells nothing about a peer on a Unix socket, and every request is
    verified by its signature anyway.

    Args:
        answer: Takes and returns frames; raises FedwardError to refuse.
        socket: Where the gateway connects; a left-over socket is replaced.

    Raises:
        SiteStorageError: If the socket cannot be made.
    """
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    try:
        socket.parent.mkdir(parents=True, exist_ok=True)
        if socket.exists() and stat.S_ISSOCK(socket.stat().st_mode):
            socket.unlink()
        # One thread answers: requests wait their turn, and each further thread would keep a heap of its own.
        server = grpc.server(ThreadPoolExecutor(1), options=_OPTIONS)
        server.add_generic_rpc_handlers((_Exchange(answer),))
        old_mask = os.umask(0o117)
        try:
            server.add_insecure_port(f"unix:{socket}")
            server.start()
        finally:
            os.umask(old_mask)
    except (OSError, RuntimeError) as error:
        raise SiteStorageError(f"{socket}: the site's socket cannot be made ({error}); free the path") from error
    log.info("site ready on %s", socket)
    stopped.wait()
    server.stop(grace=5).wait()
