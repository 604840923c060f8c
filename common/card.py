"""A hospital's card: its public keys and declared size, signed by itself; the rows of the roster are such cards."""

from __future__ import annotations

import functools
from typing import Annotated

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from pydantic import Field, StringConstraints

from common.canonical import canonical_bytes, sha256_hex
from common.config import Settings
from common.errors import BadSignature, ConfigError
from common.identity import Identity, verify

HOSPITAL_NAME = r"^[a-z0-9][a-z0-9-]{0,62}$"
HospitalName = Annotated[str, StringConstraints(pattern=HOSPITAL_NAME)]
PublicKeyHex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
SignatureHex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{128}$")]
NodeKey = Annotated[str, StringConstraints(pattern=r"^ecdsa-sha2-nistp384 [A-Za-z0-9+/]+={0,2}$", max_length=300)]

MOST_UNITS = 10**9
_SIGNED = frozenset({"name", "identity", "box", "node", "declared_units"})


class Card(Settings):
    """What a hospital makes at home and sends to the organiser: public, and useless to anybody else."""

    name: HospitalName = Field(description="the hospital's name in messages, tables and logs")
    identity: PublicKeyHex = Field(description="Ed25519 public key that signs for the hospital, hex")
    box: PublicKeyHex = Field(description="X25519 public key to which peers seal secrets, hex")
    node: NodeKey = Field(description="EC P-384 public key of its gateway, OpenSSH form")
    declared_units: int = Field(
        ge=1, le=MOST_UNITS, description="training units that the hospital declares; its weight"
    )
    signature: SignatureHex = Field(description="Ed25519 signature of the other fields by `identity`, hex")

    def check(self) -> None:
        """Verify that the hospital itself signed the card, and that its keys can be used as what they are.

        Raises:
            ConfigError: If it did not, or they cannot; names the hospital.
        """
        try:
            verify(self.identity, bytes.fromhex(self.signature), _signed_bytes(self))
        except BadSignature as error:
            raise ConfigError(
                f"{self.name}: its row was not signed by the hospital itself, or was changed since; ask the hospital "
                "for the card that `fedward-client keygen` wrote"
            ) from error
        for field, wanted, sound in (
            ("box", "an X25519 public key, and no point of low order", _is_box(self.box)),
            ("node", "an EC P-384 public key in OpenSSH form", _is_node_key(self.node)),
        ):
            if not sound:
                raise ConfigError(
                    f"{self.name}: {field}: seen no key that can be used; {wanted}, is allowed; ask the hospital for "
                    "the card that `fedward-client keygen` wrote"
                )

    @property
    def fingerprint(self) -> str:
        """What two people compare over the telephone: 160 bits of SHA-256 over all public keys, in groups of four."""
        digest = sha256_hex(b"fedward/fingerprint/1", self.identity.encode(), self.box.encode(), self.node.encode())
        return "-".join(digest[at : at + 4] for at in range(0, 40, 4))


# A roster is read many times, each time with the same few keys.
@functools.lru_cache(maxsize=4096)
def _is_box(public_hex: str) -> bool:
    try:
        # Of a point of low order every exchange is zero, which the library refuses: peers would seal to everybody.
        X25519PrivateKey.from_private_bytes(bytes(32)).exchange(
            X25519PublicKey.from_public_bytes(bytes.fromhex(public_hex))
        )
    except ValueError:
        return False
    return True


@functools.lru_cache(maxsize=4096)
def _is_node_key(text: str) -> bool:
    try:
        key = serialization.load_ssh_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        return False
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1)


def sign_card(identity: Identity, *, name: str, box: str, node: str, declared_units: int) -> Card:
    """Make a hospital's card.

    Args:
        identity: The hospital's own.
        name: As it shall stand in the roster.
        box: X25519 public key, hex.
        node: EC P-384 public key, OpenSSH form without a comment.
        declared_units: Training units.
    """
    unsigned = Card(
        name=name,
        identity=identity.public_hex,
        box=box,
        node=node,
        declared_units=declared_units,
        signature="0" * 128,
    )
    return unsigned.model_copy(update={"signature": identity.sign(_signed_bytes(unsigned)).hex()})


def _signed_bytes(card: Card) -> bytes:
    return b"fedward/card/1" + canonical_bytes(card.model_dump(mode="json", include=set(_SIGNED)))
