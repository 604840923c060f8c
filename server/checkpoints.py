"""Brings the model that a run goes on from to hospitals that do not hold it; the coordinator can open none of it."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from common.checkpoint import decode_checkpoint
from common.errors import CheckpointMissing, PeerError
from common.messages import Kind, SignedManifest
from server.ask import expected_answer
from server.exchange import Collection, NodeError
from server.one_by_one import OneByOneGrid
from server.progress import ProgressFile
from server.requests import RequestWriter
from server.steps import Step
from server.store import Outcome, Store

log = logging.getLogger(__name__)

MOST_CHECKPOINTS = 3
"""So often a hospital is believed that it has none."""


class Checkpoints:
    """One hospital that holds the model seals it to all, with the `hello` manifests of the others as vouchers.

    Args:
        writer: Signs the requests.
        grid: Where they go.
        progress: What the operator sees.
        store: Keeps the checkpoint for those that come later.
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
        self._writer, self._grid, self._progress, self._store = writer, grid, progress, store
        self._answer_within_s, self._plan = answer_within_s, writer.plan
        self._identities = {hospital.name: hospital.identity for hospital in writer.plan.roster}
        self._asked: Counter[str] = Counter()

    def settle(
        self, collection: Collection, outcomes: Sequence[Outcome], nodes: Mapping[str, int], *, applied: dict[str, int]
    ) -> None:
        """Have the model sealed after a `hello`, and bring it to those that lack it.

        Args:
            collection: What was answered.
            outcomes: What hospitals did.
            nodes: Node ids of the connected hospitals.
            applied: The last round that each has applied; is told of those that took the model.
        """
        if collection.expected.kind == "hello":
            self._make(collection.manifests, nodes)
        self._bring(outcomes, nodes, applied)

    def _make(self, manifests: Mapping[str, SignedManifest], nodes: Mapping[str, int]) -> None:
        """Have the model sealed if the run begins with one that not all hospitals hold."""
        start = self._plan.first_round - 1
        if not start or self._store.checkpoint(self._writer.run) is not None:
            return
        holders = [manifests[name] for name in self._identities if name in manifests]
        said = Counter((one.manifest.state_tag, one.manifest.applied) for one in holders)
        if not said:
            return
        held, count = said.most_common(1)[0]
        vouchers = tuple(one for one in holders if (one.manifest.state_tag, one.manifest.applied) == held)
        if held[1].round != start or not self._plan.threshold <= count < len(self._identities):
            return
        for signed in vouchers:
            maker, epoch = signed.manifest.hospital, signed.manifest.epoch
            answer = self._ask("checkpoint", {maker: nodes[maker]} if maker in nodes else {}, epoch=epoch).get(maker)
            if isinstance(answer, bytes) and self._is_of(answer, signed):
                self._store.save_checkpoint(self._writer.run, answer, vouchers)
                log.info("%s has sealed the model of round %d, for which %d vouch", maker, start, count)
                return

    def _bring(self, outcomes: Sequence[Outcome], nodes: Mapping[str, int], applied: dict[str, int]) -> None:
        lacking = [o.hospital for o in outcomes if o.code == CheckpointMissing.__name__ and o.hospital in nodes]
        kept = self._store.checkpoint(self._writer.run)
        if kept is None:
            return
        checkpoint, vouchers = kept
        epoch = vouchers[0].manifest.epoch
        self._asked.update(lacking)
        wanted = {name: nodes[name] for name in lacking if self._asked[name] <= MOST_CHECKPOINTS}
        answers = self._ask("restore", wanted, epoch=epoch, body=checkpoint, vouchers=vouchers)
        expected = expected_answer(self._plan, self._writer.run, Step("restore", 0), attempt=0, epoch=epoch)
        collection = Collection(expected, {})
        for name, answer in answers.items():
            outcome = collection.take(name, answer, seconds=0.0)
            log.info("%s was sent the model: %s %s", name, outcome.outcome, outcome.code)
        applied |= collection.applied

    def _is_of(self, answer: bytes, signed: SignedManifest) -> bool:
        manifest = signed.manifest
        try:
            checkpoint, _ = decode_checkpoint(answer, self._identities)
        except PeerError as error:
            log.warning("%s: %s", manifest.hospital, error)
            return False
        return (checkpoint.hospital, checkpoint.state_tag) == (manifest.hospital, manifest.state_tag)

    def _ask(
        self,
        kind: Kind,
        nodes: Mapping[str, int],
        *,
        epoch: int,
        body: bytes = b"",
        vouchers: tuple[SignedManifest, ...] = (),
    ) -> dict[str, bytes | NodeError]:
        if not nodes:
            return {}
        self._progress.open(kind, 0, attempt=0, connected=tuple(nodes))
        end = time.monotonic() + self._answer_within_s
        frames = {
            name: self._writer.write_under(kind, name, epoch=epoch, body=body, survivors=vouchers) for name in nodes
        }
        return dict(self._grid.ask(kind, frames, nodes, deadline=lambda: end, ttl_s=self._answer_within_s))
