"""`fedward bench` as a process of its own: benches start processes, set torch's threads and redirect their output."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 200.0
PROGRAM = "from common.command import run_command; from scripts.bench import bench_app; run_command(bench_app)"


def run_bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line from the bench's name on, to its end."""
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)  # noqa: S603 -- our own interpreter
