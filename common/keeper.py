"""Keeps one child: starts it, sees when it is ready, says why it died, starts it again, stops it.

Each child is behind a guard (`common.launch`) that ends all that it has started, and in a session of its own, so that a
Ctrl-C in the terminal reaches the supervisor alone, which then stops everything in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import time
from dataclasses import replace

from common.child import Child, ChildEvent, ChildState, Kind, OnEvent
from common.child_log import ChildLog, RotatedFile
from common.errors import DeploymentError
from common.launch import END_NOW, KILL_TIMEOUT_S
from common.log_json import JsonLines
from common.spawn import spawn

BACKOFF_S = (2.0, 5.0, 10.0, 20.0)
STEADY_AFTER_S = 120.0
POLL_S = 0.05
# A pipe that somebody still holds after the guard's end was handed to a process that is none of ours.
LAST_WORDS_S = 5.0
# Flower ends every error with these lines; the one before them says what happened.
_NO_CAUSE = re.compile(r"^For more information, visit|^INFO:|FastAPI lifespan")


class Keeper:
    """Starts one child, again and again if so wished.

    Args:
        child: What to start.
        on_event: Called at each change.
        restart: Whether it is started again when it died.
        lines: Takes its output as JSON lines, which its log then holds too; None: its log holds them as they are.
    """

    def __init__(self, child: Child, on_event: OnEvent, *, restart: bool, lines: JsonLines | None = None) -> None:
        self._child, self._on_event, self._restart, self._lines = child, on_event, restart, lines
        self._process: asyncio.subprocess.Process | None = None
        self._log: ChildLog | None = None
        self._state: ChildState = ChildState(child.name, "waiting", restarts=-1, up_s=0.0, cause="")
        self._started = 0.0
        self.ready = asyncio.Event()

    def state(self) -> ChildState:
        """What the child does now."""
        up_s = 0.0 if self._process is None else time.monotonic() - self._started
        return replace(self._state, restarts=max(self._state.restarts, 0), up_s=up_s)

    async def keep(self) -> None:
        """Start the child, wait for its end, start it again if so wished; ends only by an error or cancellation.

        Raises:
            DeploymentError: If the child was not ready in time, was refused for good, or died and may not be restarted.
        """
        child, failures, slow_tries, cause = self._child, 0, 0, ""
        give_up_s = child.first_ready_within_s if self._restart else child.ready_timeout_s
        first_deadline = time.monotonic() + give_up_s
        while True:
            started = time.monotonic()
            process, log = await self._start()
            limit_s = child.ready_timeout_s * 2**slow_tries
            if not self.ready.is_set():
                limit_s = min(limit_s, first_deadline - started)
            if was_ready := await self._until_ready(process, log, started + limit_s):
                self._say_ready()
                await process.wait()
            status, steady = process.returncode, time.monotonic() - started > STEADY_AFTER_S
            await self._end_now(process)
            await self._hear_last_words(log)
            if status is None:
                slow_tries += 1
            elif log.ready:
                slow_tries = 0
                if not was_ready:  # It died between two looks.
                    self._say_ready()
            self._process = None
            seen = _seen(status, limit_s)
            cause = _cause(child, log, seen, before=cause if status is None else "")
            self._state = replace(self._state, cause=_outward(child, log, seen))
            if steady and status is not None:
                failures = 0
            pause_s = BACKOFF_S[min(failures, len(BACKOFF_S) - 1)]
            late = not self.ready.is_set() and time.monotonic() + pause_s > first_deadline
            if not self._restart or late or _is_final(child, log):
                # The error says why; saying it twice would bury it.
                self._tell("died")
                raise DeploymentError(_verdict(child, log, cause))
            self._tell("died", cause)
            failures += 1
            await asyncio.sleep(pause_s)

    async def stop(self, now: asyncio.Event) -> None:
        """End the child and all that it started: SIGTERM, then SIGKILL after the grace time, or once `now` is set."""
        process, log = self._process, self._log
        if process is None:
            return
        self._tell("stopping")
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        ended, hurry = asyncio.create_task(process.wait()), asyncio.create_task(now.wait())
        await asyncio.wait((ended, hurry), timeout=self._child.grace_s, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        await self._end_now(process)
        await ended
        if log is not None:
            await self._hear_last_words(log)
        self._process = None
        self._tell("stopped")

    async def _start(self) -> tuple[asyncio.subprocess.Process, ChildLog]:
        child = self._child
        self._tell("starting")
        encode = None if self._lines is None else self._lines.encoder(child.name)
        self._log = log = ChildLog(RotatedFile(child.log_path, child.rotation, encode), child.ready_pattern)
        reading, writing = os.pipe()
        log.follow(reading, child.name)
        try:
            self._started = time.monotonic()
            self._process = await spawn(
                child.name, child.argv, output=writing, env=child.env, cwd=child.cwd, inherited=child.inherited
            )
        finally:
            os.close(writing)
        return self._process, log

    @staticmethod
    async def _until_ready(process: asyncio.subprocess.Process, log: ChildLog, deadline: float) -> bool:
        """True once the log says so; False if the child died first or time ran out."""
        # The log is read in a thread, which wakes nobody here.
        while process.returncode is None and time.monotonic() < deadline:
            if log.ready:
                return True
            await asyncio.sleep(POLL_S)
        return False

    @staticmethod
    async def _end_now(process: asyncio.subprocess.Process) -> None:
        """Have the guard kill everything; and the guard too, should it not answer."""
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(END_NOW)
        try:
            await asyncio.wait_for(process.wait(), KILL_TIMEOUT_S + POLL_S)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    @staticmethod
    async def _hear_last_words(log: ChildLog) -> None:
        """Wait until all that the child wrote is in its log: the guard has ended whoever could write more."""
        deadline = time.monotonic() + LAST_WORDS_S
        while not log.complete and time.monotonic() < deadline:  # noqa: ASYNC110 -- a thread wakes nobody here
            await asyncio.sleep(POLL_S / 10)

    def _say_ready(self) -> None:
        self._tell("ready")
        self.ready.set()

    def _tell(self, kind: Kind, detail: str = "") -> None:
        last = self._state
        restarts = last.restarts + (kind == "starting")
        self._state = replace(last, state=kind, restarts=restarts)
        self._on_event(ChildEvent(self._child.name, kind, detail))


def _seen(status: int | None, limit_s: float) -> str:
    if status is None:
        return f"was not ready within {limit_s:.3g} s"
    return f"ended with status {status}" if status >= 0 else f"was ended by {signal.Signals(-status).name}"


def _cause(child: Child, log: ChildLog, seen: str, *, before: str) -> str:
    """What was seen and why; of one that hangs, why the try before it died."""
    if before and "was not ready" not in before:
        return f"{seen}; the last try {before}"
    known = _explanation(child, log)
    return f"{seen}: {known}" if known else f"{seen}; last log line: {_last_line(log)!r}"


def _outward(child: Child, log: ChildLog, seen: str) -> str:
    """What was seen, and our own sentence for it; nothing out of the log, which is the operator's alone."""
    known = (r.sentence for r in child.refusals if r.sentence and r.explain(log.text()))
    return f"{seen}: {sentence}" if (sentence := next(known, "")) else seen


def _verdict(child: Child, log: ChildLog, cause: str) -> str:
    """Why the child is given up: its own sentence where it left one, else what was seen of it."""
    if any(not refusal.sentence and refusal.explain(log.text()) for refusal in child.refusals):
        return f"{child.name}: {_explanation(child, log)}"
    return f"{child.name} {cause}; its log is {child.log_path}"


def _explanation(child: Child, log: ChildLog) -> str:
    return next((text for text in (refusal.explain(log.text()) for refusal in child.refusals) if text), "")


def _is_final(child: Child, log: ChildLog) -> bool:
    return any(refusal.final and re.search(refusal.pattern, log.text()) for refusal in child.refusals)


def _last_line(log: ChildLog) -> str:
    lines = [line.strip() for line in log.text().splitlines()]
    return next((line for line in reversed(lines) if line and not _NO_CAUSE.search(line)), "")
