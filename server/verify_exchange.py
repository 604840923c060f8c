"""The extra exchange of sampled verification: where verdicts are missing, others recompute the chunks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from server.ask import Attempt, expected_answer
from server.exchange import Collection
from server.flower_messages import messages_of, take_replies
from server.one_by_one import OneByOneGrid
from server.progress import ProgressFile
from server.requests import RequestWriter
from server.steps import Rounds, Step
from server.store import Exchange, Store
from server.verification import Verification

log = logging.getLogger(__name__)


class VerifyExchange:
    """Gathers the verdicts that did not come with uploads.

    Args:
        writer: Writes the requests.
        grid: Where they go.
        verification: What was said of the last sum.
        store: Where each exchange is recorded.
        progress: What the operator sees.
        applied: Last applied round per hospital that has told it; answers change it.
    """

    def __init__(  # noqa: PLR0913 -- the parts of one run
        self,
        writer: RequestWriter,
        grid: OneByOneGrid,
        *,
        verification: Verification,
        store: Store,
        progress: ProgressFile,
        applied: dict[str, int],
    ) -> None:
        self._writer, self._grid, self.verification = writer, grid, verification
        self._store, self._progress, self._applied = store, progress, applied
        self._plan = writer.plan

    def complete(self, round_number: int, nodes: Callable[[], Mapping[str, int]]) -> bool:
        """Have the last sum's chunks shared among the hospitals that are there, until all these have recomputed them.

        Args:
            round_number: The round that rests on the last sum.
            nodes: Node ids of the hospitals that can be asked now.

        Returns:
            Whether the verdicts are there, or none are due.
        """
        silent: frozenset[str] = frozenset()
        for attempt in range(self._plan.cohort.attempts):
            if not self.verification.is_due:
                return True
            present = {name: node for name, node in nodes().items() if name not in silent}
            if not self.verification.share(present):
                break
            if self.verification.is_due:
                silent |= self._ask(Step("verify", round_number), present, attempt=attempt)
        if self.verification.is_due:
            log.warning("too few hospitals have recomputed their chunks of the sum before round %d", round_number)
        return not self.verification.is_due

    def _ask(self, step: Step, nodes: Mapping[str, int], *, attempt: int) -> frozenset[str]:
        """One exchange; the hospitals that gave no verdict."""
        timeout_s, run = self._plan.cohort.round_timeout_s, self._writer.run
        asked = {name: nodes[name] for name in nodes if name in self.verification.silent}
        collection = Collection(
            expected_answer(self._plan, run, step, attempt=attempt, epoch=self._writer.epoch(step)),
            {},
            heard=self.verification.hear,
        )
        opened = Attempt(step, attempt, asked, collection)
        self._progress.open(step.kind, step.round, attempt=attempt, connected=tuple(asked))
        rounds = {
            name: Rounds(self._applied.get(name, self._plan.first_round - 1) + 1, step.round - 1) for name in asked
        }
        frames = self._writer.write(step, attempt=attempt, rounds=rounds, verification=self.verification)
        replies = self._grid.send_and_receive(messages_of(opened, frames, ttl_s=timeout_s), timeout=timeout_s)
        take_replies(opened, replies, self._progress)
        self._applied |= collection.applied
        seconds = time.monotonic() - opened.started
        exchange = Exchange(step.round, attempt, step.kind, round(seconds, 3), collection.outcomes(seconds))
        self._store.save(run, exchange, None)
        # Also one that answers without the verdict that it was asked for is not waited for again.
        return frozenset(asked) & self.verification.silent
