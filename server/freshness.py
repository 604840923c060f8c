"""Carries the freshness check between hospitals that were started and their peers; it can forge neither side."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from common.errors import MalformedMessage, WrongPlan
from common.freshness_messages import FreshnessAnswer, OpenNonce
from common.mask_messages import identity_of
from common.messages import UPLOAD_KINDS, Kind, decode_reply
from common.plan import Plan

ASKING: tuple[Kind, ...] = ("keys", "unmask")
"""Requests that forward nonces: their replies carry answers."""
TELLING: tuple[Kind, ...] = ("keys", *UPLOAD_KINDS, "unmask")
"""Requests that bring answers."""


@dataclass(slots=True)
class FreshnessDesk:
    """Open nonces and the answers to them, in memory: after a restart of the coordinator the sites' next replies tell.

    Args:
        plan: The plan.
        run: The run.
    """

    plan: Plan
    run: str
    _open: dict[str, OpenNonce] = field(default_factory=dict)
    _answers: dict[str, dict[str, FreshnessAnswer]] = field(default_factory=dict)
    _ledgers: dict[str, str] = field(default_factory=dict)

    def note(self, hospital: str, nonce: str, *, ledger: str = "") -> None:
        """Note what a hospital asks, or that it asks no more.

        Args:
            hospital: Its name.
            nonce: Its nonce, hex; empty: it is fresh.
            ledger: Which ledger it charges, hex; empty: the one that it named before.
        """
        known = self._ledgers[hospital] = ledger or self._ledgers.get(hospital, "")
        if not nonce or not known:
            self._forget(hospital)
        elif hospital not in self._open or self._open[hospital].nonce != nonce:
            self._forget(hospital)
            self._open[hospital] = OpenNonce(hospital=hospital, nonce=nonce, ledger=known)

    def is_open(self, hospitals: Collection[str]) -> bool:
        """Whether one of these waits for more answers than are there."""
        needed = self.plan.cohort.assumed_colluders + 1
        return any(len(self._answers.get(name, ())) < needed for name in self._open if name in hospitals)

    def nonces_for(self, hospital: str, kind: Kind) -> tuple[OpenNonce, ...]:
        """What a request asks a hospital about others."""
        return tuple(one for name, one in self._open.items() if name != hospital) if kind in ASKING else ()

    def answers_for(self, hospital: str, kind: Kind) -> tuple[FreshnessAnswer, ...]:
        """What a request tells a hospital about itself."""
        return tuple(self._answers.get(hospital, {}).values()) if kind in TELLING else ()

    def take(self, answers: tuple[FreshnessAnswer, ...], hospital: str, *, epoch: int) -> None:
        """Keep a hospital's answers to nonces that are open; whoever asked would refuse a request with a bad one.

        Args:
            answers: What came.
            hospital: The name under which the node that sent them is registered.
            epoch: Key epoch of the document that they came in.

        Raises:
            BadSignature: If this hospital did not sign one, or the asker not what it shows.
            WrongPlan: If one is for another run, plan, epoch or ledger, or of another hospital, or to itself.
            MalformedMessage: If one shows no manifests.
        """
        identities = {one.name: one.identity for one in self.plan.roster}
        fitting = []
        for answer in answers:
            seen = (answer.hospital, answer.run, answer.plan, answer.epoch)
            asked = self._open.get(answer.asker)
            if asked is not None and asked.nonce != answer.nonce:
                asked = None
            if seen != (hospital, self.run, self.plan.digest, epoch) or answer.asker == hospital:
                raise WrongPlan(f"an answer that {hospital} brought is none of it in this run; refuse its reply")
            if asked is not None and asked.ledger != answer.ledger:
                raise WrongPlan(f"{hospital} answers {answer.asker} about another ledger; refuse its reply")
            answer.check(identity_of(hospital, identities))
            if asked is not None:
                _check_seen(answer, identities)
                fitting.append(answer)
        for answer in fitting:
            self._answers.setdefault(answer.asker, {})[hospital] = answer

    def _forget(self, hospital: str) -> None:
        self._open.pop(hospital, None)
        self._answers.pop(hospital, None)


def _check_seen(answer: FreshnessAnswer, identities: Mapping[str, str]) -> None:
    asker = {answer.asker: identity_of(answer.asker, identities)}
    if any(decode_reply(bytes.fromhex(one), asker).body for one in answer.seen):
        raise MalformedMessage(f"{answer.hospital} shows more than manifests of {answer.asker}; refuse its reply")
