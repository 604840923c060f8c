"""Live progress on the operator's terminal; plain lines where standard error is no terminal."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from server.progress import Progress


class ProgressDisplay:
    """Shows a run until it is left."""

    def __init__(self, hospitals: tuple[str, ...]) -> None:
        self._hospitals = hospitals
        self._console = Console(stderr=True)
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        self._last_line = ""

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, progress: Progress) -> None:
        """Show a new state."""
        if self._live is not None:
            self._live.update(self._table(progress), refresh=True)
            return
        line = progress_line(progress, self._hospitals)
        if line != self._last_line:
            self._last_line = line
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()

    def _table(self, progress: Progress) -> Table:
        table = Table(title=f"{progress.plan}: {_headline(progress)}")
        for column in ("hospital", "connected", "round", "outcome", "sent MB", "received MB", "seconds"):
            table.add_column(column)
        for name in self._hospitals:
            hospital = progress.hospitals.get(name)
            connected = "yes" if name in progress.connected else "no"
            if hospital is None:
                table.add_row(name, connected, "", "", "", "", "")
                continue
            outcome = f"{hospital.outcome} {hospital.code}".strip()
            sizes = (f"{hospital.up_bytes / 1e6:.2f}", f"{hospital.down_bytes / 1e6:.2f}", f"{hospital.seconds:.1f}")
            table.add_row(name, connected, str(hospital.round), outcome, *sizes)
        return table


def progress_line(progress: Progress, hospitals: tuple[str, ...]) -> str:
    """The state of a run in one line."""
    seen = progress.hospitals
    if progress.phase == "waiting":
        return f"waiting for hospitals: {len(progress.connected)} of {len(hospitals)} connected"
    answers = [f"{n} {seen[n].outcome}{f' ({seen[n].code})' if seen[n].code else ''}" for n in hospitals if n in seen]
    return f"{_headline(progress)}; {', '.join(answers)}" if answers else _headline(progress)


def _headline(progress: Progress) -> str:
    if progress.state == "stopped" and progress.again:
        return f"interrupted: {progress.reason}; the coordinator tries again by itself"
    if progress.phase == "done":
        return f"run {progress.state}{f': {progress.reason}' if progress.reason else ''}"
    again = f", attempt {progress.attempt + 1}" if progress.attempt else ""
    return f"{progress.phase} {progress.round} of {progress.rounds}{again}"
