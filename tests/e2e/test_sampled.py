"""Sampled verification over Flower: real processes, TLS and node keys; hospitals without data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from common.ckks import PRESETS, chunks_for, decode_sum, decode_upload
from common.config import load_settings
from common.plan import Plan
from tests.support.flower_federation import Federation, environment

NAMES = ("hospital-1", "hospital-2", "hospital-3", "hospital-4")
ROUNDS = 3


def test_a_run_in_sampled_mode_over_the_network(tmp_path: Path) -> None:
    """Three rounds: every hospital holds the sum of the uploads, and one `verify` exchange closes the last round."""
    federation = Federation(tmp_path, NAMES, rounds=ROUNDS, trainable_parameters=40_000, verification="sampled")
    federation.write()
    try:
        federation.start_all()
        argv = [sys.executable, "-m", "server", "run", str(federation.plan_file), "--json"]
        argv += ["--config", str(federation.server_file)]
        result = subprocess.run(  # noqa: S603 -- our own command
            argv, env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
        )
    finally:
        federation.close()
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    kinds = [(exchange["kind"], exchange["round"]) for exchange in summary["exchanges"]]
    assert [one for one in kinds if one[0] == "verify"] == [("verify", ROUNDS + 1)]
    plan = load_settings(federation.plan_file, Plan)
    parameters = PRESETS[plan.encryption.preset]
    chunks = chunks_for(plan.upload_values, parameters)
    for number in range(1, ROUNDS + 1):
        uploads = [(tmp_path / name / f"upload-{number}.bin").read_bytes() for name in NAMES]
        words = [decode_upload(upload, chunks, parameters).words for upload in uploads]
        wanted = np.stack(words).sum(axis=0) % parameters.modulus
        for name in NAMES:
            body = (tmp_path / name / f"aggregate-{number}.bin").read_bytes()
            assert np.array_equal(decode_sum(body, chunks, len(NAMES), parameters).words, wanted)
