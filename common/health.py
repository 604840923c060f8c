"""How the supervised children are, over HTTP: GET /health and GET /live.

Whoever connects may be anybody: one short request per connection, few connections, little time, and an answer that
holds nothing of data, budget or logs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from common.child import ChildState
from common.errors import AddressInUse

MOST_CONNECTIONS = 16
MOST_REQUEST_BYTES = 4096
REQUEST_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """Where to answer, and what to say beside the children's states.

    Args:
        host: Address to listen on.
        port: Port to listen on.
        serving: Whether the whole serves, once all children are ready.
        details: More to say; nothing secret.
    """

    host: str
    port: int
    serving: Callable[[], bool]
    details: Callable[[], Mapping[str, object]]


@contextlib.asynccontextmanager
async def serve_health(check: HealthCheck, children: Sequence[Callable[[], ChildState]]) -> AsyncIterator[None]:
    """Answer while the context is open.

    Raises:
        AddressInUse: If the port is taken, or the address is not of this machine.
    """
    answering: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(answering) >= MOST_CONNECTIONS:
            writer.transport.abort()
            return
        task = asyncio.create_task(_answer(reader, writer, check, children))
        answering.add(task)
        task.add_done_callback(answering.discard)

    try:
        server = await asyncio.start_server(accept, check.host, check.port, limit=MOST_REQUEST_BYTES, backlog=16)
    except OSError as error:
        raise AddressInUse(
            f"health: port {check.port} on {check.host} cannot be used ({error.strerror}); "
            "stop the program that holds it, or name another health_port (0: none)"
        ) from error
    try:
        yield
    finally:
        server.close()
        for task in answering:
            task.cancel()
        await asyncio.gather(*answering, return_exceptions=True)
        await server.wait_closed()


def report(check: HealthCheck, states: Sequence[ChildState]) -> tuple[bool, dict[str, object]]:
    """Whether all is well, and what GET /health says."""
    ready = all(state.state == "ready" for state in states) and check.serving()
    children = {
        s.name: {"state": s.state, "restarts": s.restarts, "up_s": math.floor(s.up_s), "cause": s.cause} for s in states
    }
    return ready, {"ready": ready, "children": children, **check.details()}


async def _answer(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    check: HealthCheck,
    children: Sequence[Callable[[], ChildState]],
) -> None:
    try:
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            status, content = await _read(reader)
            if status is HTTPStatus.OK and content == "/health":
                ready, said = report(check, [state() for state in children])
                status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
            else:
                said = {"live": True} if status is HTTPStatus.OK else {"error": status.phrase}
            body = json.dumps(said).encode() + b"\n"
            writer.write(_head(status, len(body)) + body)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
    except (OSError, TimeoutError, EOFError):
        # Nobody to answer: it left, or it is too slow.
        writer.transport.abort()
    finally:
        writer.transport.abort()


async def _read(reader: asyncio.StreamReader) -> tuple[HTTPStatus, str]:
    """The request's verdict and path."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, ""
    words = head.split(b"\r\n", 1)[0].split(b" ")
    if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
        return HTTPStatus.BAD_REQUEST, ""
    if words[0] != b"GET":
        return HTTPStatus.METHOD_NOT_ALLOWED, ""
    if words[1] not in (b"/health", b"/live"):
        return HTTPStatus.NOT_FOUND, ""
    return HTTPStatus.OK, words[1].decode()


def _head(status: HTTPStatus, length: int) -> bytes:
    return (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n"
        "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
    ).encode()
