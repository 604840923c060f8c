"""Long messages in pages over Flower: real processes, TLS and node keys; hospitals without data, and a small page."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from common.config import load_settings
from common.plan import Plan
from tests.support.flower_federation import Federation
from tests.support.trivial_site import FRAMES_LOG
from tests.support.trivial_sums import check_sums, upload_bytes

NAMES = ("hospital-1", "hospital-2", "hospital-3", "hospital-4")
ROUNDS = 2
PAGE_KIB = 96
# What a frame of pages has besides its page: header and signature.
REST_BYTES = 512


@pytest.mark.parametrize("verification", ["full", pytest.param("sampled", marks=pytest.mark.slow)])
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
    exchanges = federation.run_to_end(timeout_s=280.0)["exchanges"]
    train = [exchange for exchange in exchanges if exchange["kind"] == "train"]
    assert [(e["round"], e["attempt"]) for e in train] == [(number, 0) for number in range(1, ROUNDS + 1)]
    assert all(h["outcome"] == "contributed" for exchange in train for h in exchange["hospitals"])
    plan = load_settings(federation.plan_file, Plan)
    # Whole messages are counted, whatever they were cut into.
    assert upload_bytes(plan) > PAGE_KIB << 10
    assert all(h["up_bytes"] > upload_bytes(plan) for exchange in train for h in exchange["hospitals"])
    assert all(h["down_bytes"] > upload_bytes(plan) for h in train[-1]["hospitals"])
    check_sums(tmp_path, plan, dict.fromkeys(range(1, ROUNDS + 1), NAMES))
    for name in NAMES:
        passed = frames(tmp_path / name)
        # Two pages of each upload came up, and of the requests with a sum, of which the last is `finish`, two at least.
        assert len(passed["FWFET/1"]) >= 2 * ROUNDS
        assert len(passed["FWLRQ/1"]) >= 2 * ROUNDS
        assert len(passed["FWPAG/1"]) >= 3 * ROUNDS
        assert (
            max(size for sizes in passed.values() for pair in sizes for size in pair) <= (PAGE_KIB << 10) + REST_BYTES
        )
        assert not list((tmp_path / name / "pages").iterdir())


def frames(folder: Path) -> dict[str, list[tuple[int, int]]]:
    """Lengths of the frames that reached a hospital and of its answers, by the form of the frame."""
    found = defaultdict[str, list[tuple[int, int]]](list)
    for line in (folder / FRAMES_LOG).read_text().splitlines():
        form, size, _, reply_size = line.split()
        found[form].append((int(size), int(reply_size)))
    return found
