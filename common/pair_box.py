"""What two hospitals share by X25519, and the boxes in which one sends the other its shares through the coordinator.

A box is `nonce (12) | AES-256-GCM`; its key is HKDF-SHA256 of the pair's secret over run, epoch, round, sender and
recipient, and the same fields are authenticated, so that a box opens for one recipient, in one round, as one sender's.
"""

from __future__ import annotations

import re
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from common.canonical import canonical_bytes
from common.errors import BadBox, LocalProtocolError, MalformedMessage

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
_LABEL = "fedward/box/1"
_PUBLIC_HEX = re.compile(r"[0-9a-f]{64}")


def public_hex(private: bytes) -> str:
    """X25519 public key of a private one of 32 bytes, 64 hex digits.

    Raises:
        LocalProtocolError: If the private key has another length.
    """
    return _private_key(private).public_key().public_bytes_raw().hex()


def pair_secret(private: bytes, peer_public_hex: str) -> bytes:
    """What X25519 gives this hospital and a peer, from their box keys (per epoch) or mask keys (per round).

    Args:
        private: Our private key, 32 bytes.
        peer_public_hex: The peer's public key, 64 lower-case hex digits.

    Returns:
        32 bytes, the same for both; only ever the input of HKDF.

    Raises:
        MalformedMessage: If the peer's key is no X25519 key, or a point of low order: what it gives, anybody knows.
        LocalProtocolError: If the private key has another length.
    """
    own = _private_key(private)
    if not _PUBLIC_HEX.fullmatch(peer_public_hex):
        raise MalformedMessage("a peer's key that is no X25519 key; 64 lower-case hex digits are allowed")
    try:
        return own.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(peer_public_hex)))
    except ValueError as error:
        raise MalformedMessage(
            f"the key {peer_public_hex[:16]}… is a point of low order; a secret with it would be no secret, refuse it"
        ) from error


def seal_share(  # noqa: PLR0913 -- every field that a box is bound to
    plaintext: bytes, *, shared: bytes, run: str, epoch: int, round_number: int, sender: str, recipient: str
) -> bytes:
    """Seal shares so that one hospital opens them, in one round.

    Args:
        plaintext: The shares.
        shared: `pair_secret` of the two box keys.
        run: Name of the run.
        epoch: Key epoch.
        round_number: The round.
        sender: The hospital that deals.
        recipient: The hospital that opens.

    Returns:
        `plaintext` and 28 bytes more.

    Raises:
        LocalProtocolError: If the pair's secret has another length than 32 bytes.
    """
    info = _info(run=run, epoch=epoch, round_number=round_number, sender=sender, recipient=recipient)
    nonce = secrets.token_bytes(NONCE_BYTES)
    return nonce + _box_cipher(shared, info).encrypt(nonce, plaintext, info)


def open_share(  # noqa: PLR0913 -- every field that a box is bound to
    box: bytes, *, shared: bytes, run: str, epoch: int, round_number: int, sender: str, recipient: str
) -> bytes:
    """Open what `seal_share` made, under the same fields; its inverse.

    Raises:
        BadBox: If it was sealed with another key or for another purpose, or was changed or cut; names the dealer.
        LocalProtocolError: If the pair's secret has another length than 32 bytes.
    """
    info = _info(run=run, epoch=epoch, round_number=round_number, sender=sender, recipient=recipient)
    try:
        return _box_cipher(shared, info).decrypt(box[:NONCE_BYTES], box[NONCE_BYTES:], info)
    except (InvalidTag, ValueError) as error:
        raise BadBox(
            f"the box from {sender} to {recipient} for round {round_number} of epoch {epoch} does not open; only what "
            "the two sealed for this round does; its shares cannot be revealed"
        ) from error


def _private_key(private: bytes) -> X25519PrivateKey:
    if len(private) != KEY_BYTES:
        raise LocalProtocolError(f"an X25519 private key of {len(private)} bytes; it must have {KEY_BYTES}")
    return X25519PrivateKey.from_private_bytes(private)


def _box_cipher(shared: bytes, info: bytes) -> AESGCM:
    if len(shared) != KEY_BYTES:
        raise LocalProtocolError(f"a pair's secret of {len(shared)} bytes; it must have {KEY_BYTES}")
    return AESGCM(HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(shared))


def _info(*, run: str, epoch: int, round_number: int, sender: str, recipient: str) -> bytes:
    return canonical_bytes([_LABEL, run, epoch, round_number, sender, recipient])
