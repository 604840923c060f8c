"""What a site remembers of the others: their furthest signed manifests, on the disk before anything rests on them."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

import pytest

from client.freshness import read_shown
from client.peers_seen import FILE, PeersSeen
from common.errors import SiteStorageError
from common.freshness_messages import FreshnessAnswer, sign_answer
from common.identity import Identity
from common.mask_messages import MAX_DOCUMENT_BYTES, Reveal, SealedShares, decode_document, encode_document
from common.messages import Manifest, SignedManifest, decode_reply, encode_reply
from tests.support.masked_sites import MaskedSites
from tests.support.replies import NAMES, PLAN, RUN, Hospitals

PEER = "hospital-1"
LEDGER = "8" * 64


@pytest.fixture(scope="module")
def identity() -> Identity:
    """The peer's key."""
    return Identity.generate()


def signed(identity: Identity, *, name: str = PEER, **changes: Any) -> SignedManifest:  # noqa: ANN401 -- any field
    """A manifest of the peer."""
    manifest = Manifest.model_validate(Hospitals().manifest(b"").model_dump() | {"hospital": name} | changes)
    return decode_reply(encode_reply(manifest, b"", identity.sign), {name: identity.public_hex}).signed


def seen(state: Path, identity: Identity, *, run: str = RUN, ledger: str = LEDGER) -> list[SignedManifest]:
    """What the site would show the peer."""
    shown = PeersSeen(state).of(identity.public_hex, run=run, ledger=ledger)
    return [read_shown(one, hospital=PEER, identity=identity.public_hex) for one in shown]


def test_the_furthest_manifest_of_ledger_and_run_is_kept(identity: Identity, tmp_path: Path) -> None:
    """In whatever order they come, and also for a service that is started anew; nothing seen is nothing."""
    assert seen(tmp_path, identity) == []
    first = signed(identity, ledger_sequence=3, round=3)
    known = {PEER: identity.public_hex}
    for one in (
        signed(identity, ledger_sequence=2, round=2, attempt=2),
        first,
        signed(identity, ledger_sequence=1, round=1),
    ):
        PeersSeen(tmp_path).note([one], known)
    assert seen(tmp_path, identity) == [first]
    again = signed(identity, ledger_sequence=3, round=3, attempt=1)
    PeersSeen(tmp_path).note([again], known)
    assert seen(tmp_path, identity) == [first, again]
    other = signed(identity, ledger_sequence=9, round=1, run="e" * 32)
    PeersSeen(tmp_path).note([other], known)
    assert seen(tmp_path, identity) == [other, again]
    # Only replies to `train` and `eval` are kept by their hospital until the round is over.
    PeersSeen(tmp_path).note([signed(identity, kind="finish", round=8)], known)
    assert seen(tmp_path, identity) == [other, again]
    # Another source of the same site has a ledger of its own.
    assert seen(tmp_path, identity, run="9" * 32, ledger="7" * 64) == []


def test_what_its_hospital_did_not_sign_is_not_kept(identity: Identity, tmp_path: Path) -> None:
    """Neither another's signature, nor a stranger's manifest."""
    one = signed(identity)
    forged = SignedManifest(manifest=one.manifest, signature="0" * 128)
    stranger = signed(identity, name="hospital-9")
    PeersSeen(tmp_path).note([forged, stranger], {PEER: identity.public_hex})
    assert seen(tmp_path, identity) == []
    assert not (tmp_path / FILE).exists()
    PeersSeen(tmp_path).note([forged, one], {PEER: identity.public_hex})
    assert seen(tmp_path, identity) == [one]


def test_only_growth_is_written(identity: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two flushes for news, of however many hospitals; none for what is known."""
    flushed: list[int] = []
    flush = os.fsync

    def counting(descriptor: int) -> None:
        flushed.append(descriptor)
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", counting)
    PeersSeen(tmp_path).note([signed(identity), signed(identity, round=3)], {PEER: identity.public_hex})
    assert len(flushed) == 2
    PeersSeen(tmp_path).note([signed(identity)], {PEER: identity.public_hex})
    assert len(flushed) == 2


def test_many_runs_take_no_more_room_than_some(identity: Identity, tmp_path: Path) -> None:
    """The newest stay; the ledger's furthest one stays whatever run it was in."""
    best = signed(identity, ledger_sequence=99, run="f" * 32)
    PeersSeen(tmp_path).note([best], {PEER: identity.public_hex})
    runs = [secrets.token_hex(16) for _ in range(20)]
    for run in runs:
        PeersSeen(tmp_path).note([signed(identity, run=run)], {PEER: identity.public_hex})
    assert seen(tmp_path, identity, run=runs[0]) == [best]
    assert len(seen(tmp_path, identity, run=runs[-1])) == 2
    assert (tmp_path / FILE).stat().st_size < 16_000


def test_a_damaged_file_is_named(identity: Identity, tmp_path: Path) -> None:
    """Nothing is guessed: with it gone a peer's old copy could pass."""
    PeersSeen(tmp_path).note([signed(identity)], {PEER: identity.public_hex})
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes()[:-9] + b"x")
    with pytest.raises(SiteStorageError, match="is damaged"):
        PeersSeen(tmp_path).note([signed(identity)], {PEER: identity.public_hex})
    with pytest.raises(SiteStorageError, match="is damaged"):
        seen(tmp_path, identity)


def test_answers_to_sixty_hospitals_fit_into_one_document(identity: Identity, tmp_path: Path) -> None:
    """All were started at once, and two manifests are to be shown of each; names are as long as they may be."""
    sites = MaskedSites(tmp_path)
    manifests = (signed(identity, ledger_sequence=2**40 - 1), signed(identity, round=2**40 - 1))
    PeersSeen(tmp_path).note(manifests, {PEER: identity.public_hex})
    shown = PeersSeen(tmp_path).of(identity.public_hex, run=RUN, ledger=LEDGER)
    assert len(shown) == 2
    answer = FreshnessAnswer(
        run=RUN, plan=PLAN, epoch=1, nonce="1" * 64, asker=PEER, ledger=LEDGER, hospital=NAMES[1], seen=shown
    )
    answers = (sign_answer(answer, identity.sign),) * 59
    full = sites.advert(PEER, 1)
    sixty: tuple[SealedShares, ...] = (full.shares * 15)[:60]
    reveal = Reveal(
        run=RUN,
        plan=PLAN,
        epoch=1,
        round=1,
        attempt=0,
        hospital=PEER,
        survivors="1" * 64,
        shares=("2" * 64,) * 60,
        next=full.model_copy(update={"shares": sixty}),
        answers=answers,
    )
    data = encode_document(reveal)
    assert 0.75 * MAX_DOCUMENT_BYTES < len(data) < MAX_DOCUMENT_BYTES
    assert decode_document(data, Reveal) == reveal
