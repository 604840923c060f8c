"""One child process: how it starts, when it counts as ready, why it died, how it stops.

Each child is the leader of its own session, so that a Ctrl-C in the terminal reaches the supervisor alone, which then
stops everything in order. A child whose supervisor was killed is killed by the kernel (`common.launch`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from common.errors import DeploymentError

BACKOFF_S = (2.0, 5.0, 10.0, 20.0)
STEADY_AFTER_S = 120.0
LOG_POLL_S = 0.05
TAIL_BYTES = 1 << 16
_LAUNCHER = Path(__file__).with_name("launch.py")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# Flower ends every error with these lines; the one before them says what happened.
_NO_CAUSE = re.compile(r"^For more information, visit|^INFO:|FastAPI lifespan")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A log line that explains a child's death to a person.

    Args:
        pattern: Regular expression that is searched in the log.
        sentence: What was seen, what is allowed, what to do; empty: the log says it behind the last match.
        final: True if trying again cannot help.
    """

    pattern: str
    sentence: str
    final: bool

    def explain(self, log: str) -> str:
        """The sentence for a person, or nothing if the log holds no match."""
        matches = list(re.finditer(self.pattern, log))
        if self.sentence or not matches:
            return self.sentence if matches else ""
        return "; ".join(line.strip() for line in log[matches[-1].end() :].splitlines() if line.strip())


# A command of ours that gave up by itself says why on its last lines; starting it again cannot help.
GAVE_UP = Refusal(pattern=r"(?m)^error: ", sentence="", final=True)


@dataclass(frozen=True, slots=True)
class Child:
    """One process to keep.

    Args:
        name: Shown in events and errors.
        argv: Program and arguments; nothing secret, every user of the machine can read them.
        env: The whole environment.
        cwd: Working folder.
        log_path: Where standard output and error are appended.
        ready_pattern: Regular expression that a log line matches once the child serves; None: ready when started.
        ready_timeout_s: Longest time until then, over all tries.
        ports: (host, port) pairs that the child will listen on; checked before anything starts.
        refusals: Log lines with a plain explanation.
        grace_s: Time between SIGTERM and SIGKILL.
        inherited: File descriptors that it gets, for secrets that must be neither in `argv` nor in `env`.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    log_path: Path
    ready_pattern: str | None
    ready_timeout_s: float
    ports: tuple[tuple[str, int], ...] = ()
    refusals: tuple[Refusal, ...] = ()
    grace_s: float = 10.0
    inherited: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ChildEvent:
    """What happened to one child."""

    name: str
    kind: Literal["starting", "ready", "died", "stopping", "stopped"]
    detail: str = ""


OnEvent = Callable[[ChildEvent], None]


class Keeper:
    """Starts one child, again and again if so wished."""

    def __init__(self, child: Child, on_event: OnEvent, *, restart: bool) -> None:
        self._child, self._on_event, self._restart = child, on_event, restart
        self._process: asyncio.subprocess.Process | None = None
        self._log_start = 0
        self.ready = asyncio.Event()

    async def keep(self) -> None:
        """Start the child, wait for its end, start it again if so wished; ends only by an error or cancellation.

        Raises:
            DeploymentError: If the child was not ready in time, was refused for good, or died and may not be restarted.
        """
        child, failures, cause = self._child, 0, ""
        first_deadline = time.monotonic() + child.ready_timeout_s
        while True:
            started = time.monotonic()
            process = await self._spawn()
            if await self._until_ready(
                process, started + child.ready_timeout_s if self.ready.is_set() else first_deadline
            ):
                self._tell("ready")
                self.ready.set()
                await process.wait()
            cause = self._cause(process.returncode, before=cause)
            self._kill_group(signal.SIGKILL)
            await process.wait()
            self._process = None
            if time.monotonic() - started > STEADY_AFTER_S:
                failures = 0
            pause_s = BACKOFF_S[min(failures, len(BACKOFF_S) - 1)]
            late = not self.ready.is_set() and time.monotonic() + pause_s > first_deadline
            if not self._restart or late or self._final():
                # The error says why; saying it twice would bury it.
                self._tell("died")
                raise DeploymentError(self._verdict(cause))
            self._tell("died", cause)
            failures += 1
            await asyncio.sleep(pause_s)

    async def stop(self) -> None:
        """End the child and all that it started: SIGTERM, then SIGKILL after the grace time."""
        process = self._process
        if process is None:
            return
        self._tell("stopping")
        self._kill_group(signal.SIGTERM)
        deadline = time.monotonic() + self._child.grace_s
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), self._child.grace_s)
        # Grandchildren tell nobody when they end, so they are looked at.
        while _group_lives(process.pid) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(LOG_POLL_S)
        self._kill_group(signal.SIGKILL)
        await process.wait()
        self._process = None
        self._tell("stopped")

    async def _spawn(self) -> asyncio.subprocess.Process:
        child = self._child
        child.log_path.parent.mkdir(parents=True, exist_ok=True)
        self._tell("starting")
        # Blank arguments in front of the launcher's own: isolated, no site-packages, so that it starts in milliseconds.
        argv = (sys.executable, "-IS", str(_LAUNCHER), str(os.getpid()), *child.argv)
        descriptor = os.open(child.log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "ab") as log:
            self._log_start = log.tell()
            self._process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(child.env),
                cwd=child.cwd,
                start_new_session=True,
                pass_fds=child.inherited,
            )
        return self._process

    async def _until_ready(self, process: asyncio.subprocess.Process, deadline: float) -> bool:
        """True once the log says so; False if the child died first or time ran out."""
        pattern = self._child.ready_pattern
        while process.returncode is None and time.monotonic() < deadline:
            if pattern is None or re.search(pattern, self._log()):
                return True
            await asyncio.sleep(LOG_POLL_S)
        return False

    def _log(self) -> str:
        with self._child.log_path.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, end - TAIL_BYTES))
            return _COLOUR.sub("", log.read().decode(errors="replace"))

    def _last_line(self) -> str:
        lines = [line.strip() for line in self._log().splitlines()]
        return next((line for line in reversed(lines) if line and not _NO_CAUSE.search(line)), "")

    def _cause(self, status: int | None, *, before: str) -> str:
        if status is None:
            seen = f"was not ready within {self._child.ready_timeout_s:g} s"
            if before:
                return f"{seen}; the last try {before}"
        else:
            seen = f"ended with status {status}" if status >= 0 else f"was ended by {signal.Signals(-status).name}"
        known = self._explanation()
        return f"{seen}: {known}" if known else f"{seen}; last log line: {self._last_line()!r}"

    def _verdict(self, cause: str) -> str:
        """Why the child is given up: its own sentence where it left one, else what was seen of it."""
        child = self._child
        if any(not refusal.sentence and refusal.explain(self._log()) for refusal in child.refusals):
            return f"{child.name}: {self._explanation()}"
        return f"{child.name} {cause}; its log is {child.log_path}"

    def _explanation(self) -> str:
        log = self._log()
        return next((text for text in (refusal.explain(log) for refusal in self._child.refusals) if text), "")

    def _final(self) -> bool:
        return any(refusal.final and re.search(refusal.pattern, self._log()) for refusal in self._child.refusals)

    def _kill_group(self, number: signal.Signals) -> None:
        if self._process is not None:
            # Gone already: that is what was wanted.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _tell(self, kind: Literal["starting", "ready", "died", "stopping", "stopped"], detail: str = "") -> None:
        self._on_event(ChildEvent(self._child.name, kind, detail))


def _group_lives(leader: int) -> bool:
    """Whether a process of the group still runs; a zombie does not."""
    for process in psutil.process_iter(["status"]):
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getpgid(process.pid) == leader and process.info["status"] != psutil.STATUS_ZOMBIE:
                return True
    return False
