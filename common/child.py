"""What a supervisor must know of one child process, and what it tells of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from common.child_log import Rotation

LEAST_GIVE_UP_S = 600.0


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
        log_path: Where standard output and error are appended; older parts lie beside it as `.1`, `.2` and so on.
        ready_pattern: Regular expression that a log line matches once the child serves; None: ready when started.
        ready_timeout_s: Longest time until then, one try; where restarts are wanted, twice as long with each try that
            took too long: the machine may be busy.
        ports: (host, port) pairs that the child will listen on; checked before anything starts.
        refusals: Log lines with a plain explanation.
        grace_s: Time between SIGTERM and SIGKILL.
        inherited: File descriptors that it gets, for secrets that must be neither in `argv` nor in `env`.
        give_up_s: Where restarts are wanted, longest time until it is ready for the first time, over all tries; None:
            ten minutes, or one try if that may take longer.
        rotation: How much of its log is kept.
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
    give_up_s: float | None = None
    rotation: Rotation = field(default_factory=Rotation)

    @property
    def first_ready_within_s(self) -> float:
        """How long it may take until it is ready for the first time, where restarts are wanted."""
        return max(LEAST_GIVE_UP_S, self.ready_timeout_s) if self.give_up_s is None else self.give_up_s


Kind = Literal["starting", "ready", "died", "stopping", "stopped"]


@dataclass(frozen=True, slots=True)
class ChildEvent:
    """What happened to one child."""

    name: str
    kind: Kind
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ChildState:
    """What one child does now.

    Args:
        name: Its name.
        state: The last event; "waiting" before the first.
        restarts: How often it was started again.
        up_s: Seconds since it was started; 0 while it does not run.
        cause: How it died the last time, without a word of its log; empty if it never did.
    """

    name: str
    state: Kind | Literal["waiting"]
    restarts: int
    up_s: float
    cause: str


OnEvent = Callable[[ChildEvent], None]
