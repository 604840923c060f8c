"""A real federation by hand, as the README says: our console scripts as processes, TLS, Flower, TenSEAL, Opacus."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import psutil

READY_TIMEOUT_S = 120.0


def script(name: str) -> str:
    """Path of one of our console scripts."""
    return str(Path(sys.executable).with_name(name))


def command(*words: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
    """Run a command of ours to its end."""
    return subprocess.run(  # noqa: S603 -- our own scripts
        [script(words[0]), *words[1:]], capture_output=True, text=True, timeout=timeout_s, check=False
    )


def succeed(*words: str) -> str:
    """Run a command of ours that must succeed; what it printed."""
    done = command(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait_until(condition: Callable[[], bool], *, timeout_s: float, what: str) -> None:
    """Poll until `condition` holds; fails with `what` when it never does."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.1)


@dataclass
class Deployment:
    """Processes of one federation; leaving the context stops them all."""

    folder: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Hospitals first, the coordinator last: a SuperLink that goes first refuses them when it is back."""
        for name in sorted(self.processes, key=lambda n: n == "coordinator"):
            self.stop(name)

    def log(self, name: str) -> Path:
        """What a process printed."""
        return self.folder / f"{name}.out"

    def start(self, name: str, *words: str) -> None:
        """Start a console script in the background."""
        with self.log(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(  # noqa: S603 -- our own scripts
                [script(words[0]), *words[1:]], stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )

    def start_coordinator(self) -> None:
        """`fedward-server start`, until it is ready."""
        self.start("coordinator", "fedward-server", "start", "--config", str(self.server_yaml))
        self.until_printed("coordinator", "coordinator ready")

    def start_hospital(self, name: str) -> None:
        """`fedward-client start`, without waiting."""
        self.start(name, "fedward-client", "start", "--config", str(self.folder / name / f"{name}.yaml"))

    def until_printed(self, name: str, text: str) -> None:
        """Wait until a process has printed `text`."""

        def printed() -> bool:
            content = self.log(name).read_text(errors="replace")
            if self.processes[name].poll() is not None and text not in content:
                raise AssertionError(f"{name} ended: {content}")
            return text in content

        wait_until(printed, timeout_s=READY_TIMEOUT_S, what=f"{name} prints {text!r}")

    @property
    def server_yaml(self) -> Path:
        """The coordinator's file."""
        return self.folder / "coordinator" / "server.yaml"

    def kill(self, name: str) -> None:
        """SIGKILL to one of our processes; its children go with it by the kernel's hand."""
        process = self.processes.pop(name)
        children = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        _, alive = psutil.wait_procs(children, timeout=10)
        assert not alive, f"orphans of {name}: {alive}"

    def stop(self, name: str) -> int:
        """SIGTERM, and the status; no child may outlive it."""
        process = self.processes.pop(name)
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.terminate()
        status = process.wait(timeout=60)
        _, alive = psutil.wait_procs(children, timeout=5)
        assert not alive, f"orphans of {name}: {alive}"
        return status
