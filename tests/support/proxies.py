"""Networks between a hospital and the coordinator: a bad line, and an HTTP proxy. Each is a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import IO, Self

from scripts.tcp_proxy import OPEN, READY_LINE, Condition, write_condition
from tests.support.flower_federation import environment, free_port

CONNECT_PROXY = Path(__file__).with_name("connect_proxy.py")


class _Process:
    """A process that prints one line when it is ready; use it as a context."""

    def __init__(self, *words: str) -> None:
        argv = (sys.executable, *words)
        self._process = subprocess.Popen(argv, env=environment(), stdout=subprocess.PIPE, text=True)  # noqa: S603
        stdout = self._process.stdout
        assert stdout is not None
        self.output: IO[str] = stdout
        assert self.output.readline().strip() == READY_LINE

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self.output.close()


class Link(_Process):
    """A line to a loopback port, whose state can be changed.

    Args:
        folder: Where its control file lies.
        target_port: Where connections go.
    """

    def __init__(self, folder: Path, target_port: int) -> None:
        self.port = free_port()
        self._control = folder / f"link-{self.port}.json"
        write_condition(self._control, OPEN)
        super().__init__("-m", "scripts.tcp_proxy", str(self.port), f"127.0.0.1:{target_port}", str(self._control))

    def become(self, condition: Condition) -> None:
        """Change the line's state; in force within a tenth of a second."""
        write_condition(self._control, condition)


class ConnectProxy(_Process):
    """An HTTP proxy that takes CONNECT only, and knows one host: every name leads to a loopback port.

    Args:
        log: Where it writes a line per request: what was asked for.
        target_port: Where tunnels go.
    """

    def __init__(self, log: Path, target_port: int) -> None:
        self.port = free_port()
        self._log = log
        log.touch()
        super().__init__(str(CONNECT_PROXY), str(self.port), str(target_port), str(log))

    @property
    def asked(self) -> list[str]:
        """The request lines so far."""
        return self._log.read_text().splitlines()
