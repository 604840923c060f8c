"""What the coordinator shows its operator: one small file per run, replaced at every change."""

from __future__ import annotations

import json
import os
import resource
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from common.messages import Kind
from server.store import Outcome, RunState

FILE_NAME = "progress.json"
Phase = Kind | Literal["waiting", "done"]


@dataclass(slots=True)
class HospitalProgress:
    """What one hospital does ("asked") or did last (see `Outcome`), and its bytes in the whole run."""

    outcome: str = ""
    code: str = ""
    round: int = 0
    seconds: float = 0.0
    up_bytes: int = 0
    down_bytes: int = 0


@dataclass(slots=True)
class Progress:
    """The state of a run.

    Times are Unix seconds; `rounds` counts training rounds; `peak_rss_bytes` is the ServerApp's own memory, `pid` its
    process; `again` says of a stopped one whether starting it once more may help.
    """

    run: str
    plan: str
    rounds: int
    state: RunState = "running"
    reason: str = ""
    again: bool = True
    pid: int = 0
    phase: Phase = "waiting"
    round: int = 0
    attempt: int = 0
    connected: tuple[str, ...] = ()
    started: float = 0.0
    updated: float = 0.0
    peak_rss_bytes: int = 0
    hospitals: dict[str, HospitalProgress] = field(default_factory=dict)


class ProgressFile:
    """Holds the progress of a run and mirrors it to `<folder>/progress.json`.

    A display is not worth a failed round: a full disk stops updates of this file and nothing else.
    """

    def __init__(self, folder: Path, progress: Progress) -> None:
        self._path = folder / FILE_NAME
        self._progress = progress
        progress.started, progress.pid = time.time(), os.getpid()
        self.write()

    def open(self, kind: Kind, round_number: int, *, attempt: int, connected: tuple[str, ...]) -> None:
        """A request goes out."""
        self._progress.phase, self._progress.round, self._progress.attempt = kind, round_number, attempt
        self._progress.connected = connected
        for name in connected:
            hospital = self._progress.hospitals.setdefault(name, HospitalProgress())
            hospital.outcome, hospital.code, hospital.round = "asked", "", round_number
        self.write()

    def waiting(self, connected: tuple[str, ...]) -> None:
        """The coordinator waits for hospitals to connect."""
        self._progress.phase, self._progress.connected = "waiting", connected
        self.write()

    def record(self, outcome: Outcome, round_number: int) -> None:
        """A hospital answered, or did not."""
        hospital = self._progress.hospitals.setdefault(outcome.hospital, HospitalProgress())
        hospital.outcome, hospital.code, hospital.round = outcome.outcome, outcome.code, round_number
        hospital.seconds = outcome.seconds
        hospital.up_bytes += outcome.up_bytes
        hospital.down_bytes += outcome.down_bytes
        self.write()

    def end(self, state: RunState, reason: str, *, again: bool = False) -> None:
        """The ServerApp's part is over."""
        self._progress.phase, self._progress.state, self._progress.reason = "done", state, reason
        self._progress.again = again
        self.write()

    def write(self) -> None:
        """Replace the file."""
        self._progress.updated = time.time()
        self._progress.peak_rss_bytes = _peak_resident_bytes()
        temporary = self._path.with_suffix(f".{os.getpid()}")
        try:
            temporary.write_text(json.dumps(asdict(self._progress)))
            temporary.replace(self._path)
        except OSError:
            temporary.unlink(missing_ok=True)


def read_progress(folder: Path) -> Progress | None:
    """The progress of the run in `folder`, or None while there is none."""
    try:
        content = json.loads((folder / FILE_NAME).read_text())
        hospitals = {name: HospitalProgress(**item) for name, item in content.pop("hospitals").items()}
        return Progress(**content | {"connected": tuple(content["connected"])}, hospitals=hospitals)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _peak_resident_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
