"""A federation on bad lines: real sites, real Flower, and somebody who kills processes and cuts lines."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from common.errors import DeploymentError
from scripts.demo_run import command, start_tied
from scripts.federation import free_ports
from scripts.tcp_proxy import LOOPBACK, BadLink
from server.progress import read_progress
from server.store import Store

POLL_S = 0.1
START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 60.0
COORDINATOR = "coordinator"
LEDGER = "ledger.sqlite"


@dataclass
class ChaosFederation:
    """Processes and lines of a provisioned federation; every hospital reaches the coordinator by a line of its own."""

    folder: Path
    hospitals: tuple[str, ...]
    run: str
    links: dict[str, BadLink] = field(default_factory=dict)
    processes: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)

    @contextlib.asynccontextmanager
    async def up(self, fleet_port: int) -> AsyncIterator[Store]:
        """Everything is up, and the run has been handed over; afterwards everything is down."""
        try:
            for name, port in zip(self.hospitals, free_ports(len(self.hospitals)), strict=True):
                link = self.links[name] = BadLink(port, (LOOPBACK, fleet_port))
                await link.open()
                path = self.folder / name / f"{name}.yaml"
                path.write_text(path.read_text().replace(f"{LOOPBACK}:{fleet_port}", f"{LOOPBACK}:{port}"))
            await self.start(COORDINATOR)
            for name in self.hospitals:
                await self.start(name)
            for name in (COORDINATOR, *self.hospitals):
                await self.until_ready(name)
            words = (str(self.folder / "plan.yaml"), "--config", str(self._server_file), "--run-id", self.run)
            self.processes["run"] = await start_tied((command("fedward-server"), "run", *words), self.log("run"))
            with contextlib.closing(Store(self.folder / COORDINATOR / "work")) as store:
                yield store
        finally:
            await self._down()

    async def start(self, name: str) -> None:
        """Start the coordinator or a hospital; returns at once."""
        program = "fedward-server" if name == COORDINATOR else "fedward-client"
        file = self._server_file if name == COORDINATOR else self.folder / name / f"{name}.yaml"
        self.log(name).unlink(missing_ok=True)
        self.processes[name] = await start_tied((command(program), "start", "--config", str(file)), self.log(name))

    async def until_ready(self, name: str) -> None:
        """Wait for its ready line."""
        word = "coordinator ready" if name == COORDINATOR else "hospital ready"
        await until(lambda: word in self.log(name).read_text(errors="replace"), f"{name} is up", START_TIMEOUT_S)

    async def kill(self, name: str) -> None:
        """SIGKILL to a command of ours, and wait until all that it has started is gone."""
        guard = self.processes.pop(name)
        for child in psutil.Process(guard.pid).children():
            child.kill()
        await guard.wait()

    def kill_serverapp(self) -> bool:
        """SIGKILL to the process that carries the run; False if there is none."""
        progress = read_progress(self.folder / COORDINATOR / "work" / "runs" / self.run)
        if progress is None or progress.state != "running":
            return False
        try:
            os.kill(progress.pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def log(self, name: str) -> Path:
        """What a process has printed since its last start."""
        return self.folder / f"{name}.log"

    def orphans(self) -> list[int]:
        """Processes that still work with this federation's files."""
        return [process.pid for process in psutil.process_iter() if _works_in(process, str(self.folder))]

    def charges(self, name: str) -> list[tuple[int, str]]:
        """Round and hash of each training charge of this run in a stopped hospital's ledger, oldest first."""
        with tempfile.TemporaryDirectory() as folder:
            # A copy, with what SQLite must undo after a kill: the original stays as it was found.
            for path in (self.folder / name).glob(f"{LEDGER}*"):
                if path.is_file():
                    shutil.copy(path, folder)
            with contextlib.closing(sqlite3.connect(Path(folder) / LEDGER)) as connection:
                query = "SELECT round, hash FROM entries WHERE run = ? AND kind = 'train' ORDER BY sequence"
                return [(number, digest) for number, digest in connection.execute(query, (self.run,))]

    @property
    def _server_file(self) -> Path:
        return self.folder / COORDINATOR / "server.yaml"

    async def _down(self) -> None:
        for group in (("run",), self.hospitals, (COORDINATOR,)):
            going = [self.processes.pop(name) for name in group if name in self.processes]
            for process in going:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
            await asyncio.wait_for(asyncio.gather(*(process.wait() for process in going)), STOP_TIMEOUT_S)
        for link in self.links.values():
            await link.close()


async def until(condition: Callable[[], bool], what: str, timeout_s: float) -> None:
    """Poll until a condition holds.

    Raises:
        DeploymentError: If it never does.
    """
    started = asyncio.get_running_loop().time()
    while not condition():
        await asyncio.sleep(POLL_S)
        if asyncio.get_running_loop().time() - started > timeout_s:
            raise DeploymentError(f"{what}: not within {timeout_s:g} s; look at the logs")


def _works_in(process: psutil.Process, folder: str) -> bool:
    try:
        return process.pid != os.getpid() and (
            folder in " ".join(process.cmdline()) or process.cwd().startswith(folder)
        )
    except psutil.Error:
        return False
