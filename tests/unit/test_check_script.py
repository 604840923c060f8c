"""The gate cleans up after itself, however it ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.flower_federation import REPOSITORY, wait_until

TOOLS = ("ruff", "mypy", "lint-imports", "deptry")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_gate_that_is_interrupted_leaves_no_scratch_folder(tmp_path: Path, number: signal.Signals) -> None:
    """Each would hold gigabytes of the tests' files. What it calls is made to end at once, and its tests not to end."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(REPOSITORY / "scripts" / "check.sh", tmp_path / "scripts")
    programs, scratch = tmp_path / ".venv" / "bin", tmp_path / "scratch"
    programs.mkdir(parents=True)
    scratch.mkdir()
    for name in TOOLS:
        (programs / name).write_text("#!/bin/sh\n")
    (programs / "python").write_text("#!/bin/sh\ntouch tests-run\nexec sleep 600\n")
    for program in programs.iterdir():
        program.chmod(0o755)
    gate = subprocess.Popen(
        ["/bin/sh", "scripts/check.sh"],
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(scratch)},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until((tmp_path / "tests-run").exists, "the gate's tests")
        # The control: there is one.
        assert list(scratch.iterdir())
    finally:
        # As a terminal does: to all of them.
        os.killpg(gate.pid, number)
        gate.wait(timeout=60)
    assert gate.returncode == 128 + number
    assert not list(scratch.iterdir())
