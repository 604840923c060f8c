"""Sampled verification over Flower: real processes, TLS and node keys; hospitals without data."""

from __future__ import annotations

from pathlib import Path

from common.config import load_settings
from common.plan import Plan
from tests.support.flower_federation import Federation
from tests.support.trivial_sums import check_sums

NAMES = ("hospital-1", "hospital-2", "hospital-3", "hospital-4")
ROUNDS = 3


def test_a_run_in_sampled_mode_over_the_network(tmp_path: Path) -> None:
    """Three rounds: every hospital holds the sum of the uploads, and one `verify` exchange closes the last round."""
    federation = Federation(tmp_path, NAMES, rounds=ROUNDS, trainable_parameters=40_000, verification="sampled")
    federation.write()
    summary = federation.run_to_end(timeout_s=240.0)
    kinds = [(exchange["kind"], exchange["round"]) for exchange in summary["exchanges"]]
    assert [one for one in kinds if one[0] == "verify"] == [("verify", ROUNDS + 1)]
    plan = load_settings(federation.plan_file, Plan)
    check_sums(tmp_path, plan, dict.fromkeys(range(1, ROUNDS + 1), NAMES))
