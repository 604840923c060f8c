"""Messages of the key ceremony: the dealer's boxes, and each hospital's confirmation of the key that it opened.

They are bound to plan and epoch, not to a run: a hospital that comes later gets the same bytes. The coordinator carries
them and can open none. Each is canonical JSON with the signature of its hospital over the other fields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Literal, TypeVar

from pydantic import Field, StringConstraints

from common.canonical import canonical_bytes, sha256_hex
from common.card import HospitalName
from common.errors import BadSignature, MalformedMessage
from common.identity import verify
from common.wire import Counter, Hex64, Signature, Wire, parse_header

# A deal to sixty hospitals takes 80 KiB; a document is parsed before its signature can be checked.
MAX_DOCUMENT_BYTES = 128 << 10
# A CKKS key takes 1 KiB at N = 2048, and HPKE adds 48 bytes.
Box = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{98,8192}$")]
_UNSIGNED = "0" * 128


class Deal(Wire):
    """The epoch's CKKS key, sealed to each hospital of the roster."""

    kind: Literal["deal"] = "deal"
    plan: Hex64
    epoch: Counter
    hospital: HospitalName = Field(description="the dealer")
    boxes: dict[HospitalName, Box] = Field(min_length=3, max_length=1000)
    signature: Signature = _UNSIGNED


class Confirmation(Wire):
    """What a hospital says of the key that it opened."""

    kind: Literal["confirmation"] = "confirmation"
    plan: Hex64
    epoch: Counter
    hospital: HospitalName
    key: Hex64 = Field(description="digest of the key; the key has 2048 random coefficients, so it tells nothing")
    signature: Signature = _UNSIGNED


class Confirmations(Wire):
    """What the coordinator forwards: the hospitals check it, it checks nothing."""

    confirmations: tuple[Confirmation, ...] = Field(max_length=1000, strict=False)


Document = TypeVar("Document", Deal, Confirmation, Confirmations)
Signed = TypeVar("Signed", Deal, Confirmation)


def dealer_of(plan_digest: str, hospitals: tuple[str, ...], *, epoch: int) -> str:
    """Who makes an epoch's key; it changes with the epoch.

    Args:
        plan_digest: Digest of the plan, which names the roster.
        hospitals: Names of the roster.
        epoch: Number of the key.
    """
    place = (bytes.fromhex(plan_digest), epoch.to_bytes(8, "big"))
    return min(hospitals, key=lambda name: sha256_hex(b"fedward/dealer/2", *place, name.encode()))


def key_digest(canonical_key: bytes, *, plan_digest: str, epoch: int) -> str:
    """What hospitals compare to know that they hold one key, hex."""
    return sha256_hex(b"fedward/epoch-key/1", bytes.fromhex(plan_digest), epoch.to_bytes(8, "big"), canonical_key)


def box_purpose(*, plan_digest: str, epoch: int, dealer: str, to: str) -> bytes:
    """HPKE `info` of one box: a box of another plan, epoch, dealer or recipient does not open."""
    return canonical_bytes(["fedward/epoch-key-box/1", plan_digest, epoch, dealer, to])


def sign_document(document: Signed, sign: Callable[[bytes], bytes]) -> Signed:
    """The document with its hospital's signature."""
    return document.model_copy(update={"signature": sign(_signed_bytes(document)).hex()})


def check_document(document: Deal | Confirmation, identities: Mapping[str, str]) -> None:
    """Verify a document's signature.

    Args:
        document: From the network.
        identities: Public key, hex, of each hospital in the roster.

    Raises:
        BadSignature: If it names a stranger, or the named hospital did not sign it.
    """
    public_hex = identities.get(document.hospital)
    if public_hex is None:
        raise BadSignature(f"a {document.kind} names a hospital that is not in the roster; refuse it")
    verify(public_hex, bytes.fromhex(document.signature), _signed_bytes(document))


def encode_document(document: Deal | Confirmation | Confirmations) -> bytes:
    """Bytes for the wire."""
    return canonical_bytes(document.model_dump(mode="json"))


def decode_document(data: bytes, model: type[Document]) -> Document:
    """Parse bytes from the network; the signature is checked apart.

    Raises:
        MalformedMessage: If they are too long, no such document, or not its one canonical form.
    """
    if len(data) > MAX_DOCUMENT_BYTES:
        raise MalformedMessage(f"a {model.__name__.lower()} of {len(data)} bytes; {MAX_DOCUMENT_BYTES} are allowed")
    # Keys and hex strings: honest documents have one field in 60 bytes.
    return parse_header(data, model, least_bytes_per_field=24)


def _signed_bytes(document: Deal | Confirmation) -> bytes:
    return b"fedward/key-message/1" + canonical_bytes(document.model_dump(mode="json", exclude={"signature"}))
