"""A site takes a long request page by page, and nothing of it is answered before all of it is there."""

from __future__ import annotations

import hashlib
import secrets
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest

from client.paged_site import PagedSite
from common.errors import BadSignature, MalformedMessage, PeerError, SiteStorageError, WrongPlan, WrongRound
from common.identity import Identity
from common.messages import Kind
from common.page_sizes import PageSizes
from common.pages import (
    FETCH,
    LONG_REPLY,
    LONG_REQUEST,
    PAGE,
    WANTED,
    Outline,
    PageName,
)
from common.request_frames import encode_request, request_digest
from common.wire import body_start
from tests.support.masked_sites import MaskedSites

NAME = "hospital-2"


@dataclass
class Party:
    """One hospital's paged site, which answers with what `reply` holds, and its coordinator."""

    sites: MaskedSites
    folder: Path
    asked: list[bytes] = field(default_factory=list)
    reply: bytes = b"a short reply"

    def __post_init__(self) -> None:
        self.member, self.page_bytes = self.sites.member(NAME), PageSizes.of(self.sites.plan).page_bytes
        self.restart()

    def restart(self) -> None:
        """As after a kill: what was in memory is gone."""
        self.site = PagedSite(self._answer, self.member, folder=self.folder)

    def _answer(self, frame: bytes | memoryview) -> bytes:
        self.asked.append(bytes(frame))
        return self.reply

    def request(self, body: bytes, number: int = 1, *, kind: Kind = "train") -> bytes:
        """A signed request in one frame."""
        digest = hashlib.sha256(body).hexdigest()
        request = self.sites.request(kind, number, NAME, body_sha256=digest)
        return encode_request(request, body, self.sites.coordinator.sign)

    def outline(self, frame: bytes, **changes: Any) -> Outline:  # noqa: ANN401 -- any field
        """What announces it."""
        return Outline.of(
            frame,
            run="a" * 32,
            plan=self.sites.plan.digest,
            hospital=NAME,
            request=request_digest(frame),
            head_bytes=body_start(frame),
            page_bytes=self.page_bytes,
        ).model_copy(update=changes)

    def announce(self, outline: Outline, signer: Identity | None = None) -> bytes:
        """The site's answer to it."""
        return self.site.answer(LONG_REQUEST.encode(outline, (signer or self.sites.coordinator).sign))

    def missing(self, answer: bytes) -> list[int]:
        """The pages that it lacks."""
        wanted, _ = WANTED.decode(answer, self.member.identity.public_hex)
        return list(wanted.missing)

    def page(self, outline: Outline, index: int, data: bytes, signer: Identity | None = None) -> list[int]:
        """Bring a page; what is still missing."""
        name = PageName(outline=outline.digest, index=index)
        frame = PAGE.encode(name, (signer or self.sites.coordinator).sign, data)
        return self.missing(self.site.answer(frame))

    def pages(self, frame: bytes, outline: Outline) -> list[bytes]:
        """All of them."""
        places = [outline.place(index, self.page_bytes) for index in range(len(outline.pages))]
        return [frame[start:stop] for start, stop in places]

    def bring(self, frame: bytes) -> Outline:
        """All pages of a request that the site lacks."""
        outline = self.outline(frame)
        for index in self.missing(self.announce(outline)):
            self.page(outline, index, self.pages(frame, outline)[index])
        return outline

    def fetch(self, outline: Outline, index: int, signer: Identity | None = None) -> bytes:
        """A page of the reply."""
        name = PageName(outline=outline.digest, index=index)
        return self.site.answer(FETCH.encode(name, (signer or self.sites.coordinator).sign))

    def files(self) -> list[int]:
        """Sizes of what lies on the disk."""
        return sorted(path.stat().st_size for path in self.folder.glob("*"))


@pytest.fixture
def party(tmp_path: Path) -> Party:
    """Pages of 16 KiB."""
    return Party(MaskedSites(tmp_path, page_kib=16, whole_kib=16), tmp_path / "pages")


def test_a_request_in_pages_is_answered_like_one_in_a_frame(party: Party) -> None:
    """In any order, with repetitions; the hospital is asked once, when all of it is there."""
    frame = party.request(secrets.token_bytes(90_000))
    outline = party.outline(frame)
    pages = party.pages(frame, outline)
    assert len(pages) == 1 + 6
    assert party.missing(party.announce(outline)) == list(range(7))
    order = list(range(7)) * 2
    Random(3).shuffle(order)  # noqa: S311 -- an order, no secret
    for index in order:
        party.page(outline, index, pages[index])
        assert party.asked == []
    assert party.announce(outline) == party.reply
    assert party.asked == [frame]
    # The same in one frame; what came in pages is over then.
    assert len(party.files()) == 1
    assert party.site.answer(frame) == party.reply
    assert party.asked == [frame, frame]
    assert party.files() == []


def test_nothing_is_answered_while_a_page_is_missing(party: Party) -> None:
    """Whatever was brought before."""
    frame = party.request(secrets.token_bytes(50_000))
    outline = party.outline(frame)
    party.announce(outline)
    for index, page in list(enumerate(party.pages(frame, outline)))[:-1]:
        party.page(outline, index, page)
        assert party.missing(party.announce(outline))[-1] == len(outline.pages) - 1
    assert party.asked == []


def test_any_other_page_is_refused_and_not_kept(party: Party) -> None:
    """Cut, longer, flipped, of another place, request, round or signer: each under its name."""
    body = secrets.token_bytes(50_000)
    frame = party.request(body)
    outline, other = party.outline(frame), party.outline(party.request(body, number=2))
    pages, stranger = party.pages(frame, outline), Identity.generate()
    with pytest.raises(WrongRound):
        party.page(outline, 0, pages[0])  # before it is announced
    missing = party.missing(party.announce(outline))
    flipped = bytes([pages[1][0] ^ 1]) + pages[1][1:]
    for index, data in [
        (1, pages[2]),
        (1, pages[1][:-1]),
        (1, pages[1] + b"x"),
        (1, flipped),
        (99, pages[1]),
        (1, b""),
    ]:
        with pytest.raises(MalformedMessage):
            party.page(outline, index, data)
    with pytest.raises(WrongRound):
        party.page(other, 1, pages[1])
    for signer in (stranger, party.member.identity):
        with pytest.raises(BadSignature):
            party.page(outline, 1, pages[1], signer)
    assert party.missing(party.announce(outline)) == missing
    assert sum(party.files()) == 0
    # The control.
    assert party.page(outline, 1, pages[1]) == [index for index in missing if index != 1]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"plan": "9" * 64}, WrongPlan),
        ({"hospital": "hospital-1"}, WrongPlan),
        ({"size_bytes": 1 << 39}, MalformedMessage),
        ({"head_bytes": 0}, MalformedMessage),
        ({"head_bytes": 1 << 39}, MalformedMessage),
        ({"pages": ("1" * 64,)}, MalformedMessage),
        ({"pages": ("1" * 64,) * 50_000}, MalformedMessage),
    ],
)
def test_an_unsound_outline_is_refused_before_anything_is_kept(
    party: Party, changes: dict[str, Any], error: type[PeerError]
) -> None:
    """No byte lies on the disk for it."""
    frame = party.request(secrets.token_bytes(50_000))
    with pytest.raises(error):
        party.announce(party.outline(frame, **changes))
    with pytest.raises(BadSignature):
        party.announce(party.outline(frame), Identity.generate())
    assert not party.folder.exists()
    assert party.missing(party.announce(party.outline(frame)))


def test_a_request_is_no_longer_than_the_plan_has_a_use_for(party: Party) -> None:
    """A coordinator that turned hostile fills no disk."""
    most = PageSizes.of(party.sites.plan).most_request_bytes
    frame = party.request(b"x" * 50_000)
    head = body_start(frame)
    for size, refused in ((most + 1, True), (most, False)):
        count = 1 - (head - size) // party.page_bytes
        outline = party.outline(frame, size_bytes=size, pages=("1" * 64,) * count)
        if refused:
            with pytest.raises(MalformedMessage, match="at most"):
                party.announce(outline)
        else:
            assert len(party.missing(party.announce(outline))) == count


def test_pages_that_make_another_request_than_was_announced_are_not_answered(party: Party) -> None:
    """The outline names the request; and what they make is checked like any other frame by the hospital."""
    frame = party.request(secrets.token_bytes(50_000))
    outline = party.outline(frame, request="9" * 64)
    party.announce(outline)
    for index, page in enumerate(party.pages(frame, outline)):
        party.page(outline, index, page)
    with pytest.raises(MalformedMessage):
        party.announce(outline)
    assert (party.asked, party.files()) == ([], [])


def test_the_disk_holds_one_request_at_a_time(party: Party) -> None:
    """One that is given up makes room for the next."""
    frames = [party.request(secrets.token_bytes(50_000), number) for number in (1, 2)]
    for frame in frames:
        outline = party.outline(frame)
        party.announce(outline)
        for index, page in list(enumerate(party.pages(frame, outline)))[:-1]:
            party.page(outline, index, page)
    assert len(party.files()) == 1
    assert len(party.missing(party.announce(party.outline(frames[0])))) == 5


def test_a_site_that_is_killed_asks_only_for_what_it_lacks(party: Party) -> None:
    """Pages on the disk are compared again; one that was damaged meanwhile is asked for again."""
    frame = party.request(secrets.token_bytes(90_000))
    outline = party.outline(frame)
    pages = party.pages(frame, outline)
    party.announce(outline)
    for index in (0, 2, 5):
        party.page(outline, index, pages[index])
    (path,) = party.folder.glob("*")
    data = bytearray(path.read_bytes())
    data[outline.place(2, party.page_bytes)[0]] ^= 1
    path.write_bytes(data)
    party.restart()
    with pytest.raises(WrongRound):
        party.page(outline, 1, pages[1])
    assert party.missing(party.announce(outline)) == [1, 2, 3, 4, 6]
    for index in (1, 2, 3, 4, 6):
        party.page(outline, index, pages[index])
    assert party.announce(outline) == party.reply
    assert party.asked == [frame]


def test_a_site_that_is_killed_before_its_answer_arrived_answers_again(party: Party) -> None:
    """The request is still there: no page of it comes twice."""
    frame = party.request(secrets.token_bytes(50_000))
    outline = party.bring(frame)
    for _ in range(2):
        assert party.announce(outline) == party.reply
        party.restart()
    assert party.asked == [frame, frame]


def test_nothing_of_a_run_is_left_behind_its_end(party: Party) -> None:
    """Not what came of a request that was given up, nor a request that ended the run itself."""
    outline = party.outline(party.request(secrets.token_bytes(50_000)))
    party.announce(outline)
    party.site.answer(party.request(b"", kind="hello"))
    assert len(party.files()) == 1
    party.site.answer(party.request(b"", kind="finish"))
    assert party.files() == []
    finish = party.bring(party.request(secrets.token_bytes(50_000), kind="finish"))
    assert len(party.files()) == 1
    assert party.announce(finish) == party.reply
    assert party.files() == []


@pytest.mark.parametrize("damage", ["cut", "gone", "flipped"])
def test_a_damaged_file_locks_no_site_out(party: Party, damage: str) -> None:
    """All pages had come. It says that its disk is damaged, or that they are another request; then it asks again."""
    frame = party.request(secrets.token_bytes(50_000))
    outline = party.bring(frame)
    (path,) = party.folder.glob("*")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "gone":
        path.unlink()
    else:
        path.write_bytes(b"x" + path.read_bytes()[1:])
    with pytest.raises(MalformedMessage if damage == "flipped" else SiteStorageError):
        party.announce(outline)
    assert party.asked == []
    party.bring(frame)
    assert party.announce(outline) == party.reply
    assert party.asked == [frame]


def test_a_disk_that_refuses_a_page_locks_no_site_out(party: Party) -> None:
    """What is there is looked at again."""
    frame = party.request(secrets.token_bytes(50_000))
    outline = party.outline(frame)
    party.announce(outline)
    shutil.rmtree(party.folder)
    with pytest.raises(SiteStorageError):
        party.page(outline, 0, party.pages(frame, outline)[0])
    party.bring(frame)
    assert party.announce(outline) == party.reply


def test_a_page_beyond_any_file_is_refused_by_name(tmp_path: Path) -> None:
    """Its place is a number that no file has."""
    party = Party(MaskedSites(tmp_path, page_kib=65_536, whole_kib=16), tmp_path / "pages", reply=bytes(40_000))
    answer = party.site.answer(party.request(b""))
    outline, _ = LONG_REPLY.decode(answer, party.member.identity.public_hex)
    assert party.fetch(outline, 0) == party.reply
    for index in (1, (1 << 40) - 1):
        with pytest.raises(MalformedMessage, match="shorter"):
            party.fetch(outline, index)


def test_a_long_reply_goes_in_pages(party: Party) -> None:
    """Signed as a whole, the same page as often as it is asked for; it is gone with the next short answer."""
    party.reply = secrets.token_bytes(40_000)
    frame = party.request(b"")
    answer = party.site.answer(frame)
    outline, rest = LONG_REPLY.decode(answer, party.member.identity.public_hex)
    assert (outline.hospital, outline.size_bytes, outline.request) == (NAME, 40_000, party.outline(frame).request)
    assert not rest
    for _ in range(2):
        pages = [party.fetch(outline, index) for index in range(len(outline.pages))]
        assert b"".join(pages) == party.reply
        party.restart()
    for index, page in enumerate(pages):
        outline.check_page(index, page, party.page_bytes)
    with pytest.raises(BadSignature):
        party.fetch(outline, 0, Identity.generate())
    with pytest.raises(MalformedMessage):
        party.fetch(outline, 3)
    with pytest.raises(WrongRound):
        party.fetch(party.outline(frame), 0)
    assert party.site.answer(frame) == answer
    party.reply = b"short"
    assert party.site.answer(frame) == b"short"
    assert party.files() == []
    with pytest.raises(WrongRound):
        party.fetch(outline, 0)


@pytest.mark.parametrize("size", [0, 16 << 10])
def test_what_fits_into_a_page_goes_as_before(party: Party, size: int) -> None:
    """Nothing is written, and the bytes are the hospital's own."""
    party.reply = bytes(size)
    assert party.site.answer(party.request(bytes(size))) == party.reply
    assert not party.folder.exists()
