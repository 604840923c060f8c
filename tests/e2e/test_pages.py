"""Long messages in pages over Flower: real processes, TLS and node keys; hospitals without data, and a small page."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common.ckks import PRESETS, add_in_place, chunks_for, decode_sum, decode_upload
from common.ckks_parameters import SEED_BYTES
from common.config import load_settings
from common.plan import Plan
from tests.support.flower_federation import Federation, environment

NAMES = ("hospital-1", "hospital-2", "hospital-3", "hospital-4")
ROUNDS = 2
PAGE_KIB = 96


@pytest.mark.parametrize("verification", ["full", "sampled"])
def test_sums_and_uploads_go_in_pages(tmp_path: Path, verification: str) -> None:
    """An upload takes two pages, a request up to nine; every hospital holds the sum, and no page is left anywhere."""
    federation = Federation(
        tmp_path,
        NAMES,
        rounds=ROUNDS,
        round_timeout_s=200.0,
        trainable_parameters=40_000,
        verification=verification,
        page_kib=PAGE_KIB,
        whole_kib=PAGE_KIB,
    )
    federation.write()
    try:
        federation.start_all()
        argv = [sys.executable, "-m", "server", "run", str(federation.plan_file), "--json"]
        argv += ["--config", str(federation.server_file)]
        result = subprocess.run(  # noqa: S603 -- our own command
            argv, env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False
        )
    finally:
        federation.close()
    assert result.returncode == 0, result.stderr
    exchanges = json.loads(result.stdout)["exchanges"]
    train = [exchange for exchange in exchanges if exchange["kind"] == "train"]
    assert [(e["round"], e["attempt"]) for e in train] == [(number, 0) for number in range(1, ROUNDS + 1)]
    assert all(h["outcome"] == "contributed" for exchange in train for h in exchange["hospitals"])
    plan = load_settings(federation.plan_file, Plan)
    parameters = PRESETS[plan.encryption.preset]
    chunks = chunks_for(plan.upload_values, parameters)
    upload_bytes = chunks * (parameters.chunk_bytes + SEED_BYTES)
    assert upload_bytes > PAGE_KIB << 10
    # Whole messages are counted, whatever they were cut into.
    assert all(h["up_bytes"] > upload_bytes for exchange in train for h in exchange["hospitals"])
    assert all(h["down_bytes"] > upload_bytes for h in train[-1]["hospitals"])
    for number in range(1, ROUNDS + 1):
        wanted = np.zeros((chunks, parameters.ring_degree), dtype=np.uint64)
        for name in NAMES:
            upload = (tmp_path / name / f"upload-{number}.bin").read_bytes()
            add_in_place(wanted, decode_upload(upload, chunks, parameters).words, parameters)
        for name in NAMES:
            body = (tmp_path / name / f"aggregate-{number}.bin").read_bytes()
            assert np.array_equal(decode_sum(body, chunks, len(NAMES), parameters).words, wanted)
    for name in NAMES:
        assert not [path for path in (tmp_path / name / "pages").iterdir() if path.stat().st_size]
