"""The coordinator's disk: full in mid-round, then lost with its machine, but for a backup of the store."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.flower_federation import Federation, environment, wait_until
from tests.support.small_disk import SmallDisk

pytestmark = pytest.mark.slow

NAMES = ("hospital-1", "hospital-2", "hospital-3")
ROUNDS = 2
DISK_BYTES = 32 << 20


def coordinator_command(federation: Federation, *words: str) -> list[str]:
    """A `fedward-server` command line."""
    return [sys.executable, "-m", "server", *words, "--config", str(federation.server_file)]


def at_work(federation: Federation, number: int) -> None:
    """Wait until hospital 1 works on a round."""
    wait_until((federation.folder / NAMES[0] / f"held-{number}").exists, f"round {number}", timeout_s=120)


def go_on(federation: Federation, number: int) -> None:
    """Let hospital 1 end its work."""
    (federation.folder / NAMES[0] / f"go-{number}").touch()


def status(federation: Federation) -> str:
    """What `fedward-server status` prints."""
    argv = coordinator_command(federation, "status")
    return subprocess.run(argv, env=environment(), capture_output=True, text=True, check=False).stdout  # noqa: S603


def back_up(store: Path, copy: Path) -> None:
    """As docs/operations.md says, while the coordinator runs."""
    with contextlib.closing(sqlite3.connect(store)) as source, contextlib.closing(sqlite3.connect(copy)) as target:
        source.backup(target)


def move_to_new_machine(federation: Federation, disk: SmallDisk) -> None:
    """The configuration folder and the backup of the store are all that is left."""
    server = federation.server_file.parent
    back_up(disk.folder / "store.db", federation.folder / "backup.db")
    federation.stop("run", signal.SIGKILL)
    federation.stop("coordinator", signal.SIGKILL)
    for path in disk.folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    text = federation.server_file.read_text().replace("folder: work", "folder: new-work")
    federation.server_file.write_text(text)
    (server / "new-work").mkdir()
    shutil.copy(federation.folder / "backup.db", server / "new-work" / "store.db")
    (federation.folder / "coordinator.log").rename(federation.folder / "first-coordinator.log")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """Round 1: the disk fills, and is given room. Round 2: a backup, then the machine is gone."""
    federation = Federation(tmp_path_factory.mktemp("disk"), NAMES, rounds=ROUNDS, patience_s=300.0)
    federation.write()
    for number in (1, 2):
        (federation.folder / NAMES[0] / f"hold-{number}").touch()
    with SmallDisk(federation.server_file.parent / "work", size_bytes=DISK_BYTES) as disk:
        try:
            federation.start_coordinator()
            for name in NAMES:
                federation.start_hospital(name)
            federation.start("run", coordinator_command(federation, "run", str(federation.plan_file)))
            at_work(federation, 1)
            disk.fill(leave_bytes=0)
            go_on(federation, 1)
            wait_until(lambda: "free disk space" in federation.log("coordinator"), "a sentence on the full disk")
            disk.make_room()
            at_work(federation, 2)
            move_to_new_machine(federation, disk)
            go_on(federation, 2)
            federation.start_coordinator()
            wait_until(lambda: "finished" in status(federation), "the end of the run", timeout_s=180)
            yield federation
        finally:
            federation.close()


def test_a_full_disk_is_said_in_one_sentence_and_costs_no_round(finished: Federation) -> None:
    """The coordinator goes on by itself once there is room."""
    lines = (finished.folder / "first-coordinator.log").read_text().splitlines()
    said = [line for line in lines if line.startswith("run ")]
    assert said
    assert "the disk is full; free disk space" in said[0]


def test_a_run_goes_on_from_a_backup_of_the_store_on_another_machine(finished: Federation) -> None:
    """Nothing else of the old folder is there, and no hospital has noticed more than a pause."""
    assert f"finished, last complete round {ROUNDS}" in status(finished)
    states = [(finished.folder / name / "applied.json").read_text() for name in NAMES]
    assert len(set(states)) == 1
    work = finished.server_file.parent / "new-work"
    assert (work / "runs").is_dir()
    assert not any((finished.server_file.parent / "work").iterdir())
