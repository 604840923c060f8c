"""The Flower strategy: each of Flower's rounds is one step of the run (hello, train, eval, finish).

A step that takes uploads ends with their unmasking; its adverts came with the shares of the step before.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import cast

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from common.errors import DeploymentError, EpochClosed
from common.plan import Plan
from server.ask import Attempt, expected_answer
from server.catch_up import CatchUp
from server.checkpoints import Checkpoints
from server.connections import Connections
from server.epochs import Epochs
from server.exchange import Collection
from server.flower_messages import Answer, messages_of, take_replies
from server.key_exchange import KeyExchange
from server.mask_exchange import MaskExchange
from server.mask_store import MaskStore
from server.one_by_one import OneByOneGrid
from server.pause import pause
from server.progress import ProgressFile
from server.requests import RequestWriter
from server.round_end import RoundEnd
from server.steps import Rounds, Step
from server.store import Exchange, Outcome, Store
from server.sufficiency import check_hope, still_wanted
from server.verification import Verification
from server.verify_exchange import VerifyExchange

log = logging.getLogger(__name__)


class SecureAggregation(Strategy):
    """Adds up encrypted updates that it cannot read; runs under Flower's stock `Strategy.start`.

    Args:
        writer: Writes the signed requests; holds plan and run id.
        steps: What is left of the run, in order.
        grid: Where messages go; the same that `start` gets.
        store: Where each exchange is recorded before the next opens.
        masks: What is kept of open rounds.
        progress: What the operator sees.
        connect_timeout_s: How long the first step waits for all hospitals, seconds.
    """

    def __init__(  # noqa: PLR0913 -- the parts of one run, composed once in server.app
        self,
        writer: RequestWriter,
        steps: tuple[Step, ...],
        *,
        grid: OneByOneGrid,
        store: Store,
        masks: MaskStore,
        progress: ProgressFile,
        connect_timeout_s: float,
    ) -> None:
        self._epochs = Epochs(writer.plan, writer.run, store)
        writer = replace(writer, epoch_of=self._epochs.of)
        self._writer, self._steps, self._grid = writer, steps, grid
        self._store, self._progress, self._connect_timeout_s = store, progress, connect_timeout_s
        self._masks = masks
        self._plan: Plan = writer.plan
        self._names = tuple(hospital.name for hospital in self._plan.roster)
        self._applied: dict[str, int] = {}
        self._open: Attempt | None = None
        answer_within_s = self._plan.cohort.round_timeout_s
        self._catch_up = CatchUp(writer, grid, applied=self._applied, answer_within_s=answer_within_s)
        self._keys = KeyExchange(
            writer, grid, progress=progress, store=store, epochs=self._epochs, answer_within_s=answer_within_s
        )
        self._checkpoints = Checkpoints(writer, grid, progress=progress, store=store, answer_within_s=answer_within_s)
        self._connections = Connections(self._plan, grid, catch_up=self._catch_up, progress=progress)
        self._rounds = MaskExchange(writer, grid, store=store, masks=masks, progress=progress)
        self._verification = Verification(self._plan, writer.run, store=store, masks=masks)
        self._verify = VerifyExchange(
            writer, grid, verification=self._verification, store=store, progress=progress, applied=self._applied
        )
        self._round_end = RoundEnd(
            writer,
            store=store,
            masks=masks,
            exchange=self._rounds,
            verify=self._verify,
            ready=self._connections.ready,
        )

    def summary(self) -> None:
        """Say what will run."""
        log.info("run %s of plan '%s': %d steps", self._writer.run, self._plan.name, len(self._steps))

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Open the step's first attempt: one signed request per connected hospital that is up to date."""
        del arrays, config, grid
        step, cohort = self._steps[server_round - 1], self._plan.cohort
        opened = self._masks.opened(step.round) if step.takes_uploads else None
        if opened is not None and opened.survivors is not None:
            # It was interrupted after it had asked for shares: no other sum of this round can be asked for.
            return ()
        if server_round == 1:
            nodes = self._connections.wait_for(step, len(self._names), timeout_s=self._connect_timeout_s)
        else:
            nodes = self._connections.wait_for(step, self._plan.needed, timeout_s=cohort.round_timeout_s)
        if step.takes_uploads and opened is None:
            if self._store.take_pause(self._writer.run):
                pause(self._writer, self._grid, nodes=nodes, applied=self._applied, last=step.round - 1)
            self._keys.renew(step.round, nodes)
        if step.kind == "finish" and cohort.attempts == 1:
            nodes = self._connections.wait_until_caught_up(step)
        if step.kind == "finish" and not self._verify.complete(step.round, lambda: self._connections.ready(step)):
            raise DeploymentError(
                "too few hospitals have recomputed their chunks of the last sum, so no hospital would write results; "
                "look for AggregateMismatch in their logs, else start those that are away and resume the run"
            )
        # A round that was interrupted goes on with its last attempt: the same request gets the same bytes.
        return self._request(step, nodes, attempt=opened.attempt if opened else 0)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Close the step: fold in the replies, record it, and ask again as often as the plan allows.

        Raises:
            DeploymentError: If too few hospitals contribute; the run is tried again, or stops and can be resumed.
            NobodyContributes: If so many sit the round out that the others are too few.
            StoreError: If the disk refuses.
        """
        step, attempts = self._steps[server_round - 1], self._plan.cohort.attempts
        # Flower hands on what our grid gives.
        came, opened, dealt = cast("Iterable[Answer]", replies), self._open, False
        if opened is None and step.takes_uploads:
            self._round_end.resume(step)
        while opened is not None:
            outcomes = self._close(step, opened, came)
            wanted = still_wanted(step, opened, hospitals=self._names, needed=self._plan.needed)
            missing = self._keys.missing(outcomes)
            if missing and not dealt:
                dealt = True
                self._keys.bring(missing, self._connections.now(), applied=self._applied, needed=bool(wanted))
                if wanted:
                    # No attempt was spent: without the key nobody could answer.
                    again = self._request(step, self._connections.now(), attempt=opened.number)
                    came = self._grid.send_and_receive(again, timeout=self._plan.cohort.round_timeout_s)
                    opened = self._open
                    continue
            self._checkpoints.settle(opened.collection, outcomes, self._connections.now(), applied=self._applied)
            last = opened.number + 1 == attempts
            if wanted and step.kind != "finish":
                check_hope(opened, outcomes, attempts=attempts, needed=self._plan.needed)
            self._open = None
            if wanted and last and step.takes_uploads:
                self._round_end.skip(step, opened.number, outcomes)
            if step.takes_uploads and not wanted:
                self._round_end.unmask(
                    step, opened.collection.total, attempt=opened.number, answered=opened.collection.answered
                )
            if wanted and not last:
                messages = self._ask_again(step, wanted, opened)
                came = self._grid.send_and_receive(messages, timeout=self._plan.cohort.round_timeout_s)
            opened = self._open
        return None, None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Nothing: counts of correct predictions travel encrypted in the uploads."""
        del server_round, arrays, config, grid
        return ()

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Nothing: see `configure_evaluate`."""
        del server_round, replies
        return None

    def _request(self, step: Step, nodes: dict[str, int], *, attempt: int) -> Iterator[Message]:
        """Open an attempt with those that are not behind; its messages are written as they are taken."""
        behind = self._catch_up.tend(nodes, last=step.round - 1)
        asked = {name: node for name, node in nodes.items() if name not in behind}
        opening = self._rounds.opening(step.round, asked) if step.takes_uploads else None
        if opening is not None:
            self._masks.open(step.round, opening, attempt=attempt)
            if attempt == 0:
                self._verification.share(asked)
        collection = Collection(
            expected_answer(
                self._plan,
                self._writer.run,
                step,
                attempt=attempt,
                epoch=self._epochs.of(step),
                opening=opening.digest if opening else "",
            ),
            {name: self._catch_up.sent_bytes(name) for name in asked},
            catching_up={name: self._catch_up.outcome(name) for name in behind},
            uploads=self._masks.uploads(step.round, attempt),
            heard=self._verification.hear,
        )
        self._open = Attempt(step, attempt, asked, collection)
        self._progress.open(step.kind, step.round, attempt=attempt, connected=tuple(nodes))
        for outcome in collection.catching_up.values():
            # Its bytes are counted when the exchange closes.
            self._progress.record(replace(outcome, down_bytes=0), step.round)
        rounds = {
            name: Rounds(self._applied.get(name, self._plan.first_round - 1) + 1, step.round - 1) for name in asked
        }
        frames = self._writer.write(
            step, attempt=attempt, rounds=rounds, opening=opening, verification=self._verification
        )
        return messages_of(self._open, frames, ttl_s=self._plan.cohort.round_timeout_s)

    def _ask_again(self, step: Step, wanted: frozenset[str], opened: Attempt) -> Iterable[Message]:
        """The next attempt; nothing if the hospitals that should get their last aggregate are gone."""
        if step.kind == "finish":
            self._catch_up.open_step()
            here = self._connections.wait_until_caught_up(step)
            nodes = {name: node for name, node in here.items() if name in wanted}
            return self._request(step, nodes, attempt=opened.number + 1) if nodes else ()
        log.warning("%s %d attempt %d fell short; asking again", step.kind, step.round, opened.number)
        nodes = self._connections.wait_for(step, self._plan.needed, timeout_s=self._plan.cohort.round_timeout_s)
        return self._request(step, nodes, attempt=opened.number + 1)

    def _close(self, step: Step, opened: Attempt, replies: Iterable[Answer]) -> tuple[Outcome, ...]:
        """Take all replies and record the exchange."""
        collection = opened.collection
        take_replies(opened, replies, self._progress)
        self._applied |= collection.applied
        for hospital, signed in collection.manifests.items():
            self._writer.freshness.note(hospital, signed.manifest.nonce, ledger=signed.manifest.ledger)
        seconds = time.monotonic() - opened.started
        outcomes = collection.outcomes(seconds)
        exchange = Exchange(step.round, opened.number, step.kind, round(seconds, 3), outcomes)
        self._store.save(self._writer.run, exchange, None)
        for outcome in outcomes:
            if outcome.code == EpochClosed.__name__:
                self._store.ask_rotation(self._writer.run, outcome.hospital)
            if outcome.outcome in ("late", "absent", "diverged", "catching-up"):
                self._progress.record(outcome, step.round)
        return outcomes
