"""A model of 11 million parameters from five hospitals through the real deployment: it works, and what it takes."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.ckks import PRESETS, add_in_place, chunks_for, decode_sum, decode_upload
from common.ckks_parameters import SEED_BYTES
from common.config import load_settings
from common.plan import Plan
from tests.support.flower_federation import Federation, environment

NAMES = tuple(f"hospital-{number}" for number in range(1, 6))
ROUNDS = 2
# A ResNet-18 that learns in full, and a head that is nothing beside Python itself.
LARGE, TINY = 11_200_000, 1_000
POLL_S = 0.1


@dataclass(frozen=True)
class Run:
    """What a run took: the ServerApp's peak up to the end of each step, bytes, and what the command printed."""

    peaks: dict[str, int]
    summary: dict[str, Any]
    seconds: float

    def peak(self) -> int:
        """Peak of the run."""
        return max(self.peaks.values())


def run_of(folder: Path, parameters: int, verification: str) -> tuple[Federation, Run]:
    """Run five trivial hospitals with an update of this length; the federation is closed, its files are there."""
    federation = Federation(
        folder,
        NAMES,
        rounds=ROUNDS,
        round_timeout_s=240.0,
        attempts=1,
        trainable_parameters=parameters,
        verification=verification,
        patience_s=300.0,
    )
    federation.write()
    with contextlib.closing(federation):
        federation.start_all()
        argv = [sys.executable, "-m", "server", "run", str(federation.plan_file)]
        argv += ["--config", str(federation.server_file), "--json"]
        started, peaks = time.monotonic(), dict[str, int]()
        with (folder / "run.out").open("w") as out, (folder / "run.err").open("w") as err:
            command = subprocess.Popen(argv, env=environment(), stdout=out, stderr=err)  # noqa: S603
        while command.poll() is None:
            note_peak(federation, peaks)
            time.sleep(POLL_S)
        note_peak(federation, peaks)
        seconds = time.monotonic() - started
        assert command.returncode == 0, (folder / "run.err").read_text()
        return federation, Run(peaks, json.loads((folder / "run.out").read_text()), seconds)


def note_peak(federation: Federation, peaks: dict[str, int]) -> None:
    """Write down the ServerApp's peak under the step that it is in; a step's last note is that of its end."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        folder = next((federation.server_file.parent / "work" / "runs").iterdir())
        progress = json.loads((folder / "progress.json").read_text())
        status = Path(f"/proc/{progress['pid']}/status")
        lines = status.read_text().splitlines() if status.exists() else []
        seen = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")]
        peaks[f"{progress['phase']} {progress['round']}"] = max(seen[0] if seen else 0, progress["peak_rss_bytes"])


@dataclass(frozen=True)
class Measured:
    """The large run, the tiny one beside it, and the size of one large upload."""

    federation: Federation
    large: Run
    tiny: Run
    upload_bytes: int


@pytest.fixture(scope="module", params=["full", "sampled"])
def measured(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Measured]:
    """Both runs, one after the other; gigabytes of files are removed at the end."""
    folder = tmp_path_factory.mktemp("large")
    try:
        _, tiny = run_of(folder / "tiny", TINY, request.param)
        federation, large = run_of(folder / "large", LARGE, request.param)
        plan = load_settings(federation.plan_file, Plan)
        parameters = PRESETS[plan.encryption.preset]
        chunks = chunks_for(plan.upload_values, parameters)
        yield Measured(federation, large, tiny, chunks * (parameters.chunk_bytes + SEED_BYTES))
    finally:
        shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_eleven_million_parameters_from_five_hospitals(
    measured: Measured, record_property: Callable[[str, object], None]
) -> None:
    """Every hospital contributes and verifies, all end alike, and the last sum is that of their uploads."""
    large, federation = measured.large, measured.federation
    for step, peak in large.peaks.items():
        growth = (peak - measured.tiny.peak()) / measured.upload_bytes
        record_property(step, f"peak {peak / 1e6:.0f} MB, {growth:.2f} uploads above the tiny run")
    record_property("seconds", f"{large.seconds:.0f} s, tiny {measured.tiny.seconds:.0f} s")
    train = [e for e in large.summary["exchanges"] if e["kind"] == "train"]
    assert [e["round"] for e in train] == list(range(1, ROUNDS + 1))
    assert all(h["outcome"] == "contributed" for exchange in train for h in exchange["hospitals"])
    states = {(federation.folder / name / "applied.json").read_text() for name in NAMES}
    assert [json.loads(state)["round"] for state in states] == [ROUNDS]
    plan = load_settings(federation.plan_file, Plan)
    parameters = PRESETS[plan.encryption.preset]
    chunks = chunks_for(plan.upload_values, parameters)
    expected = np.zeros((chunks, parameters.ring_degree), dtype=np.uint64)
    for name in NAMES:
        upload = (federation.folder / name / f"upload-{ROUNDS}.bin").read_bytes()
        add_in_place(expected, decode_upload(upload, chunks, parameters).words, parameters)
    body = (federation.folder / NAMES[0] / f"aggregate-{ROUNDS}.bin").read_bytes()
    np.testing.assert_array_equal(decode_sum(body, chunks, len(NAMES), parameters).words, expected)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_server_app_holds_less_than_three_uploads(measured: Measured) -> None:
    """The goal, above what the same run takes with a tiny model."""
    assert measured.large.peak() - measured.tiny.peak() < 3 * measured.upload_bytes
