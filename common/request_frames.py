"""Requests to bytes and back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from common.errors import MalformedMessage
from common.identity import verify
from common.messages import Request
from common.wire import frame, header_bytes, parse_header, signed_bytes, unframe

REQUEST_MAGIC = b"FWREQ/1\n"
MAX_REQUEST_HEADER_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A request with its signature and body: the aggregates' bytes, one after the other, and the records to check."""

    request: Request
    signature: bytes
    body: bytes | memoryview

    def aggregate_bodies(self) -> tuple[memoryview, ...]:
        """The aggregates, cut at the entries' sizes.

        Raises:
            MalformedMessage: If the sizes do not add up to the body.
        """
        sizes = [entry.body_bytes for entry in self.request.aggregates]
        claimed = sum(sizes) + (self.request.check.record_bytes if self.request.check else 0)
        if claimed != len(self.body):
            raise MalformedMessage(f"a request's body has {len(self.body)} bytes, its entries say {claimed}; refuse")
        view, parts, start = memoryview(self.body), [], 0
        for size in sizes:
            parts.append(view[start : start + size])
            start += size
        return tuple(parts)

    @property
    def records(self) -> memoryview:
        """What `request.check` is about; empty without one. `aggregate_bodies` checks its size."""
        check = self.request.check
        return memoryview(self.body)[len(self.body) - check.record_bytes :] if check else memoryview(b"")


def encode_request(request: Request, body: bytes | memoryview, sign: Callable[[bytes], bytes]) -> bytes:
    """Sign a request and frame it; the records to check end the body."""
    header = header_bytes(request)
    return frame(REQUEST_MAGIC, header, sign(signed_bytes(REQUEST_MAGIC, header)), body)


def decode_request(data: bytes | memoryview, coordinator_hex: str) -> SignedRequest:
    """Parse a request and verify the coordinator's signature and the body's digest; the body is a view of the frame.

    Raises:
        MalformedMessage: If it is no canonical frame, or the body is another one.
        BadSignature: If the coordinator of the plan did not sign it.
    """
    # A view: of a body there is one copy, however large it is.
    header, signature, body = unframe(REQUEST_MAGIC, memoryview(data), most_header_bytes=MAX_REQUEST_HEADER_BYTES)
    verify(coordinator_hex, signature, signed_bytes(REQUEST_MAGIC, header))
    request = parse_header(header, Request)
    if hashlib.sha256(body).hexdigest() != request.body_sha256:
        raise MalformedMessage("a request's body is not the one that was signed; refuse it")
    return SignedRequest(request, signature, body)


def request_header(data: bytes | memoryview) -> bytes:
    """The header of a request's frame, of which nothing is checked.

    Raises:
        MalformedMessage: If it is no such frame, or is cut short.
    """
    header, _, _ = unframe(REQUEST_MAGIC, data, most_header_bytes=MAX_REQUEST_HEADER_BYTES)
    return header


def request_digest(data: bytes | memoryview) -> str:
    """Digest of that header, hex: it names the request."""
    return hashlib.sha256(request_header(data)).hexdigest()
