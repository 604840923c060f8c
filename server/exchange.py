"""One open exchange: takes replies one by one, admits and adds them, and says what each hospital did."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from common.errors import PeerError
from common.messages import SignedManifest
from server.admit import OpenExchange, admit
from server.aggregate import RunningSum, Uploads
from server.store import Outcome, OutcomeKind

SITE_ERROR = 102
MESSAGE_UNAVAILABLE = 3
REPLY_UNAVAILABLE = 4
NODE_UNAVAILABLE = 5
# Flower has lost a message, or its reply, or the time of one of them is over.
LOST = (MESSAGE_UNAVAILABLE, REPLY_UNAVAILABLE)
_SITE_CODE = re.compile(r"site:([A-Za-z]{1,40})")
# Flower's own error codes, as names for people.
FLOWER_ERRORS = {
    1: "ClientAppMissing",
    2: "ClientAppFailed",
    MESSAGE_UNAVAILABLE: "MessageUnavailable",
    REPLY_UNAVAILABLE: "ReplyUnavailable",
    NODE_UNAVAILABLE: "NodeUnavailable",
    7: "BundleRefused",
    8: "ClientAppCrashed",
}


@dataclass(frozen=True, slots=True)
class NodeError:
    """An error that came in place of a reply; `reason` may be anything, for the hospital's gateway is not trusted."""

    code: int
    reason: str

    @classmethod
    def refused(cls, refusal: PeerError) -> NodeError:
        """A page was refused here, so there is no reply."""
        return cls(SITE_ERROR, f"site:{refusal.code}")

    @property
    def name(self) -> str:
        """One word for people and the store."""
        if self.code == SITE_ERROR:
            match = _SITE_CODE.fullmatch(self.reason)
            return match.group(1) if match else "UnnamedSiteError"
        return FLOWER_ERRORS.get(self.code, f"FlowerError{self.code}")


class Collection:
    """The replies to one attempt of one step.

    Args:
        expected: What was asked for.
        down_bytes: Bytes that were sent already to hospitals that are, or will be, asked (see `asked`); a hospital of
            the roster that is not asked is absent.
        catching_up: What the connected hospitals did that are not asked.
        uploads: Keeps the admitted uploads; None: memory does.
        heard: Is told each admitted manifest.
    """

    def __init__(
        self,
        expected: OpenExchange,
        down_bytes: Mapping[str, int],
        *,
        catching_up: Mapping[str, Outcome] | None = None,
        uploads: Uploads | None = None,
        heard: Callable[[SignedManifest], None] | None = None,
    ) -> None:
        self.expected = expected
        self.total = RunningSum(expected.parameters, uploads)
        self.applied: dict[str, int] = {}
        self.manifests: dict[str, SignedManifest] = {}
        self.catching_up = dict(catching_up or {})
        self._down_bytes = dict(down_bytes)
        self._heard = heard
        self._seen: dict[str, str] = {}
        self._outcomes: dict[str, Outcome] = {}

    def asked(self, hospital: str, down_bytes: int) -> None:
        """Note that a hospital is asked, with a request of this size."""
        self._down_bytes[hospital] = self.asked_bytes(hospital) + down_bytes

    def asked_bytes(self, hospital: str) -> int:
        """What was sent to a hospital."""
        return self._down_bytes.get(hospital, 0)

    def take(self, hospital: str, answer: bytes | memoryview | NodeError, *, seconds: float) -> Outcome:
        """Take one hospital's answer; a refused one is recorded under the refusal's code.

        Args:
            hospital: Roster name of the node that sent it.
            answer: The reply's frame, or the error that came in its place.
            seconds: Time since the exchange opened.
        """
        if isinstance(answer, NodeError):
            return self._note(hospital, "failed", code=answer.name, seconds=seconds)
        try:
            admitted = admit(answer, hospital, expected=self.expected, seen=self._seen)
        except PeerError as refusal:
            return self._note(hospital, "failed", code=refusal.code, up_bytes=len(answer), seconds=seconds)
        if admitted is None:
            return self._outcomes[hospital]
        self._seen[hospital] = admitted.frame_digest
        manifest = admitted.signed.manifest
        self.applied[hospital], self.manifests[hospital] = manifest.applied.round, admitted.signed
        if self._heard is not None:
            self._heard(admitted.signed)
        if admitted.upload is not None:
            self.total.add(admitted.signed, admitted.upload)
        kind: OutcomeKind = "observed" if admitted.upload is None else "contributed"
        return self._note(hospital, kind, code=manifest.reason, up_bytes=len(answer), seconds=seconds)

    @property
    def answered(self) -> frozenset[str]:
        """Hospitals whose reply was admitted."""
        return frozenset(self._seen)

    def outcomes(self, seconds: float) -> tuple[Outcome, ...]:
        """What each hospital of the roster did, once no more replies are taken; in roster order."""
        for hospital in self.expected.identities:
            if hospital in self.catching_up:
                self._outcomes[hospital] = self.catching_up[hospital]
            elif hospital not in self._down_bytes:
                self._note(hospital, "absent", code="", seconds=0.0)
            elif hospital not in self._outcomes:
                self._note(hospital, "late", code="", seconds=seconds)
        for hospital in self.total.outside:
            seen = self._outcomes[hospital]
            self._note(hospital, "diverged", code="", up_bytes=seen.up_bytes, seconds=seen.seconds)
        return tuple(self._outcomes[hospital] for hospital in self.expected.identities)

    def _note(self, hospital: str, outcome: OutcomeKind, *, code: str, seconds: float, up_bytes: int = 0) -> Outcome:
        noted = Outcome(hospital, outcome, code, up_bytes, self._down_bytes.get(hospital, 0), round(seconds, 3))
        self._outcomes[hospital] = noted
        return noted


def explain(outcomes: tuple[Outcome, ...], done: frozenset[str]) -> str:
    """What the hospitals did that are not in `done`, in words for the operator."""
    return ", ".join(
        f"{o.hospital} {o.outcome}{f' ({o.code})' if o.code else ''}" for o in outcomes if o.hospital not in done
    )
