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
from server.epochs import Epochs
from server.exchange import NodeError
from server.one_by_one import OneByOneGrid
from server.progress import ProgressFile
from server.requests import RequestWriter
from server.store import Outcome, Store

log = logging.getLogger(__name__)

MOST_CEREMONIES = 3
KEY_MISSING = "KeyMissing"
"""What a hospital answers that has not been dealt the epoch's key."""


class KeyExchange:
    """The three exchanges of a ceremony: the dealer deals, all open, all compare.

    Args:
        writer: Signs the requests.
        grid: Where they go.
        progress: What the operator sees.
        store: Keeps deals and confirmations, so that hospitals can join while the dealer, or the others, are away.
        epochs: Which key each round is under.
        answer_within_s: How long each answer is waited for, seconds.
    """

    def __init__(  # noqa: PLR0913 -- the parts of one run
        self,
        writer: RequestWriter,
        grid: OneByOneGrid,
        *,
        progress: ProgressFile,
        store: Store,
        epochs: Epochs,
        answer_within_s: float,
    ) -> None:
        self._store, self._epochs = store, epochs
        self._asked: Counter[tuple[str, int]] = Counter()
        self._writer, self._grid, self._progress, self._answer_within_s = writer, grid, progress, answer_within_s
        self._plan = writer.plan
        self._identities = {hospital.name: hospital.identity for hospital in writer.plan.roster}

    def missing(self, outcomes: Sequence[Outcome]) -> frozenset[str]:
        """Hospitals that lack a key; one that says so of one key for ever is not believed for ever."""
        names = [outcome.hospital for outcome in outcomes if outcome.code == KEY_MISSING]
        newest = self._epochs.newest
        self._asked.update((name, newest) for name in names)
        return frozenset(name for name in names if self._asked[name, newest] <= MOST_CEREMONIES)

    def bring(
        self, missing: frozenset[str], nodes: Mapping[str, int], *, applied: Mapping[str, int], needed: bool
    ) -> None:
        """Bring hospitals the keys that they lack: of the rounds that they missed, and the one in force.

        Args:
            missing: The hospitals.
            nodes: Node ids of all that are connected.
            applied: The last round that each has applied, where it is known.
            needed: Whether too few hospitals have the key; else the run goes on without those that it fails for.

        Raises:
            DeploymentError: If it is needed and fails; see `hold`.
        """
        lacking = {name: node for name, node in nodes.items() if name in missing}
        reached = min((applied.get(name, 0) for name in lacking), default=0)
        self._pass_over_first_dealer(nodes)
        try:
            for epoch in self._epochs.since(reached + 1):
                settled = len(self._confirmed(epoch)) >= self._plan.min_cohort
                self.hold(epoch, lacking if settled else nodes)
        except DeploymentError as error:
            if needed:
                raise
            log.warning("%s; the run goes on with the hospitals that hold the key", error)

    def renew(self, round_number: int, nodes: Mapping[str, int]) -> None:
        """Have a new key dealt if one is due by a round that is not opened yet.

        A dealer that is away is passed over: the epoch after that has another one.

        Args:
            round_number: The round.
            nodes: Node ids of the connected hospitals.

        Raises:
            DeploymentError: See `hold`.
        """
        due = self._epochs.due(round_number)
        if due is None:
            return
        epoch = self._dealt_from(due, nodes)
        self.hold(epoch, nodes)
        self._epochs.begin(round_number, epoch)
        log.info("from round %d on key epoch %d is in force", round_number, epoch)

    def hold(self, epoch: int, nodes: Mapping[str, int]) -> None:
        """Bring an epoch's key to hospitals; those that have it say so again.

        Args:
            epoch: Number of the key.
            nodes: Node ids of the hospitals.

        Raises:
            DeploymentError: If the dealer is away and has not dealt before, or fewer than the minimum cohort hold one
                key in the end.
        """
        plan, before = self._plan, self._confirmed(epoch)
        deal = self._store.deal(plan.digest, epoch) or self._dealt_by(self._dealer(epoch), epoch, nodes)
        opened = self._ask("open", epoch, nodes, deal)
        signed = {name: self._signed(answer, Confirmation, name) for name, answer in opened.items()}
        good = {name: document for name, document in signed.items() if document is not None}
        # What a hospital said when it took the key counts, and not what it says now.
        together = encode_document(Confirmations(confirmations=tuple((good | before).values())))
        confirmed = self._ask("confirm", epoch, {name: nodes[name] for name in good}, together)
        agreed = [name for name in self._identities if isinstance(confirmed.get(name), bytes)]
        for name in agreed:
            data = encode_document(good[name])
            self._store.save_confirmation(plan.digest, epoch, hospital=name, confirmation=data)
        answers = opened | confirmed
        failed = [f"{name} {_code(answers.get(name))}" for name in nodes if name not in agreed]
        held = before.keys() | set(agreed)
        if len(held) < plan.min_cohort:
            raise DeploymentError(
                f"the key ceremony brought one key to {len(held)} hospitals, {plan.min_cohort} are needed: "
                f"{', '.join(failed) or 'the others are not connected'}; look into their logs"
            )
        log.info(
            "key ceremony of epoch %d: dealt by %s, now held by %s; %s",
            epoch,
            self._dealer(epoch),
            ", ".join(agreed),
            ", ".join(failed) or "no error",
        )

    def _pass_over_first_dealer(self, nodes: Mapping[str, int]) -> None:
        """Begin with a later epoch where nobody can deal the first one: nothing can have been done under it yet."""
        newest = self._epochs.newest
        if self._store.deal(self._plan.digest, newest) is None:
            epoch = self._dealt_from(newest, nodes)
            if epoch != newest:
                self._epochs.begin(self._plan.first_round, epoch)

    def _dealt_from(self, epoch: int, nodes: Mapping[str, int]) -> int:
        """The first epoch from this one on whose dealer is connected; this one if there is none."""
        candidates = range(epoch, min(epoch + len(self._identities), self._plan.last_epoch + 1))
        return next((one for one in candidates if self._dealer(one) in nodes), epoch)

    def _dealer(self, epoch: int) -> str:
        return dealer_of(self._plan.digest, tuple(self._identities), epoch=epoch)

    def _confirmed(self, epoch: int) -> dict[str, Confirmation]:
        kept = self._store.confirmations(self._plan.digest, epoch)
        return {name: decode_document(data, Confirmation) for name, data in kept.items()}

    def _dealt_by(self, dealer: str, epoch: int, nodes: Mapping[str, int]) -> bytes:
        """Have the dealer deal, and keep its deal: sealed to the hospitals, and signed."""
        if dealer not in nodes:
            raise DeploymentError(f"the key of epoch {epoch} is dealt by {dealer}, which is not connected; start it")
        deal = self._ask("deal", epoch, {dealer: nodes[dealer]}, b"").get(dealer)
        if not isinstance(deal, bytes) or self._signed(deal, Deal, dealer) is None:
            raise DeploymentError(f"{dealer} dealt no key ({_code(deal)}); look into its log")
        self._store.save_deal(self._plan.digest, epoch, deal)
        return deal

    def _ask(self, kind: Kind, epoch: int, nodes: Mapping[str, int], body: bytes) -> dict[str, bytes | NodeError]:
        self._progress.open(kind, 0, attempt=0, connected=tuple(nodes))
        end = time.monotonic() + self._answer_within_s
        frames = {name: self._writer.write_under(kind, name, epoch=epoch, body=body) for name in nodes}
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
