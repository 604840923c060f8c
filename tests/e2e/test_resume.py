"""A run outlives its ServerApp, its SuperLink and its whole coordinator: each is killed in mid-round."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.flower_federation import Federation, environment, wait_until

NAMES = ("hospital-1", "hospital-2", "hospital-3")
ROUNDS = 4


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """Round 1: the ServerApp dies. Round 2: the SuperLink. Round 3: all of the coordinator at once, with the run."""
    federation = Federation(tmp_path_factory.mktemp("resume"), NAMES, rounds=ROUNDS, patience_s=300.0)
    federation.write()
    for number in (1, 2, 3):
        (federation.folder / "hospital-1" / f"hold-{number}").touch()
    try:
        federation.start_coordinator()
        for name in NAMES:
            federation.start_hospital(name)
        argv = [
            sys.executable,
            "-m",
            "server",
            "run",
            str(federation.plan_file),
            "--config",
            str(federation.server_file),
        ]
        with (federation.folder / "run.log").open("wb") as log:
            run = subprocess.Popen(argv, env=environment(), stdout=log, stderr=log)  # noqa: S603 -- our own command
        federation.processes["run"] = run
        at_work(federation, 1)
        os.kill(progress(federation)["pid"], signal.SIGKILL)
        go_on(federation, 1)
        at_work(federation, 2)
        os.kill(child(federation, "flower-superlink"), signal.SIGKILL)
        go_on(federation, 2)
        at_work(federation, 3)
        federation.stop("coordinator", signal.SIGKILL)
        (federation.folder / "coordinator.log").rename(federation.folder / "first-coordinator.log")
        go_on(federation, 3)
        federation.start_coordinator()
        assert run.wait(timeout=200) == 0, federation.log("run") + federation.log("coordinator")
        federation.processes.pop("run")
        yield federation
    finally:
        federation.close()


def at_work(federation: Federation, number: int) -> None:
    """Wait until hospital 1 works on a round."""
    wait_until((federation.folder / "hospital-1" / f"held-{number}").exists, f"round {number}", timeout_s=120)


def go_on(federation: Federation, number: int) -> None:
    """Let hospital 1 end its work."""
    (federation.folder / "hospital-1" / f"go-{number}").touch()


def run_folder(federation: Federation) -> Path:
    """Folder of the only run."""
    return next((federation.server_file.parent / "work" / "runs").iterdir())


def progress(federation: Federation) -> dict[str, int]:
    """What the ServerApp says."""
    content: dict[str, int] = json.loads((run_folder(federation) / "progress.json").read_text())
    return content


def child(federation: Federation, program: str) -> int:
    """Process id of one of the coordinator's children."""
    coordinator = psutil.Process(federation.processes["coordinator"].pid)
    return next(p.pid for p in coordinator.children(recursive=True) if any(program in word for word in p.cmdline()))


def test_a_run_goes_on_by_itself_after_each_death(finished: Federation) -> None:
    """The operator's command never noticed more than a pause."""
    argv = [sys.executable, "-m", "server", "status", "--config", str(finished.server_file)]
    said = subprocess.run(argv, env=environment(), capture_output=True, text=True, check=True).stdout  # noqa: S603
    assert f"finished, last complete round {ROUNDS}" in said
    assert "the ServerApp was killed; going on after round 0" in (finished.folder / "first-coordinator.log").read_text()


def test_no_round_is_done_twice_and_all_hospitals_end_alike(finished: Federation) -> None:
    """A round that was under way is asked for again, and its stored reply goes out."""
    states = [(finished.folder / name / "applied.json").read_text() for name in NAMES]
    assert len(set(states)) == 1
    assert json.loads(states[0])["round"] == ROUNDS
