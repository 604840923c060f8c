"""A tiny HTTP proxy for tests: `python connect_proxy.py PORT TARGET_PORT LOG`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

LOOPBACK = "127.0.0.1"


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy bytes until the end of either side."""
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except OSError:
        return
    finally:
        writer.close()


async def serve(port: int, target_port: int, log: Path) -> None:
    """Take CONNECT requests; refuse everything else."""

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        request = head.split(b"\r\n", 1)[0].decode()
        with log.open("a") as file:
            file.write(f"{request}\n")
        if not request.startswith("CONNECT "):
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            writer.close()
            return
        back_reader, back_writer = await asyncio.open_connection(LOOPBACK, target_port)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(pass_on(reader, back_writer), pass_on(back_reader, writer))

    server = await asyncio.start_server(take, LOOPBACK, port)
    print("link open", flush=True)  # noqa: T201 -- what the test waits for
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])))
