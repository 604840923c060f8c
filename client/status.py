"""What the site shows its own operator: one small file, replaced at every change. It never leaves the site."""

from __future__ import annotations

import json
import os
import resource
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path


@dataclass(frozen=True, slots=True)
class SiteStatus:
    """One line of the live display.

    `epsilon_spent` and `epsilon_budget` are of the unit named in `unit`; `done` and `total` count images of the
    feature pass. `sigma` and `stat_sigma` are the noise multipliers of training and of the round of statistics (0: the
    plan has none), of a noise in `shares` equal shares.
    """

    hospital: str
    phase: str = "starting"
    run: str = ""
    round: int = 0
    rounds: int = 0
    epsilon_spent: float = 0.0
    epsilon_budget: float = 0.0
    delta: float = 0.0
    mode: str = ""
    shares: int = 0
    sigma: float = 0.0
    stat_sigma: float = 0.0
    unit: str = ""
    units: int = 0
    held_out: int = 0
    done: int = 0
    total: int = 0
    message: str = ""
    peak_rss_bytes: int = 0
    updated: float = 0.0


class StatusFile:
    """Holds the current status and mirrors it to a file.

    A display is not worth a failed round: a full disk stops updates of this file and nothing else.
    """

    def __init__(self, path: Path, hospital: str) -> None:
        self._path = path
        self.current = SiteStatus(hospital)

    def update(self, **changes: str | float) -> None:
        """Change some fields and write the file."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self.current = replace(self.current, **changes, peak_rss_bytes=peak, updated=time.time())  # type: ignore[arg-type]
        temporary = self._path.with_suffix(f".{os.getpid()}")
        try:
            temporary.write_text(json.dumps(asdict(self.current)))
            temporary.replace(self._path)
        except OSError:
            temporary.unlink(missing_ok=True)


def read_status(path: Path) -> SiteStatus | None:
    """The last status written, or None while there is none."""
    try:
        return SiteStatus(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None
