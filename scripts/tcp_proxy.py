"""A bad network between two ports: bandwidth, delay and cuts that change while connections are open.

It needs neither rights nor a kernel module, as `tc netem` would. `python -m scripts.tcp_proxy PORT HOST:PORT CONTROL`
runs one in a process of its own; the JSON file CONTROL holds the fields of `Condition` and may be replaced at any time.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

READ_BYTES = 1 << 14
# Chunks between the two ends of a connection; more would wait in the sender's kernel, as on a real line.
MOST_UNDER_WAY = 64
CONTROL_POLL_S = 0.05
LOOPBACK = "127.0.0.1"
READY_LINE = "link open"


@dataclass(frozen=True, slots=True)
class Condition:
    """What the network does.

    Args:
        bytes_per_s: Of each direction, all connections together; 0: no limit.
        delay_s: One way, seconds.
        state: open; hold: connections stay and new ones are taken, but nothing passes until the line is open again (all
            packets are lost, and nobody says so); cut: connections end, and new ones end at once.
    """

    bytes_per_s: float = 0.0
    delay_s: float = 0.0
    state: Literal["open", "hold", "cut"] = "open"


OPEN = Condition()


class BadLink:
    """Passes connections on from a loopback port to another address.

    Args:
        port: Where to listen.
        target: Host and port.
    """

    def __init__(self, port: int, target: tuple[str, int]) -> None:
        self._port, self._target = port, target
        self._condition = OPEN
        self._flows = asyncio.Event()
        self._flows.set()
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        # When the last byte so far leaves, per direction.
        self._busy_until = {"up": 0.0, "down": 0.0}

    async def open(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._take, LOOPBACK, self._port)

    async def close(self) -> None:
        """End all connections and stop listening."""
        if self._server is not None:
            self._server.close()
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def become(self, condition: Condition) -> None:
        """Change what the network does from now on."""
        self._condition = condition
        if condition.state == "hold":
            self._flows.clear()
        else:
            self._flows.set()
        if condition.state == "cut":
            for task in self._connections:
                task.cancel()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or self._condition.state == "cut":
            writer.transport.abort()
            return
        self._connections.add(task)
        ends = [writer]
        try:
            await self._flows.wait()
            back_reader, back_writer = await asyncio.open_connection(*self._target)
            ends.append(back_writer)
            async with asyncio.TaskGroup() as group:
                for line, source, sink in (("up", reader, back_writer), ("down", back_reader, writer)):
                    under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(MOST_UNDER_WAY)
                    group.create_task(self._leave(source, under_way, line=line))
                    group.create_task(self._arrive(sink, under_way))
        except* OSError:
            # One end has gone: so does the other.
            pass
        except* asyncio.CancelledError:
            # Cut: nobody waits for this task.
            pass
        finally:
            for end in ends:
                end.transport.abort()
            self._connections.discard(task)

    async def _leave(
        self, source: asyncio.StreamReader, under_way: asyncio.Queue[tuple[float, bytes]], *, line: str
    ) -> None:
        data = b"-"
        while data:
            data = await source.read(READ_BYTES)
            await self._flows.wait()
            leaves = self._leaves_at(len(data), line)
            await _until(leaves)
            await under_way.put((leaves + self._condition.delay_s, data))

    async def _arrive(self, sink: asyncio.StreamWriter, under_way: asyncio.Queue[tuple[float, bytes]]) -> None:
        while True:
            arrives, data = await under_way.get()
            await _until(arrives)
            await self._flows.wait()
            if not data:
                sink.write_eof()
                return
            sink.write(data)
            await sink.drain()

    def _leaves_at(self, size: int, line: str) -> float:
        """When the last of `size` bytes is on its way, on the loop's clock: after those before it."""
        now = asyncio.get_running_loop().time()
        if self._condition.bytes_per_s <= 0:
            return now
        self._busy_until[line] = max(now, self._busy_until[line]) + size / self._condition.bytes_per_s
        return self._busy_until[line]


async def _until(moment: float) -> None:
    wait_s = moment - asyncio.get_running_loop().time()
    if wait_s > 0:
        await asyncio.sleep(wait_s)


def write_condition(control: Path, condition: Condition) -> None:
    """Replace a control file."""
    temporary = control.with_name(f".{control.name}.new")
    temporary.write_text(json.dumps(asdict(condition)))
    temporary.replace(control)


def read_condition(control: Path) -> Condition:
    """What a control file says."""
    return Condition(**json.loads(control.read_text()))


async def _serve(port: int, target: tuple[str, int], control: Path) -> None:
    link = BadLink(port, target)
    link.become(read_condition(control))
    await link.open()
    print(READY_LINE, flush=True)
    while True:
        await asyncio.sleep(CONTROL_POLL_S)
        link.become(read_condition(control))


def main() -> None:
    """Arguments: the port to listen on, where connections go (HOST:PORT), the control file."""
    port, target, control = sys.argv[1:]
    host, _, target_port = target.rpartition(":")
    asyncio.run(_serve(int(port), (host, int(target_port)), Path(control)))


if __name__ == "__main__":
    main()
