"""Long requests come to the site page by page, and long replies go that way: between the socket and the hospital.

What the pages make is answered like any other request, once all of it is there. The disk holds at most one request,
no longer than the plan has a use for, and one reply.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from client.durable import disk_refused, write_durably
from client.member import Member
from common.errors import MalformedMessage, SiteStorageError, WrongPlan, WrongRound
from common.page_sizes import PageSizes
from common.pages import FETCH, LONG_REPLY, LONG_REQUEST, PAGE, WANTED, Outline, Wanted
from common.request_frames import request_digest, request_header

_REQUEST, _REPLY = "request-", "reply-"


@dataclass(slots=True)
class _Coming:
    """A long request; `digest` is its outline's, bit k of `missing` says that page k is not there."""

    outline: Outline
    digest: str
    missing: int


class PagedSite:
    """Answers frames: those about pages itself, all others through the hospital.

    Args:
        answer: Answers a whole request.
        member: This hospital.
        folder: Where long messages lie; made when the first one comes.
    """

    def __init__(self, answer: Callable[[bytes | memoryview], bytes], member: Member, *, folder: Path) -> None:
        self._answer, self._member, self._folder = answer, member, folder
        self._coordinator = member.plan.agreed.coordinator
        self._sizes = PageSizes.of(member.plan)
        self._coming: _Coming | None = None

    def answer(self, frame: bytes) -> bytes:
        """Answer a frame from the gateway, which may be hostile.

        Raises:
            PeerError: If it is refused.
            HospitalError: If this site cannot answer; nothing was released then.
        """
        if LONG_REQUEST.matches(frame):
            return self._announced(frame)
        if PAGE.matches(frame):
            return self._take(frame)
        return self._give(frame) if FETCH.matches(frame) else self._whole(frame)

    def _whole(self, frame: bytes) -> bytes:
        """The answer to a request in one frame; one in pages that was answered before it is over then."""
        reply = self._reply(frame)
        if self._coming is not None and not self._coming.missing:
            self._forget_request()
        return reply

    def _announced(self, frame: bytes) -> bytes:
        """What is missing of a long request, or the answer to it."""
        outline, rest = LONG_REQUEST.decode(frame, self._coordinator)
        if rest or not outline.head_bytes:
            raise MalformedMessage("an outline has a page behind it, or no head; refuse it")
        if (outline.plan, outline.hospital) != (self._member.plan.digest, self._member.hospital):
            raise WrongPlan("a long request is announced for another hospital or plan; refuse it")
        outline.check_size(most_bytes=self._sizes.most_request_bytes, page_bytes=self._sizes.page_bytes)
        coming = self._coming
        if coming is None or coming.outline != outline:
            coming = self._begin(outline)
        if coming.missing:
            return self._wanted(coming)
        try:
            # It stays on the disk: a site that is killed before its answer has arrived is asked again.
            return self._reply(self._request(coming))
        except BaseException:
            self._forget_request()
            raise

    def _begin(self, outline: Outline) -> _Coming:
        """Make room for a request; one that was there before is given up."""
        self._coming = None
        coming = _Coming(outline, outline.digest, (1 << len(outline.pages)) - 1)
        path = self._path(_REQUEST, coming.digest)
        self._forget(_REQUEST, path)
        with self._disk():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)
            with path.open("rb") as file:
                # Of the same request, before this service was started.
                for index in range(len(outline.pages)):
                    start, stop = outline.place(index, self._sizes.page_bytes)
                    file.seek(start)
                    if hashlib.sha256(file.read(stop - start)).hexdigest() == outline.pages[index]:
                        coming.missing &= ~(1 << index)
        self._coming = coming
        return coming

    def _take(self, frame: bytes) -> bytes:
        name, page = PAGE.decode(frame, self._coordinator)
        coming = self._coming
        if coming is None or name.outline != coming.digest:
            raise WrongRound("a page of another request than the one that was announced last; refuse it")
        coming.outline.check_page(name.index, page, self._sizes.page_bytes)
        if coming.missing >> name.index & 1:
            # If the disk refuses, what is there of it is looked at again.
            self._coming = None
            with self._disk(), self._path(_REQUEST, coming.digest).open("r+b") as file:
                file.seek(coming.outline.place(name.index, self._sizes.page_bytes)[0])
                file.write(page)
            coming.missing &= ~(1 << name.index)
            self._coming = coming
        return self._wanted(coming)

    def _wanted(self, coming: _Coming) -> bytes:
        return WANTED.encode(Wanted.of(coming.digest, coming.missing), self._member.identity.sign)

    def _request(self, coming: _Coming) -> memoryview:
        """The whole request, of which as much is in memory as is read.

        Raises:
            MalformedMessage: If it is another one than was announced.
            SiteStorageError: If its file was damaged since its pages came.
        """
        path = self._path(_REQUEST, coming.digest)
        try:
            with self._disk(), path.open("rb") as file:
                request = memoryview(mmap.mmap(file.fileno(), coming.outline.size_bytes, prot=mmap.PROT_READ))
        except ValueError as error:
            raise SiteStorageError(
                f"{path}: is shorter than the request that came; nothing was sent; mend the disk, it is asked again"
            ) from error
        if request_digest(request) != coming.outline.request:
            raise MalformedMessage("a long request is another one than its outline says; refuse it")
        return request

    def _reply(self, request: bytes | memoryview) -> bytes:
        """The hospital's answer, or what announces it; with the last answer of a run all of its pages go."""
        reply = self._answer(request)
        # The hospital has verified it.
        asked = json.loads(request_header(request))
        if asked["kind"] == "finish":
            self._forget_request()
        if not self._sizes.is_long(len(reply)):
            self._forget(_REPLY)
            return reply
        outline = Outline.of(
            reply,
            run=asked["run"],
            plan=self._member.plan.digest,
            hospital=self._member.hospital,
            request=request_digest(request),
            page_bytes=self._sizes.page_bytes,
        )
        path = self._path(_REPLY, outline.digest)
        self._forget(_REPLY, path)
        with self._disk():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_durably(path, reply)
        return LONG_REPLY.encode(outline, self._member.identity.sign)

    def _give(self, frame: bytes) -> bytes:
        """One page of the last long reply."""
        name, rest = FETCH.decode(frame, self._coordinator)
        path = self._path(_REPLY, name.outline)
        if not path.exists():
            raise WrongRound("a page was asked for of another reply than the last one; refuse it")
        with self._disk(), path.open("rb") as file:
            start = name.index * self._sizes.page_bytes
            if rest or start >= path.stat().st_size:
                raise MalformedMessage(f"page {name.index} was asked for of a shorter reply; refuse it")
            file.seek(start)
            return file.read(self._sizes.page_bytes)

    def _path(self, kind: str, digest: str) -> Path:
        return self._folder / f"{kind}{digest}"

    def _forget_request(self) -> None:
        self._coming = None
        self._forget(_REQUEST)

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
