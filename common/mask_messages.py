"""Messages of the masks: what each hospital announces before a round, and what it reveals after the uploads.

References: Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning", CCS 2017.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, TypeVar

from pydantic import Field, StringConstraints

from common.canonical import canonical_bytes, sha256_hex
from common.card import HospitalName
from common.errors import BadSignature, MalformedMessage
from common.freshness_messages import FreshnessAnswers
from common.identity import verify
from common.transcript import merkle_path, merkle_root, root_of_path
from common.wire import Counter, Hex32, Hex64, OptionalHex64, Signature, Wire, header_bytes, parse_header

SHARE_BYTES = 32
BOX_BYTES = 12 + 2 * SHARE_BYTES + 16
"""Of both shares: nonce, ciphertext, tag."""

# Sixty hospitals, the most there are, take 27 KiB, and 265 KiB if all were started at once and have seen each other
# before; a document is parsed before its signature can be checked.
MAX_DOCUMENT_BYTES = 320 << 10
_UNSIGNED = "0" * 128
_MOST_HOSPITALS = 1000


class Advert(Wire):
    """What a hospital commits itself to for one round; all hospitals see it."""

    run: Hex32
    plan: Hex64
    epoch: Counter
    round: Counter
    hospital: HospitalName
    mask_key: Hex64 = Field(description="X25519 public key of the pairwise masks")
    commitment: Hex64 = Field(description="digest of the self-mask seed")
    shares_root: Hex64 = Field(description="Merkle root over the sealed shares in roster order")
    signature: Signature = _UNSIGNED

    def check(self, public_hex: str) -> None:
        """Verify under the roster's key; raises BadSignature."""
        verify(public_hex, bytes.fromhex(self.signature), _signed(self))


class SealedShares(Wire):
    """One recipient's Shamir shares of the self-mask seed and of the mask key."""

    seed: Hex64 = Field(description="digest of the seed's share")
    key: Hex64 = Field(description="digest of the mask key's share")
    box: Annotated[str, StringConstraints(pattern=rf"^[0-9a-f]{{{2 * BOX_BYTES}}}$")]


class FullAdvert(Wire):
    """What a hospital sends to the coordinator: its advert and the sealed shares of all hospitals, in roster order."""

    advert: Advert
    shares: tuple[SealedShares, ...] = Field(min_length=3, max_length=_MOST_HOSPITALS, strict=False)
    answers: FreshnessAnswers = Field(default=(), description="to the nonces in the request; no part of the advert")

    def check(self, public_hex: str, *, hospitals: int) -> None:
        """Verify the signature, and that the shares are the signed ones.

        Raises:
            BadSignature: If the hospital did not sign the advert.
            MalformedMessage: If the shares are not those of its root, or not one for each hospital.
        """
        self.advert.check(public_hex)
        if len(self.shares) != hospitals or shares_root(self.shares) != self.advert.shares_root:
            raise MalformedMessage(f"the sealed shares of {self.advert.hospital} are not those it signed; refuse them")

    def delivered_to(self, position: int) -> DeliveredAdvert:
        """What the hospital at this place of the roster gets of it."""
        path = merkle_path(_leaves(self.shares), len(self.shares), position)
        return DeliveredAdvert(advert=self.advert, shares=self.shares[position], path=path)


class DeliveredAdvert(Wire):
    """An advert as one hospital gets it: with its own sealed shares, and the proof that they are the signed ones."""

    advert: Advert
    shares: SealedShares
    path: tuple[Hex64, ...] = Field(max_length=16, strict=False)

    def check(self, public_hex: str, *, position: int, hospitals: int) -> None:
        """Verify the signature, and that the shares are those of the hospital at `position`.

        Raises:
            BadSignature: If the hospital did not sign the advert.
            MalformedMessage: If the shares are not those of its root.
        """
        self.advert.check(public_hex)
        root = root_of_path(header_bytes(self.shares), index=position, pieces=hospitals, path=self.path)
        if root != self.advert.shares_root:
            raise MalformedMessage(f"the sealed shares of {self.advert.hospital} are not those it signed; refuse them")


class Reveal(Wire):
    """A hospital's answer to `unmask`: one share per hospital of the opening, and its advert for the next round."""

    run: Hex32
    plan: Hex64
    epoch: Counter
    round: Counter
    attempt: Counter
    hospital: HospitalName
    survivors: Hex64 = Field(description="digest of the survivors' signed manifests")
    shares: tuple[OptionalHex64, ...] = Field(
        max_length=_MOST_HOSPITALS,
        strict=False,
        description="in the opening's order: of a survivor the seed's share, of another the mask key's; empty: none",
    )
    next: FullAdvert | None
    answers: FreshnessAnswers = Field(default=(), description="to the nonces in the request")
    nonce: OptionalHex64 = Field(default="", description="no share is given before peers have answered it; or empty")
    signature: Signature = _UNSIGNED

    def check(self, public_hex: str) -> None:
        """Verify under the roster's key; raises BadSignature."""
        verify(public_hex, bytes.fromhex(self.signature), _signed(self))


Signable = TypeVar("Signable", Advert, Reveal)
Document = TypeVar("Document", FullAdvert, Reveal)


def sign(message: Signable, signer: Callable[[bytes], bytes]) -> Signable:
    """The message with its hospital's signature."""
    return message.model_copy(update={"signature": signer(_signed(message)).hex()})


def shares_root(shares: Sequence[SealedShares]) -> str:
    """Merkle root over sealed shares in roster order, hex."""
    return merkle_root(_leaves(shares), len(shares))


def commitment_of(seed: bytes) -> str:
    """What a hospital commits itself to its self-mask seed with, hex."""
    return sha256_hex(b"fedward/seed/1", seed)


def share_digest(share: bytes, *, of: str, dealer: str, recipient: str) -> str:
    """What a share is recognised by, hex; it has 256 random bits, so its digest tells nothing.

    Args:
        share: 32 bytes.
        of: What was shared, "seed" or "key".
        dealer: Whose secret it is.
        recipient: Whose share it is.
    """
    return sha256_hex(b"fedward/share/1", of.encode(), dealer.encode(), recipient.encode(), share)


def opening_digest(adverts: Sequence[Advert]) -> str:
    """Digest of the ordered signed adverts that a round opens with, hex: u2_digest of the protocol."""
    return sha256_hex(b"fedward/opening/1", *(header_bytes(advert) for advert in adverts))


def encode_document(document: FullAdvert | Reveal) -> bytes:
    """Bytes for the wire."""
    return header_bytes(document)


def decode_document(data: bytes, model: type[Document]) -> Document:
    """Parse bytes from the network; signatures are checked apart.

    Raises:
        MalformedMessage: If they are too long or no such document.
    """
    if len(data) > MAX_DOCUMENT_BYTES:
        raise MalformedMessage(f"a {model.__name__.lower()} of {len(data)} bytes; {MAX_DOCUMENT_BYTES} are allowed")
    # Keys and hex strings: honest documents have one field in 60 bytes.
    return parse_header(data, model, least_bytes_per_field=24)


def identity_of(hospital: str, identities: Mapping[str, str]) -> str:
    """The roster's key of a hospital; raises BadSignature for a stranger."""
    public_hex = identities.get(hospital)
    if public_hex is None:
        raise BadSignature("a message names a hospital that is not in the roster; refuse it")
    return public_hex


def _leaves(shares: Sequence[SealedShares]) -> bytes:
    # Every field has a fixed length, so the leaves are of one size.
    return b"".join(header_bytes(one) for one in shares)


def _signed(message: Advert | Reveal) -> bytes:
    kind = type(message).__name__.lower().encode()
    return b"fedward/mask-message/1/" + kind + canonical_bytes(message.model_dump(mode="json", exclude={"signature"}))
