"""The coordinator takes masks off with shares that are exactly the dealt ones, for exactly one set of survivors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from common.ckks import decode_sum, decode_upload
from common.errors import BadShare, BadSignature, LocalProtocolError, MalformedMessage, PeerError, WrongRound
from common.identity import Identity
from common.mask_messages import FullAdvert, Reveal, decode_document, encode_document, shares_root, sign
from common.messages import survivors_digest
from common.pair_box import public_hex
from server.aggregate import RunningSum
from server.masked_round import Opening, Unmasking, check_advert, read_advert
from tests.support.masked_sites import MaskedSites
from tests.support.replies import CHUNKS, NAMES, PARAMETERS, RUN, random_words

GONE = "hospital-2"
SURVIVORS = ("hospital-1", "hospital-3", "hospital-4")


@dataclass
class Round:
    """Round 2, opened with all four; hospital-2 has dropped out."""

    sites: MaskedSites
    opening: Opening
    total: RunningSum
    uploads: dict[str, bytes]

    @property
    def masked_sum(self) -> NDArray[np.uint64]:
        """What the uploads add up to, before any mask is taken off."""
        words = [decode_upload(body, CHUNKS, PARAMETERS).words for body in self.uploads.values()]
        return np.asarray(np.stack(words).sum(axis=0) % PARAMETERS.modulus)

    @property
    def unmasking(self) -> Unmasking:
        """Before any share."""
        return Unmasking(self.sites.plan, RUN, self.opening, self.total.survivors(NAMES))

    def reveal(self, name: str) -> Reveal:
        """What a survivor gives."""
        return decode_document(self.sites.reveal(name, self.unmasking.survivors), Reveal)

    def forged(self, name: str, **changes: object) -> bytes:
        """What a survivor gives, changed and signed by it again."""
        changed = self.reveal(name).model_copy(update=changes)
        return encode_document(sign(changed, self.sites.identities[name].sign))


def opened(folder: Path, *, liar: str = "", lies_about: str = "") -> Round:
    """The uploads are in; a liar has dealt shares of another secret than the one it announces."""
    sites = MaskedSites(folder)
    if liar:
        sites.deal_badly(liar, 2, about=lies_about)
    opening = sites.opening(2)
    total, uploads = sites.collected(opening, {name: random_words(NAMES.index(name)) for name in SURVIVORS})
    return Round(sites, opening, total, uploads)


@pytest.fixture
def one(tmp_path: Path) -> Round:
    """An honest round."""
    return opened(tmp_path)


def test_the_recovered_sum_is_the_plain_sum_of_the_survivors(one: Round) -> None:
    """Bit for bit, although one hospital dropped out: the control of every refusal below."""
    unmasking = one.unmasking
    for number, name in enumerate(SURVIVORS):
        assert not unmasking.is_enough, number
        unmasking.take(one.sites.reveal(name, unmasking.survivors), name)
    assert unmasking.is_enough
    aggregate, transcript = one.total.unmasked(unmasking)
    plain = np.stack([random_words(NAMES.index(name)) for name in SURVIVORS]).sum(axis=0) % PARAMETERS.modulus
    np.testing.assert_array_equal(decode_sum(aggregate.body, CHUNKS, 3, PARAMETERS).words, plain)
    assert transcript.adverts == tuple(full.advert for full in one.opening.adverts)
    assert (len(transcript.seeds), len(transcript.mask_secrets)) == (3, 1)
    assert public_hex(bytes.fromhex(transcript.mask_secrets[0])) == one.opening.adverts[1].advert.mask_key
    assert not unmasking.liars


def test_without_the_shares_the_sum_is_hidden(tmp_path: Path) -> None:
    """Control: before the unmasking the coordinator holds the plain sum in no more words than by chance."""
    plain = np.stack([random_words(NAMES.index(name)) for name in SURVIVORS]).sum(axis=0) % PARAMETERS.modulus
    assert np.count_nonzero(opened(tmp_path).masked_sum == plain) <= 2


def test_an_observers_shares_count(tmp_path: Path) -> None:
    """One that is not in the opening holds a share of every secret in it."""
    sites = MaskedSites(tmp_path)
    opening = sites.opening(2, SURVIVORS)
    total, _ = sites.collected(opening, {name: random_words(NAMES.index(name)) for name in SURVIVORS})
    sites.upload(GONE, opening, random_words(0))
    unmasking = sites.unmasking(opening, total, revealing=(*SURVIVORS[:2], GONE))
    aggregate, transcript = total.unmasked(unmasking)
    plain = np.stack([random_words(NAMES.index(name)) for name in SURVIVORS]).sum(axis=0) % PARAMETERS.modulus
    np.testing.assert_array_equal(decode_sum(aggregate.body, CHUNKS, 3, PARAMETERS).words, plain)
    assert transcript.mask_secrets == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"round": 3},
        {"attempt": 1},
        {"survivors": "9" * 64},
        {"run": "a" * 32},
        {"plan": "9" * 64},
        {"epoch": 2},
    ],
    ids=str,
)
def test_shares_for_something_else_are_refused(one: Round, changes: dict[str, object]) -> None:
    """However well they are signed: shares for two sets of survivors would open two sums."""
    with pytest.raises(WrongRound, match="another round, attempt or survivors"):
        one.unmasking.take(one.forged("hospital-1", **changes), "hospital-1")


def test_shares_for_a_subset_of_the_survivors_are_refused(one: Round) -> None:
    """Named by the digest over all signed manifests."""
    unmasking = one.unmasking
    digest = survivors_digest(unmasking.survivors[:2])
    with pytest.raises(WrongRound):
        unmasking.take(one.forged("hospital-1", survivors=digest), "hospital-1")


def test_a_hospital_speaks_for_itself_only(one: Round) -> None:
    """Through its own node, under its own signature."""
    honest = one.sites.reveal("hospital-1", one.unmasking.survivors)
    with pytest.raises(WrongRound, match="brought the shares of hospital-1"):
        one.unmasking.take(honest, "hospital-3")
    in_its_name = one.reveal("hospital-1").model_copy(update={"hospital": "hospital-3"})
    with pytest.raises(BadSignature):
        one.unmasking.take(encode_document(sign(in_its_name, one.sites.identities["hospital-1"].sign)), "hospital-3")
    stranger = one.reveal("hospital-1").model_copy(update={"hospital": "hospital-9"})
    with pytest.raises(BadSignature, match="not in the roster"):
        one.unmasking.take(encode_document(sign(stranger, Identity.generate().sign)), "hospital-9")
    unsigned = one.reveal("hospital-1").model_copy(update={"signature": "0" * 128})
    with pytest.raises(BadSignature):
        one.unmasking.take(encode_document(unsigned), "hospital-1")


def swapped(shares: tuple[str, ...]) -> tuple[str, ...]:
    """Of two hospitals."""
    return (shares[2], shares[1], shares[0], *shares[3:])


def flipped(shares: tuple[str, ...]) -> tuple[str, ...]:
    """In one bit of the last one."""
    return (*shares[:-1], f"{int(shares[-1], 16) ^ 1:064x}")


@pytest.mark.parametrize("change", [swapped, flipped, lambda shares: (*shares[:3], "0" * 64)])
def test_a_wrong_share_names_who_revealed_it_and_none_of_its_shares_is_used(
    one: Round, change: Callable[[tuple[str, ...]], tuple[str, ...]]
) -> None:
    """Under its own good signature. With one wrong share the secret would be another, and nobody could be named."""
    unmasking, honest = one.unmasking, one.reveal("hospital-3")
    with pytest.raises(BadShare, match="hospital-3 reveals another share of hospital-"):
        unmasking.take(one.forged("hospital-3", shares=change(honest.shares)), "hospital-3")
    assert unmasking._shares == {}
    for name in SURVIVORS[::2]:
        unmasking.take(one.sites.reveal(name, unmasking.survivors), name)
    assert not unmasking.is_enough
    unmasking.take(encode_document(honest), "hospital-3")
    assert unmasking.is_enough


def test_a_mask_keys_share_of_a_survivor_is_refused(tmp_path: Path) -> None:
    """Both shares for one hospital would open its upload: the coordinator does not even take the second."""
    sites = MaskedSites(tmp_path)
    opening, words = sites.opening(2), {name: random_words(NAMES.index(name)) for name in NAMES}
    total, _ = sites.collected(opening, words)
    smaller, _ = sites.collected(opening, {name: words[name] for name in SURVIVORS})
    # hospital-1 gives hospital-2's mask key, as for a sum without it.
    gave = decode_document(sites.reveal("hospital-1", smaller.survivors(NAMES)), Reveal)
    all_four = Unmasking(sites.plan, RUN, opening, total.survivors(NAMES))
    forged = gave.model_copy(update={"survivors": survivors_digest(all_four.survivors)})
    with pytest.raises(BadShare, match="another share of hospital-2"):
        all_four.take(encode_document(sign(forged, sites.identities["hospital-1"].sign)), "hospital-1")


@pytest.mark.parametrize("count", [0, 3, 5])
def test_another_number_of_shares_is_refused(one: Round, count: int) -> None:
    """One or a blank for each hospital of the opening."""
    shares = (*one.reveal("hospital-1").shares, "0" * 64)[:count]
    with pytest.raises(MalformedMessage, match="one per hospital of the opening"):
        one.unmasking.take(one.forged("hospital-1", shares=shares), "hospital-1")


def test_blanks_are_taken_and_do_not_count(one: Round) -> None:
    """A box that does not open gives no share; the others of the same hospital are used."""
    unmasking = one.unmasking
    shares = one.reveal("hospital-4").shares
    unmasking.take(one.forged("hospital-4", shares=(*shares[:2], "", shares[3])), "hospital-4")
    for name in SURVIVORS[:2]:
        unmasking.take(one.sites.reveal(name, unmasking.survivors), name)
    assert not unmasking.is_enough
    with pytest.raises(LocalProtocolError, match="2 shares for a threshold of 3"):
        one.total.unmasked(unmasking)
    unmasking.take(one.forged("hospital-4"), "hospital-4")
    assert unmasking.is_enough


def test_the_same_shares_twice_count_once(one: Round) -> None:
    """A hospital that is asked again does not stand for two."""
    unmasking = one.unmasking
    for name in ("hospital-1", "hospital-1", "hospital-3", "hospital-3"):
        unmasking.take(one.sites.reveal(name, unmasking.survivors), name)
    assert not unmasking.is_enough


@pytest.mark.parametrize("junk", [b"", b"{}", b"null", b"\xff", b"[" * 10_000])
def test_junk_is_refused_by_name(one: Round, junk: bytes) -> None:
    """Whatever a node sends."""
    with pytest.raises(MalformedMessage):
        one.unmasking.take(junk, "hospital-1")


@pytest.mark.parametrize(("liar", "lies_about"), [("hospital-3", "commitment"), (GONE, "mask_key")])
def test_a_dealer_whose_good_shares_give_something_else_is_named(tmp_path: Path, liar: str, lies_about: str) -> None:
    """A survivor's seed, a dropped hospital's mask key. There is no sum of that round; later ones open without it."""
    one = opened(tmp_path, liar=liar, lies_about=lies_about)
    unmasking = one.unmasking
    for name in SURVIVORS:
        unmasking.take(one.sites.reveal(name, unmasking.survivors), name)
    assert unmasking.is_enough
    with pytest.raises(BadShare, match=f"the shares that {liar} dealt"):
        one.total.unmasked(unmasking)
    assert unmasking.liars == {liar}


def test_one_hospital_that_withholds_a_share_brings_no_blame_on_its_dealer(tmp_path: Path) -> None:
    """It may be the liar itself; two of them cannot be, with one colluder assumed."""
    one = opened(tmp_path, liar="hospital-2", lies_about="box")
    unmasking = one.unmasking
    for name, blamed in (("hospital-1", set()), ("hospital-3", {"hospital-2"})):
        unmasking.take(one.sites.reveal(name, unmasking.survivors), name)
        assert unmasking.blamed == blamed


def test_an_opening_gives_each_place_its_own_shares(one: Round) -> None:
    """In roster order, under one digest for all."""
    assert one.opening.hospitals == NAMES
    assert len({one.opening.digest, Opening(one.opening.adverts[:3]).digest}) == 2
    for position in range(4):
        delivered = one.opening.delivered_to(position)
        assert [d.shares for d in delivered] == [full.shares[position] for full in one.opening.adverts]


def test_an_advert_is_taken_for_its_round_run_plan_and_hospital_only(tmp_path: Path) -> None:
    """As it was signed; the control is the honest one."""
    sites = MaskedSites(tmp_path)
    full = sites.advert("hospital-1", 2)
    sign_it = sites.identities["hospital-1"].sign

    def read(one: FullAdvert, hospital: str = "hospital-1", number: int = 2) -> FullAdvert:
        return read_advert(encode_document(one), hospital, plan=sites.plan, run=RUN, round_number=number, epoch=1)

    assert read(full) == full
    unsigned = full.advert.model_copy(update={"mask_key": "9" * 64})
    refused: list[tuple[type[PeerError], Callable[[], object]]] = [
        (WrongRound, lambda: read(full, number=3)),
        (WrongRound, lambda: read(full, "hospital-2")),
        (MalformedMessage, lambda: read(full.model_copy(update={"shares": full.shares[::-1]}))),
        (MalformedMessage, lambda: read_advert(b"{}", "hospital-1", plan=sites.plan, run=RUN, round_number=2, epoch=1)),
        (BadSignature, lambda: read(full.model_copy(update={"advert": unsigned}))),
    ]
    for changes in ({"run": "a" * 32}, {"plan": "9" * 64}, {"epoch": 2}):
        other = full.model_copy(update={"advert": sign(full.advert.model_copy(update=changes), sign_it)})
        refused.append((WrongRound, partial(read, other)))
    short = sign(full.advert.model_copy(update={"shares_root": shares_root(full.shares[:3])}), sign_it)
    refused.append((MalformedMessage, lambda: read(FullAdvert(advert=short, shares=full.shares[:3]))))
    for error, attempt in refused:
        with pytest.raises(error):
            attempt()


def test_a_mask_key_that_gives_no_secret_is_refused(tmp_path: Path) -> None:
    """A point of low order: no honest hospital could mask its upload towards it, so no round with it would ever end."""
    sites = MaskedSites(tmp_path)
    full = sites.advert("hospital-1", 2)
    for key in ("00" * 32, "01" + "00" * 31):
        advert = sign(full.advert.model_copy(update={"mask_key": key}), sites.identities["hospital-1"].sign)
        with pytest.raises(MalformedMessage, match="low order"):
            check_advert(
                full.model_copy(update={"advert": advert}),
                "hospital-1",
                plan=sites.plan,
                run=RUN,
                round_number=2,
                epoch=1,
            )
