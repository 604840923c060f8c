"""The health endpoint: what it says, what it does not, and that nobody can wear it out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from common.child import ChildState
from common.errors import AddressInUse
from common.health import MOST_CONNECTIONS, MOST_REQUEST_BYTES, HealthCheck, serve_health
from tests.support.flower_federation import REPOSITORY, free_port

UP = ChildState("superlink", "ready", restarts=2, up_s=61.9, cause="was ended by SIGKILL")
STARTING = ChildState("superexec", "starting", restarts=0, up_s=0.5, cause="")


def ask(
    talk: Callable[[int], Awaitable[None]], *states: ChildState, serving: Callable[[], bool] = lambda: True
) -> None:
    """Talk to an endpoint that reports these states."""

    async def run() -> None:
        port = free_port()
        check = HealthCheck("127.0.0.1", port, serving=serving, details=lambda: {"connected": ["hospital-1"]})
        async with serve_health(check, [lambda s=state: s for state in states]):  # type: ignore[misc]
            await talk(port)

    asyncio.run(run())


async def send(port: int, request: bytes) -> tuple[int, bytes]:
    """Status and body of one request; status 0 if it was hung up on."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        answer = await asyncio.wait_for(reader.read(), 20)
    except ConnectionError:
        return 0, b""
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return (int(head.split(b" ")[1]), body) if head else (0, b"")


def get(path: str) -> bytes:
    """A request as curl sends it."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl/8\r\nAccept: */*\r\n\r\n".encode()


def test_it_is_healthy_once_all_children_are_ready_and_the_whole_serves() -> None:
    """A coordinator whose processes are up is of no use before hospitals may connect."""

    async def healthy(port: int) -> None:
        status, body = await send(port, get("/health"))
        assert status == 200
        superlink = {"state": "ready", "restarts": 2, "up_s": 61, "cause": "was ended by SIGKILL"}
        assert json.loads(body) == {"ready": True, "children": {"superlink": superlink}, "connected": ["hospital-1"]}

    async def unhealthy(port: int) -> None:
        status, body = await send(port, get("/health"))
        assert (status, json.loads(body)["ready"]) == (503, False)
        assert await send(port, get("/live")) == (200, b'{"live": true}\n')

    ask(healthy, UP)
    ask(unhealthy, UP, STARTING)
    ask(unhealthy, UP, serving=lambda: False)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST /health HTTP/1.1\r\n\r\n", 405),
        (get("/"), 404),
        (get("/health/../../etc/passwd"), 404),
        (b"GET /health\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nX: " + b"x" * (MOST_REQUEST_BYTES * 2) + b"\r\n\r\n", 431),
    ],
    ids=["post", "root", "path", "no version", "TLS", "too long"],
)
def test_another_request_gets_a_refusal_and_no_word_of_itself(request_bytes: bytes, status: int) -> None:
    """And the next one is answered."""

    async def talk(port: int) -> None:
        seen, body = await send(port, request_bytes)
        # One that is still sending when it is refused may find the line cut.
        assert seen in ({status, 0} if status == 431 else {status})
        assert set(json.loads(body or b'{"error": ""}')) == {"error"}
        assert (await send(port, get("/health")))[0] == 200

    ask(talk, UP)


def test_slow_and_many_connections_are_cut_and_cost_the_others_nothing_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More connections than are allowed are refused at once; those that say nothing are cut after the time limit."""
    monkeypatch.setattr("common.health.REQUEST_TIMEOUT_S", 0.5)

    async def talk(port: int) -> None:
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MOST_CONNECTIONS)]
        idle[0][1].write(b"GET /hea")
        await asyncio.sleep(0.1)
        assert (await send(port, get("/live")))[0] == 0
        for reader, writer in idle:
            # Cut, with or without a reset.
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), 20) == b""
            writer.close()
        assert (await send(port, get("/live")))[0] == 200

    ask(talk, UP)


def test_a_taken_port_is_one_sentence() -> None:
    """Before anything starts."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        check = HealthCheck("127.0.0.1", taken.getsockname()[1], serving=lambda: True, details=dict)

        async def run() -> None:
            async with serve_health(check, []):
                raise AssertionError

        with pytest.raises(AddressInUse, match=r"health: port .* name another health_port"):
            asyncio.run(run())


def test_the_containers_health_check_asks_it(tmp_path: Path) -> None:
    """`docker/health.py` ends with 0 where /health says 200, and with 1 and one line elsewhere."""

    async def probe(port: int) -> tuple[int | None, str]:
        argv = (sys.executable, "-IS", str(REPOSITORY / "docker" / "health.py"), f"get:127.0.0.1:{port}/health")
        process = await asyncio.create_subprocess_exec(*argv, stderr=subprocess.PIPE, cwd=tmp_path, env=os.environ)
        _, said = await process.communicate()
        return process.returncode, said.decode()

    async def healthy(port: int) -> None:
        assert await probe(port) == (0, "")

    async def unhealthy(port: int) -> None:
        status, said = await probe(port)
        assert (status, said.count("\n")) == (1, 1)
        assert "503" in said

    async def nobody(_: int) -> None:
        assert (await probe(free_port()))[0] == 1

    ask(healthy, UP)
    ask(unhealthy, STARTING)
    ask(nobody, UP)
