"""What goes back and forth for one request whose pages, or whose reply's pages, go one by one.

A long request is announced by its outline; the site names the pages that it lacks, gets them, and the outline again,
until it answers. A long reply is announced by its outline too; its pages are fetched, each is compared with what its
hospital signed, and the whole is on the disk before anybody looks at it.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO

from common.errors import MalformedMessage, WrongPlan, WrongRound
from common.pages import FETCH, LONG_REPLY, LONG_REQUEST, PAGE, WANTED, Outline, PageName, Wanted
from server.bodies import spooling
from server.long_messages import FollowUp, LongMessages, Sent

# Of the answers to one request, and of the pages of one reply. Flower loses one now and then where a machine is busy.
MOST_LOST = 8
# So often a site may lack pages again that it was sent: it was killed, and its disk has lost them.
MOST_REPEATS = 3


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
    _repeats: int = 0
    _brought: int = 0
    _coming: Outline | None = None
    _digest: str = ""
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
        if WANTED.matches(answer):
            return self._bring(answer)
        return self._fetch(answer) if LONG_REPLY.matches(answer) else answer

    def again(self, page: int | None) -> FollowUp | None:
        """Asks once more for what Flower has lost; nothing if that has happened too often, or the request is gone.

        Args:
            page: The page of the reply that did not come; None: the answer to the request.
        """
        if self._lost == MOST_LOST:
            return None
        self._lost += 1
        if page is None:
            outline = self.sent.outline
            return None if outline is None else FollowUp(LONG_REQUEST.encode(outline, self.long.sign))
        return self._fetching(page)

    def close(self) -> None:
        """Keep nothing of a reply that is not whole."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _bring(self, answer: bytes) -> Iterator[FollowUp]:
        """The pages that a site lacks, and the outline again."""
        hospital, outline = self.sent.hospital, self.sent.outline
        wanted, rest = WANTED.decode(answer, self.long.identities[hospital])
        if outline is None or rest or wanted.outline != outline.digest:
            raise WrongRound(f"{hospital} lacks pages of another request than this one; refuse it")
        missing, before = wanted.mask, self._lacking
        if not 0 < missing < 1 << len(outline.pages):
            raise MalformedMessage(f"{hospital} asks for pages that there are not; refuse it")
        # One that was killed may lack as many as before, or more.
        self._repeats += before is not None and (missing == before or bool(missing & ~before))
        self._lacking, self._brought = missing, self._brought + missing.bit_count()
        if self._repeats > MOST_REPEATS or self._brought > (MOST_REPEATS + 1) * len(outline.pages):
            raise MalformedMessage(f"{hospital} asks for the same pages again and again; refuse it")
        return self._pages_of(outline, wanted)

    def _pages_of(self, outline: Outline, wanted: Wanted) -> Iterator[FollowUp]:
        if self.sent.content is None:
            return
        for index in wanted.missing:
            frame = PAGE.encode(PageName(outline=wanted.outline, index=index), self.long.sign)
            # Whoever takes it holds the only copy.
            yield FollowUp(frame, self.sent.content.read(*outline.place(index, self.long.sizes.page_bytes)))
        yield FollowUp(LONG_REQUEST.encode(outline, self.long.sign))

    def _fetch(self, answer: bytes) -> Iterator[FollowUp]:
        """Ask for all pages of a long reply."""
        hospital, plan = self.sent.hospital, self.long.plan
        outline, rest = LONG_REPLY.decode(answer, self.long.identities[hospital])
        if (outline.hospital, outline.run, outline.plan) != (hospital, self.long.run, plan.digest):
            raise WrongPlan(f"{hospital} announces a reply of another hospital, run or plan; refuse it")
        if rest or outline.request != self.sent.request or self._coming is not None:
            raise WrongRound(f"{hospital} announces a reply to another request than this one; refuse it")
        if outline.head_bytes:
            raise MalformedMessage(f"{hospital} announces a reply with a head, which replies have not; refuse it")
        sizes = self.long.sizes
        outline.check_size(most_bytes=sizes.most_reply_bytes(self.sent.kind), page_bytes=sizes.page_bytes)
        self._coming, self._digest, self._pages = outline, outline.digest, set(range(len(outline.pages)))
        with spooling(self.long.folder):
            self._file = tempfile.TemporaryFile(dir=self.long.folder)  # noqa: SIM115 -- it lives as long as the reply
        return map(self._fetching, range(len(outline.pages)))

    def _fetching(self, page: int) -> FollowUp:
        name = PageName(outline=self._digest, index=page)
        return FollowUp(FETCH.encode(name, self.long.sign), answer=page)

    def _take(self, page: bytes, index: int) -> memoryview | Iterator[FollowUp]:
        outline, file = self._coming, self._file
        if outline is None or file is None or index not in self._pages:
            raise WrongRound(f"{self.sent.hospital} sends a page that was not asked for; refuse it")
        outline.check_page(index, page, self.long.sizes.page_bytes)
        with spooling(self.long.folder):
            file.seek(outline.place(index, self.long.sizes.page_bytes)[0])
            file.write(page)
            self._pages.discard(index)
            if self._pages:
                return iter(())
            file.flush()
            # As much of it is in memory as is looked at; it is gone with the last view of it.
            whole = memoryview(mmap.mmap(file.fileno(), outline.size_bytes, prot=mmap.PROT_READ))
        self.close()
        return whole
