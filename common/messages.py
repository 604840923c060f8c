"""Messages between coordinator and hospitals: values to bytes and back.

A frame is ``magic (8) | header length (u32) | header | signature (64) | body``; the header is canonical JSON and the
Ed25519 signature is taken over a domain label and the header. A request's header holds the digest of its body, a
manifest the Merkle root, so the signature covers every byte.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from common.canonical import canonical_bytes
from common.card import HospitalName
from common.errors import BadSignature, MalformedMessage
from common.identity import SIGNATURE_BYTES, verify

REQUEST_MAGIC = b"FWREQ/1\n"
REPLY_MAGIC = b"FWREP/1\n"
MAX_REQUEST_HEADER_BYTES = 8 << 20
# A manifest takes about 1 KiB. It is parsed before its signature can be checked, since it names the signer.
MAX_MANIFEST_BYTES = 8 << 10
_MAX_HEADER_BYTES = {REQUEST_MAGIC: MAX_REQUEST_HEADER_BYTES, REPLY_MAGIC: MAX_MANIFEST_BYTES}
_PREFIX = struct.Struct(">8sI")

Hex32 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Hex64 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Signature = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{128}$")]
Counter = Annotated[int, Field(ge=0, lt=2**40)]
Kind = Literal["deal", "open", "confirm", "hello", "train", "eval", "finish"]
KEY_KINDS: tuple[Kind, ...] = ("deal", "open", "confirm")


class Wire(BaseModel):
    """Base of every header: frozen, strict, nothing unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


class Applied(Wire):
    """What a hospital's model state rests on."""

    round: Counter
    root: str = Field(pattern=r"^([0-9a-f]{64})?$", description="digest of that round's aggregate; empty before any")
    chain: Hex64 = Field(description="hash chain over all applied aggregates")


class Manifest(Wire):
    """What a hospital signs about its reply."""

    kind: Kind
    run: Hex32
    plan: Hex64
    epoch: Counter
    round: Counter
    attempt: Counter
    hospital: HospitalName
    role: Literal["contribute", "observe"]
    reason: str = Field(pattern=r"^[A-Za-z]{0,40}$", description="code of the error that made it observe, or empty")
    parameters: Hex64 = Field(description="digest of the CKKS parameters")
    state_tag: Hex64
    applied: Applied
    ledger_sequence: Counter
    ledger_head: Hex64
    chunks: Counter
    root: str = Field(pattern=r"^([0-9a-f]{64})?$", description="Merkle root of the body; empty without one")


class SignedManifest(Wire):
    """A manifest and its hospital's signature, as transcripts carry it."""

    manifest: Manifest
    signature: Signature

    def check(self, public_hex: str) -> None:
        """Verify under the roster's key; raises BadSignature."""
        verify(public_hex, bytes.fromhex(self.signature), _signed_bytes(REPLY_MAGIC, header_bytes(self.manifest)))


class AggregateEntry(Wire):
    """One completed round: whose uploads are in the sum, and how many body bytes it takes."""

    round: Counter
    attempt: Counter
    survivors: tuple[SignedManifest, ...] = Field(min_length=1, max_length=1000, strict=False)
    body_bytes: Counter


class Request(Wire):
    """What the coordinator signs."""

    kind: Kind
    run: Hex32
    plan: Hex64
    epoch: Counter
    round: Counter
    attempt: Counter
    hospital: HospitalName = Field(description="recipient")
    aggregates: tuple[AggregateEntry, ...] = Field(max_length=10_000, strict=False)
    body_sha256: Hex64


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A request with its signature and body (the aggregates' bytes, one after the other)."""

    request: Request
    signature: bytes
    body: bytes

    def aggregate_bodies(self) -> tuple[memoryview, ...]:
        """The body cut at the entries' sizes.

        Raises:
            MalformedMessage: If the sizes do not add up to the body.
        """
        sizes = [entry.body_bytes for entry in self.request.aggregates]
        if sum(sizes) != len(self.body):
            raise MalformedMessage(f"a request's body has {len(self.body)} bytes, its entries say {sum(sizes)}; refuse")
        view, parts, start = memoryview(self.body), [], 0
        for size in sizes:
            parts.append(view[start : start + size])
            start += size
        return tuple(parts)


@dataclass(frozen=True, slots=True)
class SignedReply:
    """A manifest with its signature and body (an encrypted upload, or nothing)."""

    signed: SignedManifest
    body: bytes

    @property
    def manifest(self) -> Manifest:
        """What was signed."""
        return self.signed.manifest


def header_bytes(header: Wire) -> bytes:
    """Canonical bytes of a header: what is sent and what is signed."""
    return canonical_bytes(header.model_dump(mode="json"))


def encode_request(request: Request, body: bytes, sign: Callable[[bytes], bytes]) -> bytes:
    """Sign a request and frame it."""
    header = header_bytes(request)
    return _frame(REQUEST_MAGIC, header, sign(_signed_bytes(REQUEST_MAGIC, header)), body)


def decode_request(frame: bytes, coordinator_hex: str) -> SignedRequest:
    """Parse a request and verify the coordinator's signature and the body's digest.

    Raises:
        MalformedMessage: If it is no canonical frame, or the body is another one.
        BadSignature: If the coordinator of the plan did not sign it.
    """
    header, signature, body = _unframe(REQUEST_MAGIC, frame)
    verify(coordinator_hex, signature, _signed_bytes(REQUEST_MAGIC, header))
    request = _parse_header(header, Request)
    if hashlib.sha256(body).hexdigest() != request.body_sha256:
        raise MalformedMessage("a request's body is not the one that was signed; refuse it")
    return SignedRequest(request, signature, body)


def encode_reply(manifest: Manifest, body: bytes, sign: Callable[[bytes], bytes]) -> bytes:
    """Sign a manifest and frame it with its body; the caller has put the body's root into the manifest."""
    header = header_bytes(manifest)
    return _frame(REPLY_MAGIC, header, sign(_signed_bytes(REPLY_MAGIC, header)), body)


def decode_reply(frame: bytes, identities: dict[str, str]) -> SignedReply:
    """Parse a reply and verify its hospital's signature; the body stays unchecked bytes (see `server.admit`).

    Args:
        frame: Bytes from the network.
        identities: Public key, hex, of each hospital in the roster.

    Raises:
        MalformedMessage: If it is no canonical frame.
        BadSignature: If it names a stranger, or the named hospital did not sign it.
    """
    header, signature, body = _unframe(REPLY_MAGIC, frame)
    manifest = _parse_header(header, Manifest)
    public_hex = identities.get(manifest.hospital)
    if public_hex is None:
        raise BadSignature("a reply names a hospital that is not in the roster; refuse it")
    signed = SignedManifest(manifest=manifest, signature=signature.hex())
    signed.check(public_hex)
    return SignedReply(signed, body)


Header = TypeVar("Header", bound=Wire)


def _parse_header(header: bytes, model: type[Header]) -> Header:
    try:
        parsed = model.model_validate(json.loads(header))
    except (ValidationError, ValueError, RecursionError) as error:
        raise MalformedMessage(f"a header is not a {model.__name__.lower()}; refuse the message") from error
    if header_bytes(parsed) != header:
        # One value has one encoding, so a digest of the value is a digest of the bytes.
        raise MalformedMessage("a header is not in canonical form; refuse the message")
    return parsed


def _signed_bytes(magic: bytes, header: bytes) -> bytes:
    return b"fedward/signature/1" + magic + hashlib.sha256(header).digest()


def _frame(magic: bytes, header: bytes, signature: bytes, body: bytes) -> bytes:
    return b"".join((_PREFIX.pack(magic, len(header)), header, signature, body))


def _unframe(magic: bytes, frame: bytes) -> tuple[bytes, bytes, bytes]:
    if len(frame) < _PREFIX.size:
        raise MalformedMessage(f"a message has {len(frame)} bytes, less than a frame's prefix; refuse it")
    seen_magic, header_length = _PREFIX.unpack_from(frame)
    body_start = _PREFIX.size + header_length + SIGNATURE_BYTES
    if seen_magic != magic or header_length > _MAX_HEADER_BYTES[magic] or body_start > len(frame):
        raise MalformedMessage("a message is no frame of this protocol version, or is cut short; refuse it")
    header = frame[_PREFIX.size : _PREFIX.size + header_length]
    signature = frame[_PREFIX.size + header_length : body_start]
    return header, signature, frame[body_start:]
