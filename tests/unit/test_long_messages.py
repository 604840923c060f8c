"""The coordinator sends and takes what is longer than a page in pages, and holds no more than a few of them."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import BadSignature, MalformedMessage, PeerError, WrongPlan, WrongRound
from common.identity import Identity
from common.page_sizes import PageSizes
from common.pages import (
    FETCH,
    LONG_REPLY,
    PAGE,
    WANTED,
    Outline,
    Wanted,
    page_digests,
)
from common.request_frames import encode_request
from common.transcript import MerkleTree
from common.verdicts import record_with_path
from server.bodies import Body, HeldBody, JoinedBody, PageHashes, RecordsBody, StoredBody
from server.conversation import Conversation
from server.long_messages import LongMessages
from tests.support.in_process_grid import Answer, as_server_app
from tests.support.masked_sites import MaskedSites
from tests.support.trivial_sums import check_sums
from tests.support.whole_run import WholeRun, trivial_run

NAMES = tuple(f"hospital-{k}" for k in range(1, 6))
LIAR = NAMES[1]
ROUNDS = 2
PAGE_KIB = 16
# What a frame of pages has besides its page: header and signature.
REST_BYTES = 512


def make_run(
    folder: Path, verification: str = "full", *, page_kib: int = PAGE_KIB, whole_kib: int = PAGE_KIB
) -> WholeRun:
    """Five hospitals, four of them needed, whose uploads take 22 kB."""
    return trivial_run(
        folder,
        NAMES,
        rounds=ROUNDS,
        verification=verification,
        page_kib=page_kib,
        whole_kib=whole_kib,
        round_timeout_s=120.0,
    )


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WholeRun:
    """A run whose uploads and sums go in pages."""
    as_server_app(monkeypatch)
    return make_run(tmp_path)


def check_run(run: WholeRun) -> None:
    """Every hospital of a round holds the sum of what its survivors uploaded."""
    check_sums(run.folder, run.plan, {number: run.ended(number) for number in range(1, ROUNDS + 1)})


def go_and_note(run: WholeRun) -> list[tuple[bytes, bytes]]:
    """Carry a run to its end; each frame to a hospital, and its answer."""
    frames: list[tuple[bytes, bytes]] = []

    def gateway(_: str, answer: Answer) -> Answer:
        def noting(frame: bytes) -> bytes:
            reply = answer(frame)
            frames.append((frame, reply))
            return reply

        return noting

    run.gateway = gateway
    run.go()
    check_run(run)
    return frames


@pytest.mark.parametrize("verification", ["full", "sampled"])
def test_a_run_in_pages_asks_what_a_run_without_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verification: str
) -> None:
    """The same requests, whole, in the same exchanges; no message is longer than a page, in either direction."""
    as_server_app(monkeypatch)
    sizes, seen = dict[int, list[int]](), {}
    for whole_kib in (PAGE_KIB, 8192):
        run = make_run(tmp_path / str(whole_kib), verification, whole_kib=whole_kib)
        sizes[whole_kib] = [len(one) for pair in go_and_note(run) for one in pair]
        seen[whole_kib] = Counter((name, request.kind, request.round) for name, request, _ in run.requests)
        up = [o.up_bytes for e in run.exchanges() if e.kind == "train" for o in e.outcomes]
        assert min(up) > PAGE_KIB << 10
        # Nothing of it is left on the hospitals' disks.
        assert not [path for name in NAMES for path in (run.folder / name / "pages").glob("*")]
    assert seen[PAGE_KIB] == seen[8192]
    assert max(sizes[PAGE_KIB]) <= (PAGE_KIB << 10) + REST_BYTES
    # The control.
    assert max(sizes[8192]) > 2 * max(sizes[PAGE_KIB])


@pytest.mark.parametrize(("page_kib", "whole_kib"), [(64, 16), (16, 64)])
def test_what_is_long_and_how_long_a_page_is_are_two_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page_kib: int, whole_kib: int
) -> None:
    """An upload of 22 kB goes in one page of 64 KiB where 16 KiB go whole, and whole where 64 KiB do."""
    as_server_app(monkeypatch)
    frames = go_and_note(make_run(tmp_path, page_kib=page_kib, whole_kib=whole_kib))
    fetched = [len(reply) for frame, reply in frames if FETCH.matches(frame)]
    brought = [len(frame) for frame, _ in frames if PAGE.matches(frame)]
    assert len(fetched) == (len(NAMES) * ROUNDS if whole_kib == 16 else 0)
    assert all(size > 20_000 for size in fetched)
    # Requests with a sum and all uploads are long in either case; the longest page is a full one.
    assert page_kib << 10 < max(brought) <= (page_kib << 10) + REST_BYTES


class Killed(Exception):
    """What a kill looks like from within."""


@pytest.mark.parametrize("verification", ["full", "sampled"])
def test_a_coordinator_that_is_killed_between_two_pages_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verification: str
) -> None:
    """Again and again, at other pages: each round has one attempt, and the sum of what was uploaded in it."""
    as_server_app(monkeypatch)
    run = make_run(tmp_path, verification)
    killed, passed = 0, 0

    def gateway(_: str, answer: Answer) -> Answer:
        def killing(frame: bytes) -> bytes:
            nonlocal passed
            passed += 1
            if passed == 37 + killed:
                raise Killed
            return answer(frame)

        return killing

    run.gateway = gateway
    for _ in range(200):
        try:
            run.go()
            break
        except Killed:
            killed, passed = killed + 1, 0
            run.grid.waiting.clear()
    assert killed >= 3
    check_run(run)
    assert {(e.round, e.attempt) for e in run.exchanges() if e.kind == "train"} == {(1, 0), (2, 0)}
    uploads = {(name, request.round) for name, request, _ in run.requests if request.kind == "train"}
    assert uploads == {(name, number) for name in NAMES for number in (1, 2)}


@pytest.mark.parametrize(("lost", "contributed"), [([3, 4, 3], True), ([5], False), ([3] * 60, False)])
def test_a_page_that_flower_loses_is_fetched_again(run: WholeRun, lost: list[int], contributed: bool) -> None:  # noqa: FBT001 -- a parameter
    """A few times; a node that is gone, or loses all, is given up, and its hospital asked in the next attempt."""
    run.grid.lost = lost
    run.go()
    check_run(run)
    first = run.exchanges()[2]
    assert (first.kind, first.round, first.attempt) == ("train", 1, 0)
    assert all(o.outcome == "contributed" for o in first.outcomes) == contributed


@dataclass
class Lie:
    """Changes what one hospital answers in round 2: one message of it, or all of a kind."""

    run: WholeRun
    way: str
    told: int = 0
    outlines: list[Outline] = field(default_factory=list)
    wanted: str = ""

    def gateway(self, name: str, answer: Answer) -> Answer:
        """Of the others it changes nothing."""
        return self._lying(answer) if name == LIAR else answer

    def _lying(self, answer: Answer) -> Answer:
        member = self.run.members[LIAR]

        def lying(frame: bytes) -> bytes:
            reply = answer(frame)
            if LONG_REPLY.matches(reply):
                outline, _ = LONG_REPLY.decode(reply, member.identity.public_hex)
                self.outlines.append(outline)
                if len(self.outlines) == 1:
                    return reply  # of round 1
                return self._other_outline(outline, member.identity) or reply
            if WANTED.matches(reply) and not PAGE.matches(frame):
                wanted, _ = WANTED.decode(reply, member.identity.public_hex)
                return self._other_wanted(wanted, member.identity) or reply
            if FETCH.matches(frame) and len(self.outlines) == 2:
                return self._other_page(reply)
            return reply

        return lying

    def _other_outline(self, outline: Outline, identity: Identity) -> bytes:
        changes: dict[str, dict[str, Any]] = {
            "another request": {"request": self.outlines[0].request},
            "another run": {"run": "9" * 32},
            "another plan": {"plan": "9" * 64},
            "another hospital": {"hospital": NAMES[0]},
            "too long": {"size_bytes": 1 << 39},
            "a head": {"head_bytes": 1},
            "too few pages": {"pages": outline.pages[:1]},
            "a stranger's outline": {},
        }
        if self.way not in changes:
            return b""
        self.told += 1
        signer = Identity.generate() if self.way == "a stranger's outline" else identity
        made = LONG_REPLY.encode(outline.model_copy(update=changes[self.way]), signer.sign)
        return made + (b"x" if self.way == "too long" else b"")

    def _other_wanted(self, wanted: Wanted, identity: Identity) -> bytes:
        changes = {
            "no progress": {"bits": "3"},
            "pages that there are not": {"bits": "f" * 1000},
            "nothing wanted": {"bits": "0"},
            "wanted of another request": {"outline": "9" * 64},
        }
        self.wanted = self.wanted or wanted.outline
        if self.way not in changes or wanted.outline != self.wanted:
            return b""
        self.told += 1
        return WANTED.encode(wanted.model_copy(update=changes[self.way]), identity.sign)

    def _other_page(self, reply: bytes) -> bytes:
        made = {
            "a flipped page": bytes([reply[0] ^ 1]) + reply[1:],
            "a cut page": reply[:-1],
            "a longer page": reply + b"x",
            "no page": b"",
        }.get(self.way)
        self.told += made is not None
        return reply if made is None else made


@pytest.mark.parametrize(
    ("way", "error"),
    [
        ("another request", WrongRound),
        ("another run", WrongPlan),
        ("another plan", WrongPlan),
        ("another hospital", WrongPlan),
        ("too long", WrongRound),
        ("a head", MalformedMessage),
        ("too few pages", MalformedMessage),
        ("a stranger's outline", BadSignature),
        ("no progress", MalformedMessage),
        ("pages that there are not", MalformedMessage),
        ("nothing wanted", MalformedMessage),
        ("wanted of another request", WrongRound),
        ("a flipped page", MalformedMessage),
        ("a cut page", MalformedMessage),
        ("a longer page", MalformedMessage),
        ("no page", MalformedMessage),
    ],
)
def test_a_hospital_that_lies_about_pages_is_refused_by_name(run: WholeRun, way: str, error: type[PeerError]) -> None:
    """The round ends with the others."""
    lie = Lie(run, way)
    run.gateway = lie.gateway
    run.go()
    assert lie.told
    check_run(run)
    (train,) = [e for e in run.exchanges() if (e.kind, e.round) == ("train", 2)]
    assert {o.hospital: (o.outcome, o.code) for o in train.outcomes} == {
        name: ("failed", error.__name__) if name == LIAR else ("contributed", "") for name in NAMES
    }
    assert run.ended(2) == tuple(name for name in NAMES if name != LIAR)


@dataclass
class Party:
    """The coordinator's side of one exchange with one hospital."""

    sites: MaskedSites
    folder: Path

    def __post_init__(self) -> None:
        plan = self.sites.plan
        self.long = LongMessages(plan, "a" * 32, sign=self.sites.coordinator.sign, folder=self.folder)
        self.request = encode_request(self.sites.request("train", 1, LIAR), b"", self.sites.coordinator.sign)

    def conversation(self) -> Conversation:
        """About the last request."""
        sent = self.long.last_to(LIAR)
        assert sent is not None
        return Conversation(self.long, sent)

    def outline(self, reply: bytes | bytearray) -> bytes:
        """What the hospital says of a long reply."""
        sent = self.long.last_to(LIAR)
        assert sent is not None
        outline = Outline.of(
            bytes(reply),
            run="a" * 32,
            plan=self.sites.plan.digest,
            hospital=LIAR,
            request=sent.request,
            page_bytes=PageSizes.of(self.sites.plan).page_bytes,
        )
        return LONG_REPLY.encode(outline, self.sites.identities[LIAR].sign)


def test_a_long_request_and_a_long_reply_take_the_memory_of_a_few_pages(tmp_path: Path) -> None:
    """Both have 40 pages; the memory is that of Python and numpy, and of nothing that was mapped from the disk."""
    party = Party(MaskedSites(tmp_path, page_kib=PAGE_KIB, whole_kib=PAGE_KIB), tmp_path)
    page_bytes, whole = PageSizes.of(party.sites.plan).page_bytes, bytearray(40 * (PAGE_KIB << 10))
    party.long.note("checkpoint", LIAR, party.request)
    announced = party.outline(whole)
    tracemalloc.start()
    try:
        body = StoredBody(len(whole), lambda: nullcontext(lambda start, stop: bytes(whole[start:stop])))
        hashes = PageHashes(page_bytes).up_to(len(whole), body)
        party.long.announce("checkpoint", LIAR, party.request, body, pages=hashes.pages)
        talk, sent = party.conversation(), party.long.last_to(LIAR)
        assert sent is not None
        assert sent.outline is not None
        wanted = Wanted.of(sent.outline.digest, (1 << 41) - 1)
        follow_ups = talk.hear(WANTED.encode(wanted, party.sites.identities[LIAR].sign), None)
        assert not isinstance(follow_ups, bytes | memoryview)
        assert sum(len(one.page) for one in follow_ups) > len(whole)
        fetches = talk.hear(announced, None)
        assert not isinstance(fetches, bytes | memoryview)
        pages = [one.answer for one in fetches]
        for page in pages:
            assert page is not None
            reply = talk.hear(bytes(whole[page * page_bytes : (page + 1) * page_bytes]), page)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(reply, memoryview)
    assert bytes(reply) == whole
    assert peak < 5 * page_bytes


def test_a_reply_is_no_longer_than_what_was_asked_for_can_be(tmp_path: Path) -> None:
    """It is refused before a page of it is asked for."""
    party = Party(MaskedSites(tmp_path, page_kib=PAGE_KIB, whole_kib=PAGE_KIB), tmp_path)
    most = PageSizes.of(party.sites.plan).most_reply_bytes("train")
    party.long.note("train", LIAR, party.request)
    with pytest.raises(MalformedMessage, match="at most"):
        party.conversation().hear(party.outline(bytes(most + 1)), None)
    talk = party.conversation()
    follow_ups = talk.hear(party.outline(bytes(most)), None)
    assert not isinstance(follow_ups, bytes | memoryview)
    assert [one.answer for one in follow_ups] == list(range(-(-most // (PAGE_KIB << 10))))
    talk.close()


def test_a_page_that_was_not_asked_for_is_refused(tmp_path: Path) -> None:
    """Also one that came before."""
    party = Party(MaskedSites(tmp_path, page_kib=PAGE_KIB, whole_kib=PAGE_KIB), tmp_path)
    reply = bytes(20_000)
    party.long.note("train", LIAR, party.request)
    talk = party.conversation()
    with pytest.raises(WrongRound):
        talk.hear(reply[: PAGE_KIB << 10], 0)
    talk.hear(party.outline(reply), None)
    talk.hear(reply[: PAGE_KIB << 10], 0)
    for page in (0, 2):
        with pytest.raises(WrongRound):
            talk.hear(reply[: PAGE_KIB << 10], page)
    with pytest.raises(WrongRound):
        talk.hear(party.outline(reply), None)
    assert talk.hear(reply[PAGE_KIB << 10 :], 1) == reply


def _records() -> tuple[bytes, RecordsBody]:
    upload, own = bytes(range(256)) * 11, (0, 3, 4, 10)
    tree = MerkleTree(upload, 11)
    whole = b"".join(record_with_path(upload[256 * chunk : 256 * (chunk + 1)], tree, chunk) for chunk in own)
    opened = lambda: nullcontext(lambda start, stop: upload[start:stop])  # noqa: E731 -- an opener
    return whole, RecordsBody(opened, tree, own, chunks=11, record_bytes=256)


@given(st.data())
def test_a_body_is_read_in_any_parts(data: st.DataObject) -> None:
    """As if it were one string of bytes."""
    records, records_body = _records()
    texts = data.draw(st.lists(st.binary(max_size=40), max_size=6))
    parts: list[Body] = [HeldBody(text) for text in texts]
    at = data.draw(st.integers(0, len(parts)))
    whole = b"".join([*texts[:at], records, *texts[at:]])
    body = JoinedBody([*parts[:at], JoinedBody([records_body]), *parts[at:]])
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    assert (body.size_bytes, body.read(start, stop)) == (len(whole), whole[start:stop])
    assert body.read(0, len(whole)) == whole


def outline_of(head_bytes: int, page_bytes: int, data: bytes) -> Outline:
    """Of any bytes."""
    return Outline.of(
        data,
        run="a" * 32,
        plan="1" * 64,
        hospital=LIAR,
        request="2" * 64,
        head_bytes=head_bytes,
        page_bytes=page_bytes,
    )


@given(st.integers(0, 300), st.integers(1, 300), st.integers(1, 70))
def test_pages_are_the_whole_in_order(head: int, rest: int, page_bytes: int) -> None:
    """No byte twice and none missing, no page longer than allowed; those of the rest do not depend on the head."""
    data = hashlib.shake_128(b"message").digest(head + rest)
    outline = outline_of(head, page_bytes, data)
    outline.check_size(most_bytes=len(data), page_bytes=page_bytes)
    places = [outline.place(index, page_bytes) for index in range(len(outline.pages))]
    assert b"".join(data[start:stop] for start, stop in places) == data
    assert all(0 < stop - start <= page_bytes for start, stop in places)
    for index, (start, stop) in enumerate(places):
        outline.check_page(index, data[start:stop], page_bytes)
    alone = outline_of(0, page_bytes, data[head:])
    assert outline.pages[len(outline.pages) - len(alone.pages) :] == alone.pages
    with pytest.raises(MalformedMessage):
        outline.check_size(most_bytes=len(data) - 1, page_bytes=page_bytes)


@given(st.binary(max_size=300), st.binary(max_size=300), st.integers(1, 70))
def test_what_several_hospitals_get_is_hashed_once(shared: bytes, own: bytes, page_bytes: int) -> None:
    """Each goes on behind its last full page, and all come to the digests of the whole."""
    body, whole = HeldBody(shared), JoinedBody((HeldBody(shared), HeldBody(own)))
    full = PageHashes(page_bytes).up_to(len(shared) // page_bytes * page_bytes, body)
    made = [full.up_to(whole.size_bytes, whole) for _ in range(2)]
    assert {one.whole for one in made} == {hashlib.sha256(shared + own).hexdigest()}
    assert {one.pages for one in made} == {page_digests(shared + own, page_bytes)}


@given(st.sets(st.integers(0, 6), min_size=0))
def test_wanted_pages_are_named_one_way(missing: set[int]) -> None:
    """Bits and pages are each other's inverse."""
    assert Wanted.of("1" * 64, sum(1 << index for index in missing)).missing == tuple(sorted(missing))
