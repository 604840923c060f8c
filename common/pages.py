"""Long messages: the outline that announces one, and the pages that bring it.

Whoever makes such a message signs an outline with the digest of every page; each page is compared with it when it
arrives, and what they make is an ordinary frame that is checked like any other. A page may be brought more than once
and in any order: it is the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final, Generic, Self, TypeVar

from pydantic import Field, StringConstraints

from common.card import HospitalName
from common.errors import MalformedMessage
from common.identity import verify
from common.page_sizes import MOST_PAGES
from common.wire import Counter, Hex32, Hex64, Wire, frame, header_bytes, parse_header, signed_bytes, unframe

# The signer is known before the header is parsed: a hospital by its node, the coordinator by the plan.
MAX_HEADER_BYTES = 4 << 20

Header = TypeVar("Header", bound=Wire)


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

    @classmethod
    def of(  # noqa: PLR0913 -- whose message, and its bytes
        cls,
        data: bytes | memoryview,
        *,
        run: str,
        plan: str,
        hospital: str,
        request: str,
        page_bytes: int,
        head_bytes: int = 0,
    ) -> Self:
        """That of a message in memory.

        Args:
            data: All of it.
            run: The run.
            plan: Digest of the plan.
            hospital: That it goes to, or comes from.
            request: From `common.messages.request_digest`.
            page_bytes: Length of a page.
            head_bytes: Length of its head; 0 of a reply.
        """
        view = memoryview(data)
        return cls(
            run=run,
            plan=plan,
            hospital=hospital,
            request=request,
            head_bytes=head_bytes,
            size_bytes=len(view),
            pages=(*page_digests(view[:head_bytes], page_bytes), *page_digests(view[head_bytes:], page_bytes)),
        )

    @property
    def digest(self) -> str:
        """What its pages are asked for by; made anew each time, from all its bytes."""
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
    def of(cls, outline: str, missing: int) -> Self:
        """These pages of the request with that outline's digest; bit k says that page k is missing."""
        return cls(outline=outline, bits=f"{missing:x}")

    @property
    def mask(self) -> int:
        """The pages as bits of one number."""
        return int(self.bits, 16)

    @property
    def missing(self) -> tuple[int, ...]:
        """The pages, in ascending order."""
        return tuple(index for index, bit in enumerate(reversed(f"{self.mask:b}")) if bit == "1")


@dataclass(frozen=True, slots=True)
class Form(Generic[Header]):
    """A kind of signed frame about pages.

    Args:
        magic: What it begins with.
        model: What its header is.
    """

    magic: bytes
    model: type[Header]

    def matches(self, data: bytes) -> bool:
        """Whether a frame says that it is of this form."""
        return data.startswith(self.magic)

    def encode(self, header: Header, sign: Callable[[bytes], bytes], body: bytes | memoryview = b"") -> bytes:
        """Sign a header and frame it, with the bytes of a page where there are any."""
        data = header_bytes(header)
        return frame(self.magic, data, sign(signed_bytes(self.magic, data)), body)

    def decode(self, data: bytes | memoryview, public_hex: str) -> tuple[Header, bytes | memoryview]:
        """The inverse of `encode`: the header and the bytes behind it.

        Raises:
            BadSignature: If it was not signed with that key.
            MalformedMessage: If it is no such frame in canonical form.
        """
        header, signature, body = unframe(self.magic, data, most_header_bytes=MAX_HEADER_BYTES)
        verify(public_hex, signature, signed_bytes(self.magic, header))
        return parse_header(header, self.model), body


LONG_REQUEST: Final = Form(b"FWLRQ/1\n", Outline)
LONG_REPLY: Final = Form(b"FWLRP/1\n", Outline)
PAGE: Final = Form(b"FWPAG/1\n", PageName)
FETCH: Final = Form(b"FWFET/1\n", PageName)
WANTED: Final = Form(b"FWWNT/1\n", Wanted)


def page_digests(data: bytes | memoryview, page_bytes: int) -> tuple[str, ...]:
    """Digest of each page of a head or of a rest."""
    starts = range(0, len(data), page_bytes)
    return tuple(hashlib.sha256(data[start : start + page_bytes]).hexdigest() for start in starts)


def request_bytes(frame: bytes) -> int:
    """Length of a request that this process made, with all of its pages if the frame is what announces them."""
    if not LONG_REQUEST.matches(frame):
        return len(frame)
    header, _, _ = unframe(LONG_REQUEST.magic, frame, most_header_bytes=MAX_HEADER_BYTES)
    return len(frame) + parse_header(header, Outline).size_bytes
