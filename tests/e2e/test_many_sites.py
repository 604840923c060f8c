"""The coordinator's memory with many hospitals."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.support.flower_federation import Federation, environment, wait_until

FEW, MANY = 10, 50
ROUNDS = 2
MOST_BYTES_PER_SITE = 5 << 20
SITES = Path(__file__).parents[1] / "support" / "many_sites.py"


def resident_bytes(federation: Federation, program: str) -> int:
    """Memory of one of the coordinator's processes."""
    family = psutil.Process(federation.processes["coordinator"].pid).children(recursive=True)
    return max(p.memory_info().rss for p in family if any(program in word for word in p.cmdline()))


def coordinator_bytes(folder: Path, count: int) -> dict[str, int]:
    """Memory of SuperLink and ServerApp after a run with this many hospitals."""
    names = tuple(f"hospital-{number}" for number in range(1, count + 1))
    federation = Federation(folder, names, rounds=ROUNDS, round_timeout_s=120.0)
    federation.write()
    with contextlib.closing(federation):
        argv = [sys.executable, "-m", "server", "start", "--config", str(federation.server_file)]
        federation.start("coordinator", argv)
        wait_until(lambda: "coordinator ready" in federation.log("coordinator"), "coordinator", timeout_s=400.0)
        federation.start("sites", [sys.executable, str(SITES), str(folder), *names])
        wait_until(lambda: federation.log("sites").count("connected") == count, "all hospitals", timeout_s=120.0)
        argv = [sys.executable, "-m", "server", "run", str(federation.plan_file)]
        argv += ["--config", str(federation.server_file), "--json"]
        done = subprocess.run(argv, env=environment(), capture_output=True, text=True, check=False)  # noqa: S603
        assert done.returncode == 0, done.stderr + federation.log("sites")
        train = [e for e in json.loads(done.stdout)["exchanges"] if e["kind"] == "train"]
        assert all(h["outcome"] == "contributed" for exchange in train for h in exchange["hospitals"])
        progress = next((federation.server_file.parent / "work" / "runs").iterdir()) / "progress.json"
        return {
            "superlink": resident_bytes(federation, "flower-superlink"),
            "serverapp": json.loads(progress.read_text())["peak_rss_bytes"],
        }


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_hospital_more_costs_the_coordinator_less_than_five_megabytes(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """SuperLink and ServerApp together, between ten hospitals and fifty, each connected and contributing."""
    few, many = (coordinator_bytes(tmp_path / str(count), count) for count in (FEW, MANY))
    for name in few:
        record_property(name, f"{few[name] / 1e6:.1f} MB with {FEW}, {many[name] / 1e6:.1f} MB with {MANY}")
    growth = sum(many.values()) - sum(few.values())
    record_property("growth_per_site", f"{growth / (MANY - FEW) / 1e6:.2f} MB")
    assert growth < MOST_BYTES_PER_SITE * (MANY - FEW)
