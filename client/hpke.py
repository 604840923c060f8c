"""Sealing a secret to one hospital's box key: HPKE (RFC 9180), X25519, HKDF-SHA256, AES-256-GCM."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from common.errors import CeremonyError, ConfigError

ENCAPSULATED_BYTES = 32


def box_public_hex(box_secret: bytes) -> str:
    """Public key of a box secret (32 random bytes), hex."""
    return X25519PrivateKey.from_private_bytes(box_secret).public_key().public_bytes_raw().hex()


def seal(secret: bytes, *, to: str, info: bytes) -> bytes:
    """Seal `secret` so that only the owner of one box key reads it.

    Args:
        secret: What to seal.
        to: The recipient's box key, hex.
        info: What the secret is for; the recipient must name the same.

    Raises:
        ConfigError: If `to` is no X25519 key.
    """
    # A site needs it once in a plan's life; until then it takes no memory.
    from Crypto.Protocol import HPKE  # noqa: PLC0415
    from Crypto.Protocol.DH import import_x25519_public_key  # noqa: PLC0415

    try:
        context = HPKE.new(
            receiver_key=import_x25519_public_key(bytes.fromhex(to)), aead_id=HPKE.AEAD.AES256_GCM, info=info
        )
    except ValueError as error:
        raise ConfigError(f"the box key {to[:16]}… is no X25519 key; ask its hospital for a new card") from error
    return bytes(context.enc) + bytes(context.seal(secret))


def unseal(sealed: bytes, *, box_secret: bytes, info: bytes) -> bytes:
    """Open what `seal` made for this hospital; the inverse of `seal` under the same `info`.

    Raises:
        CeremonyError: If it was sealed to another key, for another purpose, or was changed.
    """
    from Crypto.Protocol import HPKE  # noqa: PLC0415
    from Crypto.Protocol.DH import import_x25519_private_key  # noqa: PLC0415

    try:
        context = HPKE.new(
            receiver_key=import_x25519_private_key(box_secret),
            aead_id=HPKE.AEAD.AES256_GCM,
            enc=sealed[:ENCAPSULATED_BYTES],
            info=info,
        )
        return bytes(context.unseal(sealed[ENCAPSULATED_BYTES:]))
    except ValueError as error:
        raise CeremonyError("a box does not open with this hospital's box key; refuse what the dealer sent") from error
