"""Messages longer than a page, as the coordinator sends and takes them: never more than a page is in memory.

A long request is announced by its outline; the site names the pages that it lacks, gets them, and the outline again,
until it answers. A long reply is announced by its outline too; its pages are fetched, each is compared with what its
hospital signed, and the whole is on the disk before anybody looks at it.
"""

from __future__ import annotations

import hashlib
import mmap
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple, Protocol

from common.errors import MalformedMessage, StoreError, WrongPlan, WrongRound
from common.messages import MAX_REQUEST_HEADER_BYTES, REQUEST_MAGIC, AggregateEntry, Kind
from common.pages import (
    FETCH_MAGIC,
    LONG_REPLY_MAGIC,
    LONG_REQUEST_MAGIC,
    PAGE_MAGIC,
    WANTED_MAGIC,
    Outline,
    PageName,
    Wanted,
    decode_signed,
    encode_signed,
    is_long,
    most_reply_bytes,
    page_bytes_of,
    page_digests,
)
from common.plan import Plan
from common.wire import unframe
from server.bodies import Body, HeldBody, JoinedBody

# Of the pages of one reply. Flower loses one now and then where a machine is busy.
MOST_LOST = 8
Sign = Callable[[bytes], bytes]


class LongHistory(Protocol):
    """The completed rounds of a run, whose bodies are not read before they are sent; see `server.history`."""

    def entries(self, rounds: tuple[int, int]) -> tuple[AggregateEntry, ...]:
        """What each one's request says of it, in order."""

    def body(self, rounds: tuple[int, int]) -> Body:
        """Their bodies, one after the other."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A request to a hospital.

    Args:
        hospital: The recipient.
        kind: What is asked.
        request: Digest of its header.
        outline: What announces it, if it is long.
        content: All of it, if it is long.
    """

    hospital: str
    kind: Kind
    request: str
    outline: Outline | None = None
    content: Body | None = None


class FollowUp(NamedTuple):
    """A frame that goes to the same hospital, with the page behind it; `answer` is the page that it asks for.

    The answer to one that brings a page says nothing, and is not awaited.
    """

    frame: bytes
    page: bytes = b""
    answer: int | None = None


class LongMessages:
    """The long messages of one run.

    Args:
        plan: The plan.
        run: The run.
        sign: Signs with the coordinator's identity key.
        history: The run's completed rounds.
        folder: Where long replies arrive, each in a file without a name.
    """

    def __init__(self, plan: Plan, run: str, *, sign: Sign, history: LongHistory, folder: Path) -> None:
        self.plan, self.run, self.sign, self.folder = plan, run, sign, folder
        self.history = history
        self.page_bytes = page_bytes_of(plan)
        self.identities = {hospital.name: hospital.identity for hospital in plan.roster}
        self._sent: dict[str, Sent] = {}

    def is_long(self, body_bytes: int) -> bool:
        """Whether a message with such a body goes in pages."""
        return is_long(body_bytes, self.plan)

    def note(self, kind: Kind, hospital: str, frame: bytes) -> None:
        """Remember a request that goes as it is: its reply may be long."""
        self._sent[hospital] = Sent(hospital, kind, _request_digest(frame))

    def announce(self, kind: Kind, hospital: str, head: bytes, body: Body) -> bytes:
        """The frame that announces a long request.

        Args:
            kind: What is asked.
            hospital: The recipient.
            head: The request's frame up to its body.
            body: Its body.
        """
        content = JoinedBody((HeldBody(head), body))
        outline = Outline(
            run=self.run,
            plan=self.plan.digest,
            hospital=hospital,
            request=_request_digest(head),
            head_bytes=len(head),
            size_bytes=content.size_bytes,
            pages=page_digests(content.read, len(head), content.size_bytes, page_bytes=self.page_bytes),
        )
        self._sent[hospital] = Sent(hospital, kind, outline.request, outline, content)
        return encode_signed(LONG_REQUEST_MAGIC, outline, self.sign)

    def last_to(self, hospital: str) -> Sent | None:
        """The last request to a hospital."""
        return self._sent.get(hospital)


@dataclass(slots=True)
class Conversation:
    """What goes back and forth for one request.

    Args:
        long: The run's long messages.
        sent: The request.
    """

    long: LongMessages
    sent: Sent
    _lacking: int | None = None
    _coming: Outline | None = None
    _pages: set[int] = field(default_factory=set)
    _file: IO[bytes] | None = None
    _lost: int = 0

    @property
    def is_long(self) -> bool:
        """Whether pages go in either direction."""
        return self.sent.outline is not None or self._coming is not None

    def hear(self, answer: bytes, page: int | None) -> bytes | memoryview | Iterator[FollowUp]:
        """Take an answer.

        Args:
            answer: Bytes from the network.
            page: The number of the page that it must be; None: it answers the request.

        Returns:
            The whole reply, or what is to be sent next; nothing while other pages are awaited.

        Raises:
            PeerError: If it is refused, and with it the reply.
            StoreError: If the disk refuses.
        """
        if page is not None:
            return self._take(answer, page)
        magic = answer[: len(REQUEST_MAGIC)]
        if magic == WANTED_MAGIC:
            return self._bring(answer)
        return self._fetch(answer) if magic == LONG_REPLY_MAGIC else answer

    def again(self, page: int) -> FollowUp | None:
        """Asks for a page once more that Flower has lost; nothing if that has happened too often."""
        if self._coming is None or self._lost == MOST_LOST:
            return None
        self._lost += 1
        name = PageName(outline=self._coming.digest, index=page)
        return FollowUp(encode_signed(FETCH_MAGIC, name, self.long.sign), answer=page)

    def close(self) -> None:
        """Keep nothing of a reply that is not whole."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _bring(self, answer: bytes) -> Iterator[FollowUp]:
        """The pages that a site lacks, and the outline again."""
        wanted, rest = decode_signed(WANTED_MAGIC, answer, Wanted, self.long.identities[self.sent.hospital])
        outline = self.sent.outline
        if outline is None or rest or wanted.outline != outline.digest:
            raise WrongRound(f"{self.sent.hospital} lacks pages of another request than this one; refuse it")
        missing = wanted.missing
        fits = missing and missing[-1] < len(outline.pages)
        if not fits or (self._lacking is not None and len(missing) >= self._lacking):
            raise MalformedMessage(f"{self.sent.hospital} asks for pages that there are not, or again; refuse it")
        self._lacking = len(missing)
        return self._pages_of(outline, missing)

    def _pages_of(self, outline: Outline, missing: Sequence[int]) -> Iterator[FollowUp]:
        if self.sent.content is None:
            return
        for index in missing:
            frame = encode_signed(PAGE_MAGIC, PageName(outline=outline.digest, index=index), self.long.sign)
            # Whoever takes it holds the only copy.
            yield FollowUp(frame, self.sent.content.read(*outline.place(index, self.long.page_bytes)))
        yield FollowUp(encode_signed(LONG_REQUEST_MAGIC, outline, self.long.sign))

    def _fetch(self, answer: bytes) -> Iterator[FollowUp]:
        """Ask for all pages of a long reply."""
        hospital, plan = self.sent.hospital, self.long.plan
        outline, rest = decode_signed(LONG_REPLY_MAGIC, answer, Outline, self.long.identities[hospital])
        if (outline.hospital, outline.run, outline.plan) != (hospital, self.long.run, plan.digest):
            raise WrongPlan(f"{hospital} announces a reply of another hospital, run or plan; refuse it")
        if rest or outline.request != self.sent.request or self._coming is not None:
            raise WrongRound(f"{hospital} announces a reply to another request than this one; refuse it")
        if outline.head_bytes:
            raise MalformedMessage(f"{hospital} announces a reply with a head, which replies have not; refuse it")
        outline.check_size(most_bytes=most_reply_bytes(plan, self.sent.kind), page_bytes=self.long.page_bytes)
        self._coming, self._pages = outline, set(range(len(outline.pages)))
        try:
            self._file = tempfile.TemporaryFile(dir=self.long.folder)  # noqa: SIM115 -- it lives as long as the reply
        except OSError as error:
            raise self._refused(error) from error
        names = (PageName(outline=outline.digest, index=index) for index in sorted(self._pages))
        return (FollowUp(encode_signed(FETCH_MAGIC, name, self.long.sign), answer=name.index) for name in names)

    def _take(self, page: bytes, index: int) -> memoryview | Iterator[FollowUp]:
        outline, file = self._coming, self._file
        if outline is None or file is None or index not in self._pages:
            raise WrongRound(f"{self.sent.hospital} sends a page that was not asked for; refuse it")
        outline.check_page(index, page, self.long.page_bytes)
        try:
            file.seek(outline.place(index, self.long.page_bytes)[0])
            file.write(page)
            self._pages.discard(index)
            if self._pages:
                return iter(())
            file.flush()
            # As much of it is in memory as is looked at; it is gone with the last view of it.
            whole = memoryview(mmap.mmap(file.fileno(), outline.size_bytes, prot=mmap.PROT_READ))
        except OSError as error:
            raise self._refused(error) from error
        self.close()
        return whole

    def _refused(self, error: OSError) -> StoreError:
        return StoreError(f"{self.long.folder}: the disk refuses a reply ({error.strerror}); free disk space")


def _request_digest(frame: bytes) -> str:
    header, _, _ = unframe(REQUEST_MAGIC, frame, most_header_bytes=MAX_REQUEST_HEADER_BYTES)
    return hashlib.sha256(header).hexdigest()
