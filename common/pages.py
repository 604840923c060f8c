"""Messages longer than a page: the outline that announces one, and the pages that bring it.

Whoever makes such a message signs an outline with the digest of every page; each page is compared with it when it
arrives, and what they make is an ordinary frame that is checked like any other. A page is asked for as often as it
takes, in any order: it is the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Annotated, TypeVar

from pydantic import Field, StringConstraints

from common.card import HospitalName
from common.ckks import PRESETS, chunks_for
from common.ckks_parameters import SEED_BYTES
from common.errors import MalformedMessage
from common.identity import verify
from common.messages import MAX_MANIFEST_BYTES, MAX_REQUEST_HEADER_BYTES, UPLOAD_KINDS, Kind
from common.plan import Plan
from common.transcript import path_bytes
from common.wire import (
    SIGNED_PARTS_BYTES,
    Counter,
    Hex32,
    Hex64,
    Wire,
    frame,
    header_bytes,
    parse_header,
    signed_bytes,
    unframe,
)

LONG_REQUEST_MAGIC = b"FWLRQ/1\n"
LONG_REPLY_MAGIC = b"FWLRP/1\n"
PAGE_MAGIC = b"FWPAG/1\n"
FETCH_MAGIC = b"FWFET/1\n"
WANTED_MAGIC = b"FWWNT/1\n"
# The signer is known before the header is parsed: a hospital by its node, the coordinator by the plan.
MAX_HEADER_BYTES = 4 << 20
MOST_PAGES = 60_000
# What a request brings to a hospital that was away, where one sum is not longer; see `server.requests.PageLimits`.
CATCH_UP_BYTES = 32 << 20
# A model in a checkpoint: two vectors of doubles, besides nonce and tag.
_CHECKPOINT_BYTES_PER_PARAMETER = 16
_CHECKPOINT_REST_BYTES = 64

Signed = TypeVar("Signed", bound=Wire)


class Outline(Wire):
    """What is signed of a long message before any page of it: by the coordinator, or by the hospital that replies.

    The pages of its head come first, those of the rest begin behind it: the rest of requests to several hospitals may
    be the same, and then their pages are.
    """

    run: Hex32
    plan: Hex64
    hospital: HospitalName = Field(description="that it goes to, or comes from")
    request: Hex64 = Field(description="digest of the header of the request that it is, or answers")
    head_bytes: Counter
    size_bytes: Counter
    pages: tuple[Hex64, ...] = Field(min_length=1, max_length=MOST_PAGES, strict=False, description="digest of each")

    @property
    def digest(self) -> str:
        """What its pages are asked for by."""
        return hashlib.sha256(header_bytes(self)).hexdigest()

    def check_size(self, *, most_bytes: int, page_bytes: int) -> None:
        """Refuse a message that is longer than it may be, before a byte of it is taken.

        Raises:
            MalformedMessage: If it is too long, or has not one digest for each of its pages.
        """
        if not self.head_bytes <= self.size_bytes <= most_bytes:
            raise MalformedMessage(
                f"a message of {self.size_bytes} bytes is announced; at most {most_bytes} are allowed; refuse it"
            )
        rest_bytes = self.size_bytes - self.head_bytes
        if len(self.pages) != -(-self.head_bytes // page_bytes) - (-rest_bytes // page_bytes):
            raise MalformedMessage(f"a message of {self.size_bytes} bytes has {len(self.pages)} pages; refuse it")

    def place(self, index: int, page_bytes: int) -> tuple[int, int]:
        """Where a page of it begins and ends.

        Raises:
            MalformedMessage: If it has no such page.
        """
        if index >= len(self.pages):
            raise MalformedMessage(f"page {index} of a message that has {len(self.pages)}; refuse it")
        of_head = -(-self.head_bytes // page_bytes)
        start, end = index * page_bytes, self.head_bytes
        if index >= of_head:
            start, end = self.head_bytes + (index - of_head) * page_bytes, self.size_bytes
        return start, min(start + page_bytes, end)

    def check_page(self, index: int, data: bytes | memoryview, page_bytes: int) -> None:
        """Refuse a page that is not the one that was signed.

        Raises:
            MalformedMessage: If it is none of this message, or has another length or other bytes.
        """
        start, stop = self.place(index, page_bytes)
        if len(data) != stop - start or hashlib.sha256(data).hexdigest() != self.pages[index]:
            raise MalformedMessage(f"page {index} of a message is not the one that was signed; refuse it")


class PageName(Wire):
    """Which page of which message: above a page that is brought, or alone where one is fetched."""

    outline: Hex64
    index: Counter


class Wanted(Wire):
    """The pages that a site lacks of a request."""

    outline: Hex64
    # Not a list of numbers: those would take more memory than a header of that length may.
    bits: Annotated[str, StringConstraints(pattern=r"^(0|[1-9a-f][0-9a-f]*)$", max_length=MOST_PAGES // 4)] = Field(
        description="hexadecimal; bit k says that page k is missing"
    )

    @classmethod
    def of(cls, outline: Outline, missing: Iterable[int]) -> Wanted:
        """These pages of that request."""
        return cls(outline=outline.digest, bits=f"{sum(1 << index for index in set(missing)):x}")

    @property
    def missing(self) -> tuple[int, ...]:
        """The pages, in ascending order."""
        return tuple(index for index, bit in enumerate(reversed(f"{int(self.bits, 16):b}")) if bit == "1")


def encode_signed(magic: bytes, header: Wire, sign: Callable[[bytes], bytes], body: bytes | memoryview = b"") -> bytes:
    """Sign a header and frame it, with the bytes of a page where there are any."""
    data = header_bytes(header)
    return frame(magic, data, sign(signed_bytes(magic, data)), body)


def decode_signed(
    magic: bytes, data: bytes | memoryview, model: type[Signed], public_hex: str
) -> tuple[Signed, bytes | memoryview]:
    """The inverse of `encode_signed`: the header and the bytes behind it.

    Raises:
        BadSignature: If it was not signed with that key.
        MalformedMessage: If it is no such frame in canonical form.
    """
    header, signature, body = unframe(magic, data, most_header_bytes=MAX_HEADER_BYTES)
    verify(public_hex, signature, signed_bytes(magic, header))
    return parse_header(header, model), body


def page_digests(
    read: Callable[[int, int], bytes | memoryview], head_bytes: int, size_bytes: int, *, page_bytes: int
) -> tuple[str, ...]:
    """Digest of each page of a message.

    Args:
        read: Its bytes from one offset to another.
        head_bytes: Length of its head.
        size_bytes: Its length.
        page_bytes: Length of a page.
    """
    starts = (*range(0, head_bytes, page_bytes), *range(head_bytes, size_bytes, page_bytes), size_bytes)
    ends = [min(start + page_bytes, head_bytes if start < head_bytes else size_bytes) for start in starts[:-1]]
    return tuple(hashlib.sha256(read(start, end)).hexdigest() for start, end in zip(starts[:-1], ends, strict=True))


def request_bytes(frame: bytes) -> int:
    """Length of a request that this process made, with all of its pages if the frame is what announces them."""
    if not frame.startswith(LONG_REQUEST_MAGIC):
        return len(frame)
    header, _, _ = unframe(LONG_REQUEST_MAGIC, frame, most_header_bytes=MAX_HEADER_BYTES)
    return len(frame) + parse_header(header, Outline).size_bytes


def page_bytes_of(plan: Plan) -> int:
    """Length of a page of a long message."""
    return plan.cohort.page_kib << 10


def is_long(body_bytes: int, plan: Plan) -> bool:
    """Whether a message with such a body goes in pages."""
    return body_bytes > plan.cohort.whole_kib << 10


def most_request_bytes(plan: Plan) -> int:
    """Longest request that the plan has a use for."""
    chunks, record = _upload_shape(plan)
    hospitals = len(plan.roster)
    # The highest place has the longest path.
    records = hospitals * chunks * (record + max(path_bytes(0, chunks), path_bytes(chunks - 1, chunks)))
    total = chunks * (record + SEED_BYTES * (hospitals - 1))
    head = MAX_REQUEST_HEADER_BYTES + SIGNED_PARTS_BYTES
    return head + max(CATCH_UP_BYTES + total + records, most_reply_bytes(plan, "checkpoint"))


def most_reply_bytes(plan: Plan, kind: Kind) -> int:
    """Longest reply to a request of some kind."""
    if kind in UPLOAD_KINDS:
        chunks, record = _upload_shape(plan)
        return MAX_MANIFEST_BYTES + SIGNED_PARTS_BYTES + chunks * record
    head = MAX_REQUEST_HEADER_BYTES + SIGNED_PARTS_BYTES
    if kind == "checkpoint":
        return head + _CHECKPOINT_BYTES_PER_PARAMETER * plan.agreed.trainable_parameters + _CHECKPOINT_REST_BYTES
    return head


def _upload_shape(plan: Plan) -> tuple[int, int]:
    """Ciphertexts of an upload and bytes of each."""
    parameters = PRESETS[plan.encryption.preset]
    return chunks_for(plan.upload_values, parameters), parameters.chunk_bytes + SEED_BYTES
