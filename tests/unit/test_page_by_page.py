"""The coordinator sends pages one by one: for as long as there is time, and no hospital's pages without end."""

from __future__ import annotations

import hashlib
import secrets
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from flwr.app import Message

from client.paged_site import PagedSite
from common.errors import MalformedMessage
from common.pages import PAGE, WANTED, Wanted, page_digests
from common.records import REQUEST, frame_to_record
from common.request_frames import encode_request
from server import one_by_one
from server.bodies import HeldBody
from server.conversation import MOST_REPEATS, Conversation
from server.exchange import MESSAGE_UNAVAILABLE, NodeError
from server.long_messages import LongMessages
from server.one_by_one import OneByOneGrid
from tests.support.in_process_grid import InProcessGrid, as_server_app, number
from tests.support.masked_sites import MaskedSites

NAME = "hospital-2"
PAGES = 40
PAGE_KIB = 16


@dataclass
class Clock:
    """A clock that goes on only when it is told to; what sleeps makes it go on."""

    now: float = 100.0

    def monotonic(self) -> float:
        """Seconds."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """At once."""
        self.now += seconds


@dataclass
class Line:
    """One hospital on a line that takes a second per message, and a request to it of forty pages."""

    folder: Path
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.sites = sites = MaskedSites(self.folder, page_kib=PAGE_KIB, whole_kib=PAGE_KIB)
        self.answered = 0
        self.flower = InProcessGrid({}, on_push=lambda: self.clock.sleep(1.0))
        self.restart()
        sign = sites.coordinator.sign
        self.long = LongMessages(sites.plan, "a" * 32, sign=sign, folder=self.folder)
        self.grid = OneByOneGrid(self.flower, self.long)
        self.grid.nodes()
        body = secrets.token_bytes((PAGES - 1) * (PAGE_KIB << 10))
        request = sites.request("train", 1, NAME, body_sha256=hashlib.sha256(body).hexdigest())
        head, pages = encode_request(request, b"", sign), page_digests(body, PAGE_KIB << 10)
        self.outline = self.long.announce("train", NAME, head, HeldBody(body), pages=pages)

    def restart(self) -> None:
        """The site as after a kill."""
        site = PagedSite(self._answer, self.sites.member(NAME), folder=self.folder / "pages")
        self.flower.sites[NAME] = site.answer

    def _answer(self, _: bytes | memoryview) -> bytes:
        self.answered += 1
        return b"the answer"

    def ask(self, *, ttl_s: float, timeout_s: float) -> list[bytes | memoryview | NodeError]:
        """The answer, if it comes in time."""
        record = frame_to_record(self.outline, REQUEST)
        message = Message(record, dst_node_id=number(NAME), message_type="train", ttl=ttl_s)
        return [answer.content for answer in self.grid.send_and_receive([message], timeout=timeout_s)]

    def wanted(self, outline: str, missing: int) -> bytes:
        """What the hospital says that it lacks."""
        return WANTED.encode(Wanted.of(outline, missing), self.sites.identities[NAME].sign)


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Line:
    """The control of all that follows: with time enough the answer comes."""
    as_server_app(monkeypatch)
    made = Line(tmp_path)
    monkeypatch.setattr(one_by_one, "time", made.clock)
    return made


def test_what_follows_lives_as_long_as_is_left_of_the_first_message(line: Line) -> None:
    """Else Flower and the relay would keep and serve what nobody waits for any more."""
    assert line.ask(ttl_s=600.0, timeout_s=500.0) == [b"the answer"]
    ttls = line.flower.ttls
    assert len(ttls) == PAGES + 2
    assert all(ttl <= 600.0 - pushed for pushed, ttl in enumerate(ttls))


def test_nothing_follows_once_the_time_of_the_first_message_is_over(line: Line) -> None:
    """Flower would refuse it anyway; whoever waits is told what Flower says then."""
    assert line.ask(ttl_s=10.0, timeout_s=500.0) == [NodeError(MESSAGE_UNAVAILABLE, "")]
    assert min(line.flower.ttls) > 0
    assert len(line.flower.ttls) == 10
    assert line.answered == 0


def test_the_deadline_is_looked_at_between_two_pages(line: Line) -> None:
    """A request that takes a minute does not hold up a round that ends in ten seconds."""
    assert line.ask(ttl_s=600.0, timeout_s=10.0) == []
    assert len(line.flower.ttls) <= 11


def test_pages_that_were_lost_on_their_way_are_brought_again(line: Line) -> None:
    """Only these, and the outline."""
    lost = [3, 17, 39]

    def dropped(frame: bytes) -> bool:
        name, _ = PAGE.decode(frame, line.sites.coordinator.public_hex)
        if name.index not in lost:
            return False
        lost.remove(name.index)
        return True

    line.flower.dropped = dropped
    assert line.ask(ttl_s=600.0, timeout_s=500.0) == [b"the answer"]
    assert lost == []
    assert len(line.flower.ttls) == 1 + PAGES + 1 + 3 + 1


@pytest.mark.parametrize("errors", [[3], [4], [4, 3]])
def test_a_lost_answer_to_an_outline_is_asked_for_again(line: Line, errors: list[int]) -> None:
    """The outline goes out again, and the pages once."""
    line.flower.lost_outlines = list(errors)
    assert line.ask(ttl_s=600.0, timeout_s=500.0) == [b"the answer"]
    assert line.flower.lost_outlines == []
    assert len(line.flower.ttls) == PAGES + 2 + len(errors)


def test_an_answer_that_is_lost_for_ever_ends_the_exchange(line: Line) -> None:
    """Under Flower's own name."""
    line.flower.lost_outlines = [4] * 1000
    assert line.ask(ttl_s=6000.0, timeout_s=5000.0) == [NodeError(4, "lost")]
    assert len(line.flower.ttls) < 12


def test_a_site_that_lost_its_disk_after_all_pages_gets_them_again(line: Line, tmp_path: Path) -> None:
    """Its answer was lost with it."""
    answer = line.flower.sites[NAME]

    def forgetful(frame: bytes) -> bytes:
        reply = answer(frame)
        if line.answered:
            line.flower.lost_outlines = [4]
            shutil.rmtree(tmp_path / "pages")
            line.restart()
        return reply

    line.flower.sites[NAME] = forgetful
    assert line.ask(ttl_s=600.0, timeout_s=500.0) == [b"the answer"]
    assert line.answered == 2


def test_a_site_gets_no_pages_without_end(line: Line) -> None:
    """Neither one that asks for all or for one again and again, nor one that lacks one page less each time."""
    sent = line.long.last_to(NAME)
    assert sent is not None
    assert sent.outline is not None
    outline, every = sent.outline.digest, (1 << PAGES) - 1
    talk = Conversation(line.long, sent)
    for _ in range(1 + MOST_REPEATS):
        talk.hear(line.wanted(outline, every), None)
    with pytest.raises(MalformedMessage, match="again"):
        talk.hear(line.wanted(outline, every), None)
    talk = Conversation(line.long, sent)
    for _ in range(1 + MOST_REPEATS):
        talk.hear(line.wanted(outline, 1), None)
    with pytest.raises(MalformedMessage, match="again"):
        talk.hear(line.wanted(outline, 1), None)
    talk, brought = Conversation(line.long, sent), 0
    lacking = PAGES
    with pytest.raises(MalformedMessage, match="again"):  # noqa: PT012 -- in one of these, or in none
        while lacking:
            follow_ups = talk.hear(line.wanted(outline, (1 << lacking) - 1), None)
            assert not isinstance(follow_ups, bytes | memoryview)
            brought, lacking = brought + sum(PAGE.matches(one.frame) for one in follow_ups), lacking - 1
    assert brought <= (1 + MOST_REPEATS) * PAGES
