"""Frames about pages, cut, flipped or signed by others, are refused by name, whatever they say."""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.paged_site import PagedSite
from common.errors import PeerError
from common.identity import Identity
from common.page_sizes import PageSizes
from common.pages import (
    FETCH,
    LONG_REPLY,
    LONG_REQUEST,
    PAGE,
    WANTED,
    Form,
    PageName,
    page_digests,
)
from common.request_frames import decode_request, encode_request
from server.bodies import HeldBody
from server.conversation import Conversation
from server.long_messages import LongMessages
from tests.support.masked_sites import MaskedSites

NAME = "hospital-3"
BODY = secrets.token_bytes(40_000)


class World:
    """A site in the middle of a long request, with a long reply that it gave before; and its coordinator."""

    def __init__(self, folder: Path) -> None:
        sites = MaskedSites(folder, page_kib=16, whole_kib=16)
        self.plan, self.coordinator, self.member = sites.plan, sites.coordinator, sites.member(NAME)
        self.identity = self.member.identity
        sign = self.coordinator.sign
        self.long = LongMessages(self.plan, "a" * 32, sign=sign, folder=folder)
        self.site = PagedSite(self._answer, self.member, folder=folder / "pages")
        digest = hashlib.sha256(BODY).hexdigest()
        head = encode_request(sites.request("train", 1, NAME, body_sha256=digest), b"", sign)
        self.outline_frame = self.long.announce("train", NAME, head, HeldBody(BODY), pages=page_digests(BODY, 16 << 10))
        small = encode_request(sites.request("hello", 0, NAME), b"", sign)
        self.reply_frame = self.site.answer(small)
        reply, _ = LONG_REPLY.decode(self.reply_frame, self.identity.public_hex)
        self.outline, _ = LONG_REQUEST.decode(self.outline_frame, self.coordinator.public_hex)
        self.wanted_frame = self.site.answer(self.outline_frame)
        name = PageName(outline=self.outline.digest, index=1)
        self.page_frame = PAGE.encode(name, sign, BODY[: PageSizes.of(self.plan).page_bytes])
        self.fetch_frame = FETCH.encode(PageName(outline=reply.digest, index=1), sign)
        self.to_site = (self.outline_frame, self.page_frame, self.fetch_frame)

    def _answer(self, frame: bytes | memoryview) -> bytes:
        decode_request(frame, self.coordinator.public_hex)
        return BODY

    def hear(self, frame: bytes) -> object:
        """What the coordinator makes of an answer to its long request."""
        sent = self.long.last_to(NAME)
        assert sent is not None
        return Conversation(self.long, sent).hear(frame, None)

    def missing(self) -> tuple[int, ...]:
        """What the site lacks."""
        wanted = self.site.answer(self.outline_frame)
        return WANTED.decode(wanted, self.identity.public_hex)[0].missing


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """One for all."""
    return World(tmp_path_factory.mktemp("world"))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2), st.data())
def test_any_flipped_bit_or_cut_is_refused_by_the_site(world: World, which: int, data: st.DataObject) -> None:
    """And what it holds stays as it was."""
    frame = world.to_site[which]
    if data.draw(st.booleans()):
        bit = data.draw(st.integers(0, 8 * len(frame) - 1))
        made = bytearray(frame)
        made[bit // 8] ^= 1 << bit % 8
    else:
        made = bytearray(frame[: data.draw(st.integers(0, len(frame) - 1))])
    with pytest.raises(PeerError):
        world.site.answer(bytes(made))
    assert world.missing() == tuple(range(len(world.outline.pages)))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.booleans(), st.data())
def test_any_flipped_bit_is_refused_by_the_coordinator(world: World, reply: bool, data: st.DataObject) -> None:  # noqa: FBT001 -- drawn
    """Or taken for a whole reply, which is refused where such are admitted."""
    frame = world.reply_frame if reply else world.wanted_frame
    bit = data.draw(st.integers(0, 8 * len(frame) - 1))
    made = bytearray(frame)
    made[bit // 8] ^= 1 << bit % 8
    if bit < 64:
        assert world.hear(bytes(made)) == made
        return
    with pytest.raises(PeerError):
        world.hear(bytes(made))


@pytest.mark.parametrize("which", [0, 1, 2])
def test_only_the_plans_coordinator_says_anything_of_pages(world: World, which: int, tmp_path: Path) -> None:
    """Not another key, and not a signature of another purpose; the control is the frame itself."""
    frame = world.to_site[which]
    forms: tuple[Form[Any], ...] = (LONG_REQUEST, PAGE, FETCH, WANTED, LONG_REPLY)
    header, body = forms[which].decode(frame, world.coordinator.public_hex)
    for signer in (Identity.generate(), world.identity):
        with pytest.raises(PeerError):
            world.site.answer(forms[which].encode(header, signer.sign, body))
    for other in forms[:which] + forms[which + 1 :]:
        with pytest.raises(PeerError):
            world.site.answer(other.magic + frame[8:])
    fresh = World(tmp_path)
    assert fresh.site.answer(fresh.to_site[which])
