"""What the coordinator fixes before it asks stays fixed, whatever comes later and whenever it is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from common.ckks import chunks_for
from common.ckks_parameters import SEED_BYTES
from common.errors import StoreError
from server.mask_store import MaskStore, OpenRound
from server.masked_round import Opening
from tests.support.flower_federation import REPOSITORY
from tests.support.masked_sites import TRAINABLE_PARAMETERS, Ended, MaskedSites
from tests.support.replies import NAMES, PARAMETERS, RUN

FIRST_THREE = NAMES[:3]


@pytest.fixture
def sites(tmp_path: Path) -> MaskedSites:
    """Four hospitals."""
    return MaskedSites(tmp_path / "sites")


@pytest.fixture
def masks(tmp_path: Path) -> Iterator[MaskStore]:
    """An empty store."""
    with closing(MaskStore(tmp_path, RUN)) as store:
        yield store


def reopened(tmp_path: Path, run: str = RUN) -> MaskStore:
    """The same file, as after a restart; SQLite lets both read."""
    return MaskStore(tmp_path, run)


def upload_of(masks: MaskStore, round_number: int, attempt: int, *, hospital: str) -> bytes:
    """An upload that was kept, whole."""
    size = chunks_for(TRAINABLE_PARAMETERS, PARAMETERS) * (PARAMETERS.chunk_bytes + SEED_BYTES)
    with masks.opened_upload(round_number, attempt, hospital=hospital) as read:
        return bytes(read(0, size))


def save(masks: MaskStore, opening: Opening) -> None:
    """All adverts of an opening."""
    for full in opening.adverts:
        masks.save_advert(full)


def keep(masks: MaskStore, ended: Ended) -> None:
    """All that is kept of a round with a sum."""
    entry = ended.aggregate.entry
    for name, body in ended.uploads.items():
        masks.save_upload(entry.round, entry.attempt, hospital=name, body=body)
    masks.save_transcript(entry.round, entry.attempt, ended.transcript)


def test_an_opening_stays_as_it_was_first_sent(masks: MaskStore, sites: MaskedSites, tmp_path: Path) -> None:
    """Hospitals refuse another: neither a late advert nor a changed one gets in. Before, an advert is replaced."""
    stale = MaskedSites(tmp_path / "stale", identities=sites.identities).advert("hospital-1", 2)
    masks.save_advert(stale)
    opening = sites.opening(2, FIRST_THREE)
    save(masks, opening)
    assert masks.adverts(2) == {full.advert.hospital: full for full in opening.adverts}
    masks.open(2, opening, attempt=0)
    masks.save_advert(stale)
    masks.save_advert(sites.advert("hospital-4", 2))
    assert masks.adverts(2) == {full.advert.hospital: full for full in opening.adverts}
    assert masks.opened(2) == OpenRound(opening, 0, None)
    # A later attempt is noted, and is one at the same adverts, whatever comes with it.
    masks.open(2, sites.opening(2), attempt=1)
    for store in (masks, reopened(tmp_path)):
        known = store.opened(2)
        assert known == OpenRound(opening, 1, None)
        assert known.opening.digest == opening.digest
    # The control: the next round, which is not open, takes both.
    save(masks, sites.opening(3, FIRST_THREE))
    masks.save_advert(sites.advert("hospital-4", 3))
    assert set(masks.adverts(3)) == set(NAMES)


def test_an_opening_has_those_that_it_was_opened_with_and_not_all_adverts(masks: MaskStore, sites: MaskedSites) -> None:
    """An advert may be there of a hospital that is left out, such as one that has dealt bad shares."""
    save(masks, sites.opening(1))
    masks.open(1, sites.opening(1, FIRST_THREE), attempt=0)
    known = masks.opened(1)
    assert known is not None
    assert known.opening.hospitals == FIRST_THREE


def test_nothing_is_known_of_a_round_before_it_is_opened(masks: MaskStore, sites: MaskedSites) -> None:
    """Nor of another run in the same file."""
    assert (masks.opened(1), masks.adverts(1), masks.transcript(1)) == (None, {}, None)
    save(masks, sites.opening(1))
    masks.open(1, sites.opening(1), attempt=0)
    with closing(reopened(masks.path.parent, "f" * 32)) as other:
        assert (other.opened(1), other.adverts(1), other.transcript(1)) == (None, {}, None)
    assert masks.opened(1) is not None


def test_survivors_uploads_and_transcript_are_read_as_they_were_written(
    masks: MaskStore, sites: MaskedSites, tmp_path: Path
) -> None:
    """Signatures and digests rest on every byte of them."""
    opening, ended = sites.opening(2), sites.ended(2, FIRST_THREE)
    save(masks, opening)
    masks.open(2, opening, attempt=0)
    survivors = ended.aggregate.entry.survivors
    masks.ask_for(2, survivors)
    keep(masks, ended)
    masks.close()
    with closing(reopened(tmp_path)) as again:
        assert again.opened(2) == OpenRound(opening, 0, survivors)
        assert again.transcript(2) == ended.transcript
        for name in FIRST_THREE:
            assert upload_of(again, 2, 0, hospital=name) == ended.uploads[name]
        # Opening it once more, as after a restart, does not forget whose shares were asked for.
        again.open(2, opening, attempt=0)
        assert again.opened(2) == OpenRound(opening, 0, survivors)
    public = {name: identity.public_hex for name, identity in sites.identities.items()}
    for signed in survivors:
        signed.check(public[signed.manifest.hospital])


def test_uploads_of_two_attempts_are_kept_apart(masks: MaskStore) -> None:
    """They carry other masks."""
    for attempt in (0, 1):
        masks.save_upload(2, attempt, hospital="hospital-1", body=bytes([attempt]))
    assert [upload_of(masks, 2, attempt, hospital="hospital-1") for attempt in (0, 1)] == [b"\0", b"\1"]


def test_what_is_needed_no_more_is_forgotten(masks: MaskStore, sites: MaskedSites) -> None:
    """All of the rounds before the last sum; that one itself stays, and so does whatever comes after it."""
    ended = {number: sites.ended(number, FIRST_THREE) for number in (1, 2)}
    masks.forget()
    for number in (1, 2, 3, 4):
        save(masks, sites.opening(number))
        masks.open(number, sites.opening(number), attempt=0)
    # Nothing is a sum yet.
    masks.forget()
    assert all(masks.opened(number) for number in (1, 2, 3, 4))
    keep(masks, ended[1])
    masks.forget()
    assert all(masks.opened(number) for number in (1, 2, 3, 4))
    assert masks.transcript(1) == ended[1].transcript
    keep(masks, ended[2])
    masks.save_upload(3, 0, hospital="hospital-1", body=b"of a round that was skipped")
    with closing(reopened(masks.path.parent, "f" * 32)) as other:
        other.save_transcript(1, 0, ended[1].transcript)
        masks.forget()
        assert other.transcript(1) == ended[1].transcript
    assert (masks.opened(1), masks.adverts(1), masks.transcript(1)) == (None, {}, None)
    query = "SELECT COUNT(*) FROM uploads WHERE run = ? AND round = 1"
    assert masks._rows(query, (RUN,)) == [(0,)]
    assert all(masks.opened(number) for number in (2, 3, 4))
    assert masks.transcript(2) == ended[2].transcript
    assert upload_of(masks, 2, 0, hospital="hospital-1") == ended[2].uploads["hospital-1"]
    assert upload_of(masks, 3, 0, hospital="hospital-1")


def test_a_file_from_which_an_upload_is_gone_is_one_sentence(masks: MaskStore) -> None:
    """Not a traceback in the coordinator's log."""
    with pytest.raises(StoreError, match="restore a backup"):
        upload_of(masks, 1, 0, hospital="hospital-1")


def test_what_was_fixed_survives_a_kill_at_once(tmp_path: Path) -> None:
    """It is on the disk when the call returns, without a clean close: what follows may be sent to hospitals."""
    folder = tmp_path / "killed"
    folder.mkdir()
    code = (
        "import os, signal, sys; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
        "from tests.unit.test_mask_store import kept_in\n"
        "kept_in(Path(sys.argv[1])); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder), str(REPOSITORY)], check=False)  # noqa: S603
    assert done.returncode == -signal.SIGKILL
    with closing(reopened(folder)) as masks:
        known = masks.opened(1)
        assert known is not None
        assert known.opening.hospitals == NAMES
        assert known.survivors is not None
        assert [signed.manifest.hospital for signed in known.survivors] == list(FIRST_THREE)
        assert upload_of(masks, 1, 0, hospital="hospital-2")
        assert masks.transcript(1) is not None


def kept_in(folder: Path) -> None:
    """A round that was opened, asked about and unmasked."""
    sites, masks = MaskedSites(folder / "sites"), MaskStore(folder, RUN)
    opening, ended = sites.opening(1), sites.ended(1, FIRST_THREE)
    save(masks, opening)
    masks.open(1, opening, attempt=0)
    masks.ask_for(1, ended.aggregate.entry.survivors)
    keep(masks, ended)
