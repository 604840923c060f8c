"""The bad network of the chaos bench: what it says that it does to bytes, it does."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from scripts.federation import free_ports
from scripts.tcp_proxy import OPEN, BadLink, Condition

PATIENCE_S = 5.0
SILENCE_S = 0.2
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@contextlib.asynccontextmanager
async def echo_behind_link() -> AsyncIterator[tuple[BadLink, int]]:
    """A server that sends back what it gets, a link to it, and the link's port."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
        writer.close()

    server_port, port = free_ports(2)
    server = await asyncio.start_server(echo, "127.0.0.1", server_port)
    link = BadLink(port, ("127.0.0.1", server_port))
    await link.open()
    try:
        yield link, port
    finally:
        await link.close()
        server.close()


async def echoed(streams: Streams, data: bytes) -> bytes:
    """What comes back."""
    streams[1].write(data)
    return await asyncio.wait_for(streams[0].readexactly(len(data)), PATIENCE_S)


def test_bytes_pass_unchanged_and_an_end_is_passed_on() -> None:
    """More than all buffers hold, in both directions at once."""

    async def check() -> None:
        async with echo_behind_link() as (_, port):
            streams = await asyncio.open_connection("127.0.0.1", port)
            data = bytes(range(256)) * 20_000
            assert await echoed(streams, data) == data
            streams[1].write_eof()
            assert await asyncio.wait_for(streams[0].read(), PATIENCE_S) == b""
            streams[1].close()

    asyncio.run(check())


def test_a_held_line_passes_nothing_and_loses_nothing() -> None:
    """Neither on an old connection nor on a new one, and nobody is told."""

    async def check() -> None:
        async with echo_behind_link() as (link, port):
            old = await asyncio.open_connection("127.0.0.1", port)
            assert await echoed(old, b"before") == b"before"
            link.become(Condition(state="hold"))
            new = await asyncio.open_connection("127.0.0.1", port)
            answers = []
            for streams in (old, new):
                streams[1].write(b"within")
                answers.append(asyncio.create_task(streams[0].readexactly(6)))
            done, _ = await asyncio.wait(answers, timeout=SILENCE_S)
            assert not done
            link.become(OPEN)
            assert await asyncio.wait_for(asyncio.gather(*answers), PATIENCE_S) == [b"within", b"within"]
            for streams in (old, new):
                streams[1].close()

    asyncio.run(check())


def test_a_cut_line_ends_connections_old_and_new() -> None:
    """And takes new ones when it is mended."""

    async def check() -> None:
        async with echo_behind_link() as (link, port):
            streams = await asyncio.open_connection("127.0.0.1", port)
            assert await echoed(streams, b"before") == b"before"
            link.become(Condition(state="cut"))
            for attempt in (streams, await asyncio.open_connection("127.0.0.1", port)):
                with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                    await echoed(attempt, b"within")
                attempt[1].close()
            link.become(OPEN)
            mended = await asyncio.open_connection("127.0.0.1", port)
            assert await echoed(mended, b"after") == b"after"
            mended[1].close()

    asyncio.run(check())


def test_a_slow_line_takes_at_least_the_time_that_it_should() -> None:
    """30 kB at 100 kB/s there and back, 0.05 s each way: no less than 0.4 s."""

    async def check() -> float:
        async with echo_behind_link() as (link, port):
            link.become(Condition(bytes_per_s=100_000.0, delay_s=0.05))
            streams = await asyncio.open_connection("127.0.0.1", port)
            started = time.monotonic()
            await echoed(streams, bytes(30_000))
            streams[1].close()
            return time.monotonic() - started

    assert asyncio.run(check()) >= 0.4
