"""Carries the key ceremony between the hospitals; it can open nothing of what it carries."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from common.errors import DeploymentError, PeerError
from common.key_messages import (
    Confirmation,
    Confirmations,
    Deal,
    Signed,
    check_document,
    dealer_of,
    decode_document,
    encode_document,
)
from common.messages import Kind
from server.exchange import NodeError
from server.one_by_one import OneByOneGrid
from server.progress import ProgressFile
from server.requests import RequestWriter, Step
from server.store import Outcome, Store

log = logging.getLogger(__name__)

MOST_CEREMONIES = 3
KEY_MISSING = "KeyMissing"
"""What a hospital answers that has not been dealt the epoch's key."""


class KeyExchange:
    """The three exchanges of the ceremony: the dealer deals, all open, all compare.

    Args:
        writer: Signs the requests.
        grid: Where they go.
        progress: What the operator sees.
        store: Keeps the sealed deal of each plan, so that hospitals can join while the dealer is away.
        answer_within_s: How long each answer is waited for, seconds.
    """

    def __init__(
        self,
        writer: RequestWriter,
        grid: OneByOneGrid,
        *,
        progress: ProgressFile,
        store: Store,
        answer_within_s: float,
    ) -> None:
        self._store = store
        self._asked: Counter[str] = Counter()
        self._writer, self._grid, self._progress, self._answer_within_s = writer, grid, progress, answer_within_s
        self._identities = {hospital.name: hospital.identity for hospital in writer.plan.roster}

    def is_missing(self, outcomes: Sequence[Outcome]) -> bool:
        """Whether a hospital needs the ceremony; one that says so for ever is not believed for ever."""
        names = [outcome.hospital for outcome in outcomes if outcome.code == KEY_MISSING]
        self._asked.update(names)
        return any(self._asked[name] <= MOST_CEREMONIES for name in names)

    def bring(self, nodes: Mapping[str, int], *, needed: bool) -> None:
        """Hold the ceremony.

        Args:
            nodes: Node ids of the connected hospitals.
            needed: Whether too few hospitals have the key; else the run goes on without those that it fails for.

        Raises:
            DeploymentError: If it is needed and fails; see `hold`.
        """
        try:
            self.hold(nodes)
        except DeploymentError as error:
            if needed:
                raise
            log.warning("%s; the run goes on with the hospitals that hold the key", error)

    def hold(self, nodes: Mapping[str, int]) -> None:
        """Bring the epoch's key to all connected hospitals; those that have it say so again.

        Args:
            nodes: Node ids of the connected hospitals.

        Raises:
            DeploymentError: If the dealer is away and has not dealt before, or fewer than the minimum cohort hold one
                key in the end.
        """
        plan = self._writer.plan
        dealer, needed = dealer_of(plan.digest, tuple(self._identities)), plan.min_cohort
        deal = self._store.deal(plan.digest) or self._dealt_by(dealer, nodes)
        opened = self._ask("open", nodes, deal)
        signed = {name: self._signed(answer, Confirmation, name) for name, answer in opened.items()}
        good = {name: document for name, document in signed.items() if document is not None}
        together = encode_document(Confirmations(confirmations=tuple(good.values())))
        confirmed = self._ask("confirm", {name: nodes[name] for name in good}, together)
        agreed = [name for name in self._identities if isinstance(confirmed.get(name), bytes)]
        answers = opened | confirmed
        failed = [f"{name} {_code(answers.get(name))}" for name in nodes if name not in agreed]
        if len(agreed) < needed:
            raise DeploymentError(
                f"the key ceremony brought one key to {len(agreed)} hospitals, {needed} are needed: "
                f"{', '.join(failed) or 'the others are not connected'}; look into their logs"
            )
        log.info(
            "key ceremony: %s dealt, %s hold the key; %s", dealer, ", ".join(agreed), ", ".join(failed) or "no error"
        )

    def _dealt_by(self, dealer: str, nodes: Mapping[str, int]) -> bytes:
        """Have the dealer deal, and keep its deal: sealed to the hospitals, and signed."""
        if dealer not in nodes:
            raise DeploymentError(f"the key of this plan is dealt by {dealer}, which is not connected; start it")
        deal = self._ask("deal", {dealer: nodes[dealer]}, b"").get(dealer)
        if not isinstance(deal, bytes) or self._signed(deal, Deal, dealer) is None:
            raise DeploymentError(f"{dealer} dealt no key ({_code(deal)}); look into its log")
        self._store.save_deal(self._writer.plan.digest, deal)
        return deal

    def _ask(self, kind: Kind, nodes: Mapping[str, int], body: bytes) -> dict[str, bytes | NodeError]:
        self._progress.open(kind, 0, attempt=0, connected=tuple(nodes))
        end = time.monotonic() + self._answer_within_s
        frames = {name: self._writer.write_plain(Step(kind, 0), name, body=body) for name in nodes}
        return dict(self._grid.ask(kind, frames, nodes, deadline=lambda: end, ttl_s=self._answer_within_s))

    def _signed(self, answer: bytes | NodeError | None, model: type[Signed], hospital: str) -> Signed | None:
        """A hospital's document, if it is one that it signed; one bad answer must not spoil the others' ceremony."""
        if not isinstance(answer, bytes):
            return None
        try:
            document = decode_document(answer, model)
            check_document(document, self._identities)
        except PeerError as error:
            log.warning("%s: %s", hospital, error)
            return None
        return document if document.hospital == hospital else None


def _code(answer: bytes | NodeError | None) -> str:
    if answer is None:
        return "no answer"
    return answer.name if isinstance(answer, NodeError) else "unusable answer"
