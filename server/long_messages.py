"""Long messages as the coordinator sends them: bodies that are read where a page of them is sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from common.messages import Kind
from common.page_sizes import PageSizes
from common.pages import LONG_REQUEST, Outline, page_digests
from common.plan import Plan
from common.request_frames import request_digest
from server.bodies import Body, HeldBody, JoinedBody

Sign = Callable[[bytes], bytes]


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
        folder: Where long replies arrive, each in a file without a name.
    """

    def __init__(self, plan: Plan, run: str, *, sign: Sign, folder: Path) -> None:
        self.plan, self.run, self.sign, self.folder = plan, run, sign, folder
        self.sizes = PageSizes.of(plan)
        self.identities = {hospital.name: hospital.identity for hospital in plan.roster}
        self._sent: dict[str, Sent] = {}

    def note(self, kind: Kind, hospital: str, frame: bytes) -> None:
        """Remember a request that goes as it is: its reply may be long."""
        self._sent[hospital] = Sent(hospital, kind, request_digest(frame))

    def announce(self, kind: Kind, hospital: str, head: bytes, body: Body, *, pages: tuple[str, ...]) -> bytes:
        """The frame that announces a long request.

        Args:
            kind: What is asked.
            hospital: The recipient.
            head: The request's frame up to its body.
            body: Its body.
            pages: Digests of the body's pages.
        """
        content = JoinedBody((HeldBody(head), body))
        outline = Outline(
            run=self.run,
            plan=self.plan.digest,
            hospital=hospital,
            request=request_digest(head),
            head_bytes=len(head),
            size_bytes=content.size_bytes,
            pages=(*page_digests(head, self.sizes.page_bytes), *pages),
        )
        self._sent[hospital] = Sent(hospital, kind, outline.request, outline, content)
        return LONG_REQUEST.encode(outline, self.sign)

    def last_to(self, hospital: str) -> Sent | None:
        """The last request to a hospital."""
        return self._sent.get(hospital)
