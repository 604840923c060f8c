"""A hospital's disk is full to the last page: nothing uncharged is sent, no charge is forgotten, and it goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.errors import FedwardError
from tests.support.small_disk import SmallDisk
from tests.support.small_federation import NAMES, SmallFederation, provision_small, template

OURS = NAMES[0]
PAGE_BYTES = 4096
DISK_BYTES = 32 << 20
MOST_PAGES = 1 << 10


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of a federation."""
    folder = tmp_path_factory.mktemp("base")
    provision_small(folder, template())
    return folder


def upload(federation: SmallFederation, *, attempt: int) -> bytes:
    """What hospital-1 sends in round 1: the integers, decrypted."""
    frame = federation.frame("train", 1, OURS, attempt=attempt)
    reply = federation.reply(federation.sites[OURS].answer(frame))
    assert reply.manifest.reason == ""
    return np.ascontiguousarray(federation.decrypted(reply)).tobytes()


def round_on_full_disk(federation: SmallFederation, disk: SmallDisk, *, pages: int) -> tuple[str, int]:
    """Round 1, opened already, with this much room; what the site said (empty: it managed), and its charges then."""
    federation.opened(1)
    disk.fill(leave_bytes=pages * PAGE_BYTES)
    sent, said = [], ""
    try:
        sent.append(upload(federation, attempt=0))
    except FedwardError as error:
        said = str(error)
    charges = federation.charges(OURS)
    disk.make_room()
    federation.reopen(OURS)
    assert federation.charges(OURS) == charges, "the restarted site has counted otherwise"
    sent.extend(upload(federation, attempt=attempt) for attempt in (1, 2))
    assert len(set(sent)) == 1
    assert federation.charges(OURS) == 1
    return said, charges


def test_a_site_on_a_full_disk_stops_in_one_sentence_and_goes_on_under_the_same_charge(
    base: Path, tmp_path: Path
) -> None:
    """With no page, one, two, four... left, until a round fits: refused before the charge, and refused after it."""
    seen, pages = [], 0
    while pages <= MOST_PAGES:
        with (
            SmallDisk(tmp_path / str(pages), size_bytes=DISK_BYTES) as disk,
            SmallFederation.copy_of(base, disk.folder, sites=[OURS]) as federation,
        ):
            said, charges = round_on_full_disk(federation, disk, pages=pages)
        if not said:
            break
        assert len(said.splitlines()) == 1
        assert "make room" in said or "free space" in said
        assert "start" in said
        seen.append(charges)
        pages = max(1, 2 * pages)
    assert pages <= MOST_PAGES, "the disk never sufficed"
    # The first could not even charge; a later one had charged and could not keep its reply.
    assert seen[0] == 0
    assert 1 in seen
