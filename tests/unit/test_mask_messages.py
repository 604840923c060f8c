"""Adverts, sealed shares and reveals: what was signed is what is taken, and anything else is a named refusal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import BadSignature, MalformedMessage
from common.identity import Identity
from common.mask_messages import (
    MAX_DOCUMENT_BYTES,
    Advert,
    DeliveredAdvert,
    FullAdvert,
    Reveal,
    SealedShares,
    commitment_of,
    decode_document,
    encode_document,
    identity_of,
    opening_digest,
    share_digest,
    shares_root,
    sign,
)
from common.transcript import merkle_path, merkle_root, root_of_path
from common.wire import header_bytes
from tests.support.masked_sites import MaskedSites
from tests.support.replies import NAMES, RUN

HOSPITAL, STRANGER = Identity.generate(), Identity.generate()
PARTIES = 5


def sealed(number: int) -> SealedShares:
    """Sealed shares that nobody opens here."""
    digest = hashlib.sha256(bytes([number])).hexdigest()
    return SealedShares(seed=digest, key=digest[::-1], box=(digest * 3)[: 2 * 92])


SHARES = tuple(sealed(number) for number in range(PARTIES))


def unsigned_advert(**changes: object) -> Advert:
    """What hospital-1 announces for round 2."""
    digest = "8" * 64
    fields: dict[str, object] = {
        "run": RUN,
        "plan": "1" * 64,
        "epoch": 1,
        "round": 2,
        "hospital": "hospital-1",
        "mask_key": digest,
        "commitment": digest,
        "shares_root": shares_root(SHARES),
    }
    return Advert.model_validate(fields | changes)


FULL = FullAdvert(advert=sign(unsigned_advert(), HOSPITAL.sign), shares=SHARES)


def unsigned_reveal(**changes: object) -> Reveal:
    """What hospital-1 gives in round 2."""
    fields: dict[str, object] = {
        "run": RUN,
        "plan": "1" * 64,
        "epoch": 1,
        "round": 2,
        "attempt": 0,
        "hospital": "hospital-1",
        "survivors": "3" * 64,
        "shares": ("4" * 64, "", "5" * 64),
        "next": None,
    }
    return Reveal.model_validate(fields | changes)


REVEAL = sign(unsigned_reveal(next=FULL), HOSPITAL.sign)


@pytest.mark.parametrize(
    "changes",
    [
        {"run": "a" * 32},
        {"plan": "2" * 64},
        {"epoch": 2},
        {"round": 3},
        {"hospital": "hospital-2"},
        {"mask_key": "9" * 64},
        {"commitment": "9" * 64},
        {"shares_root": "9" * 64},
    ],
    ids=str,
)
def test_an_advert_is_signed_in_every_field(changes: dict[str, object]) -> None:
    """Its key, its commitment, its shares, and the round that they are for; unchanged it is taken."""
    FULL.advert.check(HOSPITAL.public_hex)
    with pytest.raises(BadSignature):
        FULL.advert.model_copy(update=changes).check(HOSPITAL.public_hex)
    with pytest.raises(BadSignature):
        FULL.advert.check(STRANGER.public_hex)


@pytest.mark.parametrize(
    "changes",
    [
        {"run": "a" * 32},
        {"plan": "2" * 64},
        {"epoch": 2},
        {"round": 3},
        {"attempt": 1},
        {"hospital": "hospital-2"},
        {"survivors": "9" * 64},
        {"shares": ("4" * 64, "5" * 64, "")},
        {"shares": ("4" * 64, "")},
        {"next": None},
    ],
    ids=str,
)
def test_a_reveal_is_signed_in_every_field(changes: dict[str, object]) -> None:
    """Whose sum it opens, with which shares, and what is announced with it; unchanged it is taken."""
    REVEAL.check(HOSPITAL.public_hex)
    with pytest.raises(BadSignature):
        REVEAL.model_copy(update=changes).check(HOSPITAL.public_hex)
    with pytest.raises(BadSignature):
        REVEAL.check(STRANGER.public_hex)


def test_an_unsigned_message_is_nobodys() -> None:
    """The placeholder is no signature."""
    with pytest.raises(BadSignature):
        unsigned_advert().check(HOSPITAL.public_hex)
    with pytest.raises(BadSignature):
        unsigned_reveal().check(HOSPITAL.public_hex)


def test_an_adverts_signature_signs_no_reveal() -> None:
    """The kind of a message is under its signature."""
    signature = FULL.advert.signature
    with pytest.raises(BadSignature):
        unsigned_reveal().model_copy(update={"signature": signature}).check(HOSPITAL.public_hex)
    with pytest.raises(BadSignature):
        FULL.advert.model_copy(update={"signature": REVEAL.signature}).check(HOSPITAL.public_hex)


def test_only_names_of_the_roster_have_a_key() -> None:
    """A stranger's message is refused before it is looked into."""
    assert identity_of("hospital-1", {"hospital-1": HOSPITAL.public_hex}) == HOSPITAL.public_hex
    with pytest.raises(BadSignature, match="not in the roster"):
        identity_of("hospital-9", {"hospital-1": HOSPITAL.public_hex})


def test_the_coordinator_takes_only_the_shares_that_were_signed() -> None:
    """One per hospital of the roster, in its order."""
    FULL.check(HOSPITAL.public_hex, hospitals=PARTIES)
    swapped = (SHARES[1], SHARES[0], *SHARES[2:])
    changed = (*SHARES[:4], SHARES[4].model_copy(update={"box": "0" * 184}))
    for shares in (swapped, changed, SHARES[:4], (*SHARES, sealed(9))):
        with pytest.raises(MalformedMessage, match="not those it signed"):
            FullAdvert(advert=FULL.advert, shares=shares).check(HOSPITAL.public_hex, hospitals=PARTIES)
    for hospitals in (PARTIES - 1, PARTIES + 1):
        with pytest.raises(MalformedMessage, match="not those it signed"):
            FULL.check(HOSPITAL.public_hex, hospitals=hospitals)
    # Control: under its own signature another order is another advert.
    other = sign(unsigned_advert(shares_root=shares_root(swapped)), HOSPITAL.sign)
    FullAdvert(advert=other, shares=swapped).check(HOSPITAL.public_hex, hospitals=PARTIES)


@pytest.mark.parametrize("position", range(PARTIES))
def test_each_hospital_takes_its_own_shares_and_no_others(position: int) -> None:
    """The coordinator cannot hand it what was sealed for another, nor anything of its own making."""
    one = FULL.delivered_to(position)
    assert one.shares == SHARES[position]
    one.check(HOSPITAL.public_hex, position=position, hospitals=PARTIES)
    for other in set(range(PARTIES)) - {position}:
        stranger = FULL.delivered_to(other)
        forgeries = [
            stranger,
            one.model_copy(update={"shares": SHARES[other]}),
            one.model_copy(update={"path": stranger.path}),
        ]
        for forgery in forgeries:
            with pytest.raises(MalformedMessage):
                forgery.check(HOSPITAL.public_hex, position=position, hospitals=PARTIES)
    for field in ("seed", "key"):
        changed = one.shares.model_copy(update={field: "0" * 64})
        with pytest.raises(MalformedMessage, match="not those it signed"):
            one.model_copy(update={"shares": changed}).check(HOSPITAL.public_hex, position=position, hospitals=PARTIES)
    with pytest.raises(BadSignature):
        one.check(STRANGER.public_hex, position=position, hospitals=PARTIES)


def test_a_path_of_another_length_is_refused() -> None:
    """A longer tree could hide other leaves in its inner nodes."""
    one = FULL.delivered_to(0)
    cases = (((), "too short"), (one.path[:-1], "too short"), ((*one.path, "0" * 64), "too long"))
    for path, what in cases:
        with pytest.raises(MalformedMessage, match=what):
            one.model_copy(update={"path": path}).check(HOSPITAL.public_hex, position=0, hospitals=PARTIES)


@given(st.integers(1, 60), st.data())
def test_a_path_leads_to_the_root_from_its_own_place_only(leaves: int, data: st.DataObject) -> None:
    """For every size of a roster. The root is the one that is compared with RFC 6962 in test_transcript."""
    pieces = [hashlib.sha256(bytes([number])).digest() for number in range(leaves)]
    body, index = b"".join(pieces), data.draw(st.integers(0, leaves - 1))
    root, path = merkle_root(body, leaves), merkle_path(body, leaves, index)
    assert root_of_path(pieces[index], index=index, pieces=leaves, path=path) == root
    assert len(path) <= 6
    changed = bytes([pieces[index][0] ^ data.draw(st.integers(1, 255))]) + pieces[index][1:]
    assert root_of_path(changed, index=index, pieces=leaves, path=path) != root
    if path:
        at = data.draw(st.integers(0, len(path) - 1))
        other = (*path[:at], hashlib.sha256(path[at].encode()).hexdigest(), *path[at + 1 :])
        assert root_of_path(pieces[index], index=index, pieces=leaves, path=other) != root
    for elsewhere in set(range(leaves)) - {index}:
        try:
            found = root_of_path(pieces[index], index=elsewhere, pieces=leaves, path=path)
        except MalformedMessage:
            continue
        assert found != root
    for wrong in (path[:-1], (*path, root)):
        if wrong != path:
            with pytest.raises(MalformedMessage, match="a Merkle path is too"):
                root_of_path(pieces[index], index=index, pieces=leaves, path=wrong)


def test_the_openings_digest_rests_on_every_byte_of_every_advert() -> None:
    """Also on the boxes, which hospitals do not see of each other, through the root over them; and on the order."""
    adverts = [sign(unsigned_advert(hospital=f"hospital-{k}"), HOSPITAL.sign) for k in range(1, 4)]
    digests = {opening_digest(adverts), opening_digest(adverts[:2]), opening_digest(adverts[::-1]), opening_digest([])}
    for field, value in adverts[1].model_dump().items():
        changed = value + 1 if isinstance(value, int) else f"{value[:-1]}{'0' if value[-1] != '0' else '1'}"
        digests.add(opening_digest([adverts[0], adverts[1].model_copy(update={field: changed}), adverts[2]]))
    assert len(digests) == 4 + len(Advert.model_fields)
    for position in range(PARTIES):
        box = SHARES[position].box
        rebuilt = SHARES[position].model_copy(update={"box": f"{box[:-1]}{'0' if box[-1] != '0' else '1'}"})
        root = shares_root((*SHARES[:position], rebuilt, *SHARES[position + 1 :]))
        digests.add(opening_digest([adverts[0], adverts[1].model_copy(update={"shares_root": root}), adverts[2]]))
    assert len(digests) == 4 + len(Advert.model_fields) + PARTIES


def test_share_digests_name_what_whose_and_for_whom() -> None:
    """A share of one secret is not taken for one of another; by hand over the parts and their lengths."""
    share = bytes(range(32))
    parts = [b"fedward/share/1", b"seed", b"hospital-1", b"hospital-2", share]
    by_hand = hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).hexdigest()
    assert share_digest(share, of="seed", dealer="hospital-1", recipient="hospital-2") == by_hand
    others = {
        share_digest(share, of="key", dealer="hospital-1", recipient="hospital-2"),
        share_digest(share, of="seed", dealer="hospital-2", recipient="hospital-1"),
        share_digest(share, of="seed", dealer="hospital-1", recipient="hospital-3"),
        share_digest(share[::-1], of="seed", dealer="hospital-1", recipient="hospital-2"),
        commitment_of(share),
    }
    assert len(others | {by_hand}) == 6


def test_documents_come_back_as_they_were_sent(tmp_path: Path) -> None:
    """A real hospital's advert, and a reveal with and without one."""
    full = MaskedSites(tmp_path).advert("hospital-3", 1)
    assert decode_document(encode_document(full), FullAdvert) == full
    for following in (None, full):
        reveal = sign(unsigned_reveal(next=following), HOSPITAL.sign)
        assert decode_document(encode_document(reveal), Reveal) == reveal


def test_a_repeated_request_gets_the_same_advert(tmp_path: Path) -> None:
    """Two adverts of one round would give two sets of masks for one update; other rounds get other secrets."""
    sites = MaskedSites(tmp_path)
    first = sites.advert("hospital-1", 1)
    assert encode_document(sites.advert("hospital-1", 1)) == encode_document(first)
    other = sites.advert("hospital-1", 2)
    assert {other.advert.mask_key, other.advert.commitment}.isdisjoint({first.advert.mask_key, first.advert.commitment})
    full, position = first, NAMES.index("hospital-2")
    full.check(sites.identities["hospital-1"].public_hex, hospitals=len(NAMES))
    one = DeliveredAdvert.model_validate_json(header_bytes(full.delivered_to(position)))
    one.check(sites.identities["hospital-1"].public_hex, position=position, hospitals=len(NAMES))


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a space behind": lambda data: data + b" ",
    "a space before": lambda data: b" " + data,
    "spaces inside": lambda data: json.dumps(json.loads(data)).encode(),
    "cut short": lambda data: data[:-1],
    "nothing": lambda _: b"",
    "no object": lambda _: b"null",
    "a field more": lambda data: data[:-1] + b',"zzz":1}',
    "a field twice": lambda data: b'{"attempt":0,' + data[1:],
    "escaped": lambda data: data.replace(b"hospital-1", b"hospital\\u002d1"),
    "upper case": lambda data: data.replace(b'"run":"' + RUN.encode(), b'"run":"' + b"A" * 32),
    "a number as text": lambda data: data.replace(b'"epoch":1', b'"epoch":"1"'),
    "too large": lambda data: data + b" " * MAX_DOCUMENT_BYTES,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    ("data", "decode"),
    [
        (encode_document(FULL), lambda data: decode_document(data, FullAdvert)),
        (encode_document(REVEAL), lambda data: decode_document(data, Reveal)),
    ],
    ids=["advert", "reveal"],
)
def test_only_the_canonical_form_is_taken(data: bytes, decode: Callable[[bytes], object], damage: str) -> None:
    """One value has one encoding, so that a digest of the value is one of the bytes."""
    made = DAMAGES[damage](data)
    assert made != data
    with pytest.raises(MalformedMessage):
        decode(made)
    assert decode(data) in (FULL, REVEAL)


def test_a_reveal_is_no_advert() -> None:
    """Each is asked for apart."""
    with pytest.raises(MalformedMessage):
        decode_document(encode_document(REVEAL), FullAdvert)
    with pytest.raises(MalformedMessage):
        decode_document(encode_document(FULL), Reveal)
