"""Site services as processes of their own that start in a moment: `python site_nursery.py`, told what to do on stdin.

A process that has imported what a site service needs forks for each of them; the child runs the command
`fedward-client service`. So a service can be killed and started some hundred times in minutes, not hours.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[2]


class Nursery:
    """Starts and kills site services; use it as a context, which kills those that are left."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[Path, int] = {}
        command = [sys.executable, str(Path(__file__))]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(  # noqa: S603 -- our own code
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()

    def start(self, config: Path, *, flaw: str = "") -> None:
        """Start a site's service, a sound one or one that forgets-charges or trains-again: the control."""
        self._running[config] = self._tell({"start": str(config), "flaw": flaw})

    def kill(self, config: Path) -> None:
        """End it with SIGKILL; it is gone when this returns."""
        self._tell({"kill": self._running.pop(config)})

    def _tell(self, order: dict[str, str | int]) -> int:
        with self._lock:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            return int(self._process.stdout.readline())


def _serve(config: Path, flaw: str) -> None:
    """Be the site service; does not return."""
    from client import cli  # noqa: PLC0415

    log = os.open(config.parent / "service.log", os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
    os.dup2(log, 2)
    os.dup2(log, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    _spoil(flaw)
    sys.argv = ["fedward-client", "service", "--config", str(config)]
    try:
        cli.main()
    finally:
        os._exit(1)


def _spoil(flaw: str) -> None:
    from client.ledger import Ledger  # noqa: PLC0415
    from client.ledger_entry import LedgerEntry  # noqa: PLC0415
    from client.storage import RunStorage  # noqa: PLC0415

    def forget(self: Ledger, entry: LedgerEntry) -> None:
        self._entries.append(entry)

    if flaw == "forgets-charges":
        Ledger._append = forget  # type: ignore[method-assign]
    if flaw == "trains-again":
        RunStorage.load_update = lambda *_: None  # type: ignore[method-assign]
        # That alone makes it sit the round out: an update was kept, so none may be made again.
        RunStorage.was_started = lambda *_: True  # type: ignore[method-assign]


def main() -> None:
    """See the module."""
    # What each child would import; no thread and no CKKS context exists before the fork.
    import client.cli  # noqa: PLC0415
    import client.past_runs  # noqa: PLC0415
    import client.service  # noqa: PLC0415
    import client.site  # noqa: F401, PLC0415

    running: set[int] = set()
    for line in sys.stdin:
        order = json.loads(line)
        if "start" in order:
            process = os.fork()
            if process == 0:
                _serve(Path(order["start"]), order["flaw"])
            running.add(process)
        else:
            process = order["kill"]
            running.remove(process)
            _end(process)
        sys.stdout.write(f"{process}\n")
        sys.stdout.flush()
    for process in running:
        _end(process)


def _end(process: int) -> None:
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


if __name__ == "__main__":
    main()
