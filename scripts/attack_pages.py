"""One more exchange of a stage's run in pages, between the coordinator's own code and the sites'."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from client.paged_site import PagedSite
from common.errors import LocalProtocolError
from common.page_sizes import PageSizes
from common.pages import page_digests
from common.wire import body_start
from scripts.attack_stage import Stage
from server.admit import AdmittedReply, OpenExchange, admit
from server.bodies import HeldBody
from server.conversation import Conversation
from server.long_messages import FollowUp, LongMessages

OUTLINE, WANTED_PAGES, PAGE = "outline of a request", "wanted pages", "page"
REPLY_OUTLINE, FETCH = "outline of a reply", "fetch"
WATCHED = (OUTLINE, WANTED_PAGES, PAGE, REPLY_OUTLINE, FETCH)
"""Each is watched once per hospital: of pages and fetches the first."""


def ask_in_pages(stage: Stage, number: int, folder: Path) -> None:
    """Ask each hospital once more for its upload of a round that is open or was the last; it has stored its reply.

    Args:
        stage: The run, under a plan by which request and reply are long.
        number: The round.
        folder: Takes what comes, at the sites and at the coordinator.
    """
    folder.mkdir()
    long = LongMessages(stage.plan, stage.run, sign=stage.identity.sign, folder=folder)
    for name, site in stage.sites.items():
        paged = PagedSite(site.hospital.answer, site.hospital.member, folder=folder / name)
        talk, outline = _announce(stage, number, name, long)
        taker = _Taker(talk, stage.exchange_of("train", number, opening=stage.openings[number].digest), name)
        answer = stage.take(OUTLINE, name, outline, paged.answer)
        for index, one in enumerate(stage.take(WANTED_PAGES, name, answer, taker.take)):
            frame = one.frame + one.page
            answer = stage.take(PAGE, name, frame, paged.answer) if index == 0 else paged.answer(frame)
        admitted = None
        for index, one in enumerate(stage.take(REPLY_OUTLINE, name, answer, taker.take)):
            page = stage.take(FETCH, name, one.frame, paged.answer) if index == 0 else paged.answer(one.frame)
            whole = talk.hear(page, one.answer)
            admitted = taker.admit(whole) if isinstance(whole, memoryview) else None
        if admitted is None:
            raise LocalProtocolError(f"{name} gave no reply in pages; the plan's pages are too long for this stage")


@dataclass(frozen=True, slots=True)
class _Taker:
    """What the coordinator does with an answer: it goes on with pages, and admits all else."""

    talk: Conversation
    expected: OpenExchange
    hospital: str

    def take(self, answer: bytes) -> Iterator[FollowUp] | AdmittedReply | None:
        """Hear it."""
        heard = self.talk.hear(answer, None)
        return self.admit(heard) if isinstance(heard, bytes | memoryview) else heard

    def admit(self, reply: bytes | memoryview) -> AdmittedReply | None:
        """Admit a whole reply."""
        return admit(reply, self.hospital, expected=self.expected, seen={})


def _announce(stage: Stage, number: int, name: str, long: LongMessages) -> tuple[Conversation, bytes]:
    frame = stage.open_with(stage.openings[number], number, name, send=stage.missing(name, number))
    start = body_start(frame)
    pages = page_digests(frame[start:], PageSizes.of(stage.plan).page_bytes)
    outline = long.announce("train", name, frame[:start], HeldBody(frame[start:]), pages=pages)
    sent = long.last_to(name)
    if sent is None:
        raise LocalProtocolError(f"nothing was announced to {name}; announce it first")
    return Conversation(long, sent), outline
