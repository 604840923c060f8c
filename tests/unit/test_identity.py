"""Keys on the disk: for their owner's eyes, never overwritten; signatures: one key, one message."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from common.errors import BadSignature, KeyFileError
from common.identity import Identity, read_secret, verify, write_secret

# RFC 8032, section 7.1, test 2: secret key, public key, message, signature.
RFC8032 = (
    "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
    "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
    "72",
    (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    ),
)


def test_signatures_are_those_of_rfc_8032(tmp_path: Path) -> None:
    """A test vector from elsewhere, through our own key file."""
    secret, public, message, signature = RFC8032
    write_secret(tmp_path / "key", bytes.fromhex(secret))
    identity = Identity.load(tmp_path / "key")
    assert identity.public_hex == public
    assert identity.sign(bytes.fromhex(message)).hex() == signature
    verify(public, bytes.fromhex(signature), bytes.fromhex(message))


def test_any_other_key_message_or_signature_is_refused() -> None:
    """Each part is bound to the others."""
    identity, other = Identity.generate(), Identity.generate()
    signature = identity.sign(b"message")
    verify(identity.public_hex, signature, b"message")
    wrong = [
        (other.public_hex, signature, b"message"),
        (identity.public_hex, other.sign(b"message"), b"message"),
        (identity.public_hex, signature, b"messagf"),
        (identity.public_hex, signature[:-1], b"message"),
        (identity.public_hex, b"", b"message"),
        ("00" * 32, signature, b"message"),
        ("zz" * 32, signature, b"message"),
        ("ab", signature, b"message"),
    ]
    for public_hex, forged, message in wrong:
        with pytest.raises(BadSignature):
            verify(public_hex, forged, message)
    for bit in range(8 * len(signature)):
        flipped = bytearray(signature)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadSignature):
            verify(identity.public_hex, bytes(flipped), b"message")


def test_a_key_file_is_its_owners_alone(tmp_path: Path) -> None:
    """Whatever the umask says; and it comes back as the same key."""
    old_mask = os.umask(0)
    try:
        identity = Identity.generate()
        identity.save(tmp_path / "key")
    finally:
        os.umask(old_mask)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert Identity.load(tmp_path / "key").public_hex == identity.public_hex


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    """Not by a new key, and not through a link that somebody has laid."""
    identity = Identity.generate()
    identity.save(tmp_path / "key")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for name in ("key", "link"):
        with pytest.raises(KeyFileError, match="never overwritten"):
            Identity.generate().save(tmp_path / name)
    assert Identity.load(tmp_path / "key").public_hex == identity.public_hex
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o610, 0o644, 0o660, 0o777])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    """The sentence has the mode, the allowed one and the remedy."""
    write_secret(tmp_path / "key", bytes(32))
    (tmp_path / "key").chmod(mode)
    with pytest.raises(KeyFileError, match=f"mode is {mode:04o}, 0600 is allowed; run chmod 600"):
        Identity.load(tmp_path / "key")
    (tmp_path / "key").chmod(0o400)
    assert Identity.load(tmp_path / "key")


def test_a_file_that_is_no_key_is_refused(tmp_path: Path) -> None:
    """Missing, a folder, too short, too long."""
    for name, content in (("short", bytes(31)), ("long", bytes(33)), ("empty", b"")):
        write_secret(tmp_path / name, content)
        with pytest.raises(KeyFileError, match=f"holds {len(content)} bytes, a key has 32"):
            Identity.load(tmp_path / name)
    (tmp_path / "folder").mkdir()
    for name in ("missing", "folder"):
        with pytest.raises(KeyFileError, match="cannot be read"):
            Identity.load(tmp_path / name)
    assert read_secret(tmp_path / "short") == bytes(31)


def test_an_identity_shows_nothing_of_its_key(tmp_path: Path) -> None:
    """Texts of objects end in logs."""
    identity = Identity.generate()
    identity.save(tmp_path / "key")
    secret = (tmp_path / "key").read_bytes()
    for text in (repr(identity), str(identity), repr(vars(identity))):
        assert secret.hex() not in text
        assert repr(secret)[2:-1] not in text
