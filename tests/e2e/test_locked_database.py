"""The SuperLink answers every gateway with an error for a while: they all come back by themselves."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.flower_federation import Federation, environment

NAMES = ("hospital-1", "hospital-2", "hospital-3")
LOCKED_S = 45.0

pytestmark = pytest.mark.slow


def test_gateways_that_gave_up_are_back_for_the_next_run(tmp_path: Path) -> None:
    """Each SuperNode gives up at the error; while the coordinator counts its old connection, it may not come back."""
    federation = Federation(tmp_path, NAMES, rounds=1, patience_s=300.0)
    federation.write()
    try:
        federation.start_all()
        with closing(sqlite3.connect(federation.server_file.parent / "work" / "superlink.db")) as database:
            database.execute("BEGIN EXCLUSIVE")
            time.sleep(LOCKED_S)
            database.rollback()
        argv = [sys.executable, "-m", "server", "run", str(federation.plan_file), "--config"]
        done = subprocess.run(  # noqa: S603 -- our own command
            [*argv, str(federation.server_file)], env=environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        for name in NAMES:
            assert re.search("supernode died.*answered with an error", federation.log(name)), federation.log(name)
    finally:
        federation.close()
