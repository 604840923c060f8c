"""The live view of a demo: one row per hospital on a terminal, one line per change elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from client.status import SiteStatus, read_status
from common.messages import UPLOAD_KINDS
from common.plan import Plan
from server.progress import Phase, Progress, read_progress

REFRESH_PER_S = 4


class Display:
    """Reads the sites' status files and the coordinator's progress file, and shows them."""

    def __init__(self, folder: Path, plan: Plan, *, console: Console, synthetic: bool) -> None:
        self._folder, self._plan, self._console = folder, plan, console
        self._title = f"{plan.name}: {len(plan.roster)} hospitals, {plan.last_training_round} rounds"
        self._note = "drawn data: results say nothing about medicine" if synthetic else ""
        self._started = time.monotonic()
        self._last_lines: dict[str, str] = {}
        self._live: Live | None = None
        self.run = ""

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Keep the table on the terminal meanwhile; elsewhere `refresh` prints lines."""
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, refresh_per_second=REFRESH_PER_S, transient=True) as live:
            self._live = live
            try:
                yield
            finally:
                self._live = None

    def refresh(self) -> None:
        """Read the files again and show what changed."""
        statuses = [self._status(hospital.name) for hospital in self._plan.roster]
        progress = read_progress(self._folder / "coordinator" / "work" / "runs" / self.run) if self.run else None
        if self._live is not None:
            self._live.update(Group(Text(self._headline(progress)), self._table(statuses, progress), Text(self._note)))
            return
        for status in statuses:
            line = _site_line(status)
            if line:
                self._line(status.hospital, line)
        if progress is not None:
            self._line("coordinator", where(progress), detail=_moved(progress))

    def say(self, sentence: str) -> None:
        """Print one line that stays."""
        self._console.print(
            f"[{time.monotonic() - self._started:6.1f} s] {sentence}", markup=False, highlight=False, soft_wrap=True
        )

    def messages(self) -> tuple[str, ...]:
        """What the sites say about rounds that they sit out."""
        return tuple(message for h in self._plan.roster if (message := self._status(h.name).message))

    def _status(self, name: str) -> SiteStatus:
        return read_status(self._folder / name / "state" / "status.json") or SiteStatus(name, phase="not started")

    def _headline(self, progress: Progress | None) -> str:
        elapsed = f"{time.monotonic() - self._started:.0f} s"
        if progress is None:
            return f"{self._title} · starting · {elapsed}"
        return f"{self._title} · {where(progress)}{_moved(progress)} · {elapsed}"

    def _table(self, statuses: list[SiteStatus], progress: Progress | None) -> Table:
        table = Table("hospital", "phase", "round", "epsilon spent of budget", "up", "down", "note")
        for status in statuses:
            moved = progress.hospitals.get(status.hospital) if progress else None
            table.add_row(
                status.hospital,
                _phase(status),
                f"{status.round}/{status.rounds}",
                f"{status.epsilon_spent:.3f} of {status.epsilon_budget:g}",
                size(moved.up_bytes) if moved else "",
                size(moved.down_bytes) if moved else "",
                Text(status.message, overflow="fold"),
            )
        return table

    def _line(self, who: str, line: str, *, detail: str = "") -> None:
        """Print a line that is new; `detail` changes all the time and does not make it so."""
        if self._last_lines.get(who) != line:
            self._last_lines[who] = line
            self.say(f"{who}: {line}{detail}")


def size(count: float) -> str:
    """Bytes in words."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _phase(status: SiteStatus) -> str:
    return f"{status.phase} {status.done}/{status.total}" if status.phase == "reading data" else status.phase


def _site_line(status: SiteStatus) -> str:
    """One line per change that matters; empty for phases that pass in a moment."""
    if status.phase in ("training", "evaluating", "encrypting"):
        return ""
    if status.phase == "reading data":
        quarter = 4 * status.done // status.total * 25 if status.total else 0
        return f"reading data, {quarter} %"
    if not status.rounds:
        return status.phase
    note = f" ({status.message})" if status.message else ""
    spent = f"epsilon {status.epsilon_spent:.3f} of {status.epsilon_budget:g}"
    return f"{status.phase}, round {status.round} of {status.rounds}, {spent}{note}"


def _moved(progress: Progress) -> str:
    up = sum(h.up_bytes for h in progress.hospitals.values())
    down = sum(h.down_bytes for h in progress.hospitals.values())
    return f" · {size(up)} up, {size(down)} down so far" if up else ""


def where(progress: Progress) -> str:
    """What the coordinator does; a round is one thing, whichever of its exchanges is open."""
    is_closing = progress.round > progress.rounds
    a_round = "closing evaluation of the final model" if is_closing else f"round {progress.round} of {progress.rounds}"
    ceremony = "agreeing on the CKKS key"
    words: dict[Phase, str] = {
        "waiting": f"waiting for hospitals, {len(progress.connected)} connected",
        **dict.fromkeys(("deal", "open", "confirm"), ceremony),
        "hello": "asking the hospitals whether they are ready",
        **dict.fromkeys(("checkpoint", "restore"), "bringing the model to hospitals that lack it"),
        **dict.fromkeys(("keys", *UPLOAD_KINDS, "unmask", "verify"), a_round),
        "finish": "delivering the last aggregate",
        "done": progress.state,
    }
    attempt = f", attempt {progress.attempt + 1}" if progress.attempt else ""
    return words[progress.phase] + attempt
