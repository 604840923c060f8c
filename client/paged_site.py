"""Long requests come to the site page by page, and long replies go that way: between the socket and the hospital.

What the pages make is answered like any other request, once all of it is there. The disk holds at most one request on
its way in, no longer than the plan has a use for, and one reply on its way out.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from client.durable import disk_refused, write_durably
from client.member import Member
from common.errors import MalformedMessage, WrongPlan, WrongRound
from common.messages import MAX_REQUEST_HEADER_BYTES, REQUEST_MAGIC
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
    most_request_bytes,
    page_bytes_of,
    page_digests,
)
from common.wire import unframe

_REQUEST, _REPLY = "request-", "reply-"


class PagedSite:
    """Answers frames: those about pages itself, all others through the hospital.

    Args:
        answer: Answers a whole request.
        member: This hospital.
        folder: Where long messages lie; made when the first one comes.
    """

    def __init__(self, answer: Callable[[bytes | memoryview], bytes], member: Member, *, folder: Path) -> None:
        self._answer, self._member, self._folder = answer, member, folder
        self._plan = member.plan
        self._page_bytes, self._most_bytes = page_bytes_of(member.plan), most_request_bytes(member.plan)
        self._coming: Outline | None = None
        self._missing: set[int] = set()

    def answer(self, frame: bytes) -> bytes:
        """Answer a frame from the gateway, which may be hostile.

        Raises:
            PeerError: If it is refused.
            HospitalError: If this site cannot answer; nothing was released then.
        """
        about_pages = {LONG_REQUEST_MAGIC: self._announced, PAGE_MAGIC: self._take, FETCH_MAGIC: self._give}
        handle = about_pages.get(frame[: len(REQUEST_MAGIC)])
        return handle(frame) if handle else self._reply(frame)

    def _announced(self, frame: bytes) -> bytes:
        """What is missing of a long request, or the answer to it."""
        outline, rest = decode_signed(LONG_REQUEST_MAGIC, frame, Outline, self._member.plan.agreed.coordinator)
        if rest or not outline.head_bytes:
            raise MalformedMessage("an outline has a page behind it, or no head; refuse it")
        if (outline.plan, outline.hospital) != (self._member.plan.digest, self._member.hospital):
            raise WrongPlan("a long request is announced for another hospital or plan; refuse it")
        outline.check_size(most_bytes=self._most_bytes, page_bytes=self._page_bytes)
        if outline != self._coming:
            self._begin(outline)
        if self._missing:
            return self._wanted(outline)
        with self._opened(outline) as request:
            return self._reply(request)

    def _begin(self, outline: Outline) -> None:
        """Make room for a request; one that was coming before is given up."""
        path = self._path(_REQUEST, outline)
        self._forget(_REQUEST, path)
        missing = set(range(len(outline.pages)))
        with self._disk():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)
            with path.open("rb") as file:
                # Of the same request, before this service was started.
                for index in range(len(outline.pages)):
                    start, stop = outline.place(index, self._page_bytes)
                    file.seek(start)
                    if hashlib.sha256(file.read(stop - start)).hexdigest() == outline.pages[index]:
                        missing.discard(index)
        self._coming, self._missing = outline, missing

    def _take(self, frame: bytes) -> bytes:
        name, page = decode_signed(PAGE_MAGIC, frame, PageName, self._member.plan.agreed.coordinator)
        outline = self._coming
        if outline is None or name.outline != outline.digest:
            raise WrongRound("a page of another request than the one that was announced last; refuse it")
        outline.check_page(name.index, page, self._page_bytes)
        if name.index in self._missing:
            with self._disk(), self._path(_REQUEST, outline).open("r+b") as file:
                file.seek(outline.place(name.index, self._page_bytes)[0])
                file.write(page)
            self._missing.discard(name.index)
        return self._wanted(outline)

    def _wanted(self, outline: Outline) -> bytes:
        return encode_signed(WANTED_MAGIC, Wanted.of(outline, self._missing), self._member.identity.sign)

    @contextmanager
    def _opened(self, outline: Outline) -> Iterator[memoryview]:
        """The whole request, of which as much is in memory as is read; it is gone afterwards, whatever came of it."""
        with self._disk(), self._path(_REQUEST, outline).open("rb") as file:
            request = memoryview(mmap.mmap(file.fileno(), outline.size_bytes, prot=mmap.PROT_READ))
        try:
            if hashlib.sha256(_header_of(request)).hexdigest() != outline.request:
                raise MalformedMessage("a long request is another one than its outline says; refuse it")
            yield request
        finally:
            self._coming, self._missing = None, set()
            self._forget(_REQUEST)

    def _reply(self, request: bytes | memoryview) -> bytes:
        reply = self._answer(request)
        if not is_long(len(reply), self._plan):
            self._forget(_REPLY)
            return reply
        header = _header_of(request)
        outline = Outline(
            run=json.loads(header)["run"],
            plan=self._member.plan.digest,
            hospital=self._member.hospital,
            request=hashlib.sha256(header).hexdigest(),
            head_bytes=0,
            size_bytes=len(reply),
            pages=page_digests(
                lambda start, stop: memoryview(reply)[start:stop], 0, len(reply), page_bytes=self._page_bytes
            ),
        )
        path = self._path(_REPLY, outline)
        self._forget(_REPLY, path)
        with self._disk():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_durably(path, reply)
        return encode_signed(LONG_REPLY_MAGIC, outline, self._member.identity.sign)

    def _give(self, frame: bytes) -> bytes:
        """One page of the last long reply."""
        name, rest = decode_signed(FETCH_MAGIC, frame, PageName, self._member.plan.agreed.coordinator)
        path = self._folder / f"{_REPLY}{name.outline}"
        if not path.exists():
            raise WrongRound("a page was asked for of another reply than the last one; refuse it")
        with self._disk(), path.open("rb") as file:
            file.seek(name.index * self._page_bytes)
            page = file.read(self._page_bytes)
        if rest or not page:
            raise MalformedMessage(f"page {name.index} was asked for of a shorter reply; refuse it")
        return page

    def _path(self, kind: str, outline: Outline) -> Path:
        return self._folder / f"{kind}{outline.digest}"

    def _forget(self, kind: str, keep: Path | None = None) -> None:
        with self._disk():
            for path in self._folder.glob(f"*{kind}*"):
                if path != keep:
                    path.unlink(missing_ok=True)

    @contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise disk_refused(self._folder, error) from error


def _header_of(request: bytes | memoryview) -> bytes:
    header, _, _ = unframe(REQUEST_MAGIC, request, most_header_bytes=MAX_REQUEST_HEADER_BYTES)
    return header
