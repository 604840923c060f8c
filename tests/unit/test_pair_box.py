"""Boxes between two hospitals: only the recipient opens one, in its round, from its sender."""

from __future__ import annotations

from typing import Any

import pytest
from Crypto.Cipher import AES
from Crypto.Hash import SHA256
from Crypto.Protocol.KDF import HKDF
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from common.errors import BadBox, LocalProtocolError, MalformedMessage
from common.pair_box import NONCE_BYTES, TAG_BYTES, open_share, pair_secret, public_hex, seal_share

ALICE, BOB, EVE = (X25519PrivateKey.generate().private_bytes_raw() for _ in range(3))
SHARED = pair_secret(ALICE, public_hex(BOB))
FIELDS: dict[str, Any] = {
    "shared": SHARED,
    "run": "skin9",
    "epoch": 2,
    "round_number": 7,
    "sender": "hospital-1",
    "recipient": "hospital-2",
}
SHARES = bytes(range(64))
# The points of order 1, 2, 4 and 8 of Curve25519 and its twist, and their other encodings (RFC 7748; D. J. Bernstein).
LOW_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


def test_x25519_matches_rfc_7748() -> None:
    """Section 6.1 of the RFC."""
    alice = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    bob = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    assert public_hex(alice) == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    assert pair_secret(alice, bob).hex() == "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"


def test_both_ends_of_a_pair_agree_and_nobody_else() -> None:
    """The mask that one adds and the other subtracts."""
    assert pair_secret(BOB, public_hex(ALICE)) == SHARED
    assert pair_secret(EVE, public_hex(ALICE)) != SHARED != pair_secret(EVE, public_hex(BOB))


@given(st.binary(max_size=200))
def test_a_box_opens_for_its_recipient(plaintext: bytes) -> None:
    """And is 28 bytes longer than what is in it."""
    box = seal_share(plaintext, **FIELDS)
    assert len(box) == len(plaintext) + NONCE_BYTES + TAG_BYTES
    assert open_share(box, **(FIELDS | {"shared": pair_secret(BOB, public_hex(ALICE))})) == plaintext


def test_another_library_opens_a_box() -> None:
    """Key, nonce and authenticated fields are what the design says."""
    box = seal_share(SHARES, **FIELDS)
    info = b'["fedward/box/1","skin9",2,7,"hospital-1","hospital-2"]'
    key = HKDF(SHARED, 32, b"", SHA256, context=info)
    assert isinstance(key, bytes)
    cipher = AES.new(key, AES.MODE_GCM, nonce=box[:12])
    cipher.update(info)
    assert cipher.decrypt_and_verify(box[12:-16], box[-16:]) == SHARES


@pytest.mark.parametrize(
    "change",
    [
        {"run": "skin8"},
        {"epoch": 3},
        {"round_number": 8},
        {"sender": "hospital-3"},
        {"recipient": "hospital-3"},
        {"sender": "hospital-2", "recipient": "hospital-1"},
        {"shared": pair_secret(EVE, public_hex(ALICE))},
        {"shared": pair_secret(EVE, public_hex(BOB))},
    ],
    ids="-".join,
)
def test_a_box_for_another_purpose_does_not_open(change: dict[str, Any]) -> None:
    """Replayed in another round, reflected to its sender, moved to another pair, or opened by a third hospital."""
    box = seal_share(SHARES, **FIELDS)
    with pytest.raises(BadBox, match="does not open"):
        open_share(box, **(FIELDS | change))
    assert open_share(box, **FIELDS) == SHARES


def test_every_flipped_bit_is_seen() -> None:
    """Nonce, text and tag."""
    box = seal_share(SHARES, **FIELDS)
    for bit in range(8 * len(box)):
        changed = bytearray(box)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadBox):
            open_share(bytes(changed), **FIELDS)


@given(st.binary(max_size=120))
def test_foreign_bytes_are_no_box(box: bytes) -> None:
    """Of any length, none among them."""
    with pytest.raises(BadBox):
        open_share(box, **FIELDS)


def test_a_cut_box_does_not_open() -> None:
    """At every length."""
    box = seal_share(SHARES, **FIELDS)
    for length in range(len(box)):
        with pytest.raises(BadBox):
            open_share(box[:length], **FIELDS)


def test_the_error_names_the_dealer_and_no_key() -> None:
    """It may leave the site."""
    with pytest.raises(BadBox) as caught:
        open_share(bytes(64), **FIELDS)
    assert "hospital-1" in str(caught.value)
    assert SHARED.hex() not in str(caught.value)


def test_two_boxes_of_one_share_differ() -> None:
    """A nonce used twice under one key would give the shares away."""
    boxes = {seal_share(SHARES, **FIELDS) for _ in range(100)}
    assert len({box[:12] for box in boxes}) == 100


@pytest.mark.parametrize("public", LOW_ORDER)
def test_a_key_of_low_order_is_refused(public: str) -> None:
    """With it a peer would fix the secret to zero, and anybody could take the mask away."""
    with pytest.raises(MalformedMessage, match="low order"):
        pair_secret(ALICE, public)
    top_bit_set = public[:-2] + f"{int(public[-2:], 16) | 0x80:02x}"
    with pytest.raises(MalformedMessage, match="low order"):
        pair_secret(ALICE, top_bit_set)


@pytest.mark.parametrize("public", ["", "00" * 31, "09" * 33, "zz" * 32, "AB" * 32, " " + "0" * 63, "09" * 32 + "\n"])
def test_a_key_of_another_form_is_refused(public: str) -> None:
    """One spelling per key, so that what is signed is what is used."""
    with pytest.raises(MalformedMessage, match="hex digits"):
        pair_secret(ALICE, public)


def test_short_keys_of_our_own_are_refused() -> None:
    """They are our mistake, not a peer's."""
    with pytest.raises(LocalProtocolError, match="31 bytes"):
        public_hex(ALICE[:31])
    with pytest.raises(LocalProtocolError, match="31 bytes"):
        pair_secret(ALICE[:31], public_hex(BOB))
    for use in (seal_share, open_share):
        with pytest.raises(LocalProtocolError, match="31 bytes"):
            use(bytes(64), **(FIELDS | {"shared": SHARED[:31]}))
