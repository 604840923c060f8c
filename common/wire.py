"""What all messages are made of: strict headers, canonical bytes, signed frames.

A frame is ``magic (8) | header length (u32) | header | signature (64) | body``; the header is canonical JSON and the
Ed25519 signature is taken over a domain label and the header.
"""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from common.canonical import canonical_bytes
from common.errors import MalformedMessage
from common.identity import SIGNATURE_BYTES

_PREFIX = struct.Struct(">8sI")
_FREE_FIELDS = 256
# Of a frame besides header and body.
SIGNED_PARTS_BYTES = _PREFIX.size + SIGNATURE_BYTES

Hex32 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Hex64 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
OptionalHex64 = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")]
Signature = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{128}$")]
Counter = Annotated[int, Field(ge=0, lt=2**40)]


class Wire(BaseModel):
    """Base of every header: frozen, strict, nothing unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


Header = TypeVar("Header", bound=Wire)
Data = TypeVar("Data", bound=bytes | memoryview)


def header_bytes(header: Wire) -> bytes:
    """Canonical bytes of a header: what is sent and what is signed."""
    return canonical_bytes(header.model_dump(mode="json"))


def parse_header(header: bytes, model: type[Header], *, least_bytes_per_field: int = 8) -> Header:
    """Read canonical bytes; the inverse of `header_bytes`.

    Args:
        header: The bytes.
        model: What they should be.
        least_bytes_per_field: A header with more fields than one in so many bytes is refused before it is parsed.

    Raises:
        MalformedMessage: If they are no such header, or not its one canonical form.
    """
    # A parsed field takes up to 70 bytes of memory, and `[],[],` asks for one every three bytes. The densest message
    # that there is, a request with many skipped rounds, has one field in nine bytes.
    fields = header.count(b",") + header.count(b"[") + header.count(b"{")
    if fields > len(header) // least_bytes_per_field + _FREE_FIELDS:
        raise MalformedMessage(f"a header of {len(header)} bytes has {fields} fields; refuse the message")
    try:
        parsed = model.model_validate(json.loads(header))
    except (ValidationError, ValueError, RecursionError) as error:
        raise MalformedMessage(f"a header is not a {model.__name__.lower()}; refuse the message") from error
    if header_bytes(parsed) != header:
        # One value has one encoding, so a digest of the value is a digest of the bytes.
        raise MalformedMessage("a header is not in canonical form; refuse the message")
    return parsed


def signed_bytes(magic: bytes, header: bytes) -> bytes:
    """What a frame's signature is taken over."""
    return b"fedward/signature/1" + magic + hashlib.sha256(header).digest()


def frame(magic: bytes, header: bytes, signature: bytes, *body: bytes | memoryview) -> bytes:
    """The frame of these parts; the body may come in pieces."""
    return b"".join((_PREFIX.pack(magic, len(header)), header, signature, *body))


def body_start(data: bytes) -> int:
    """Where the body of a frame begins that this process made."""
    _, header_length = _PREFIX.unpack_from(data)
    return _PREFIX.size + int(header_length) + SIGNATURE_BYTES


def unframe(magic: bytes, data: Data, *, most_header_bytes: int) -> tuple[bytes, bytes, Data]:
    """Header, signature and body of a frame; nothing in them is checked yet. The body of a view is a view.

    Raises:
        MalformedMessage: If it is no frame with this magic, or is cut short, or its header is too long.
    """
    if len(data) < _PREFIX.size:
        raise MalformedMessage(f"a message has {len(data)} bytes, less than a frame's prefix; refuse it")
    seen_magic, header_length = _PREFIX.unpack_from(data)
    start = _PREFIX.size + header_length + SIGNATURE_BYTES
    if seen_magic != magic or header_length > most_header_bytes or start > len(data):
        raise MalformedMessage("a message is no frame of this protocol version, or is cut short; refuse it")
    header = bytes(data[_PREFIX.size : _PREFIX.size + header_length])
    signature = bytes(data[_PREFIX.size + header_length : start])
    return header, signature, data[start:]  # type: ignore[return-value]  # a slice has the type of the whole
