"""Brings hospitals up to date that miss more rounds than one request carries, beside the rounds of the others.

Such a hospital gets the aggregates part by part, each with a `hello` (its reply says how far it has come), and is asked
for work only when what it misses fits into the request itself. Nobody waits for it meanwhile.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from server.ask import Attempt, expected_answer
from server.exchange import Collection
from server.flower_messages import messages_of
from server.one_by_one import OneByOneGrid
from server.requests import RequestWriter
from server.steps import HELLO, Rounds
from server.store import Outcome

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Part:
    """A part under way; `identifier` is Flower's, empty if it was not taken."""

    attempt: Attempt
    identifier: str


class CatchUp:
    """The hospitals that are behind.

    Args:
        writer: Writes the parts.
        grid: Where they go.
        applied: Last applied round per hospital that has told it; answers to parts change it.
        answer_within_s: How long an answer is waited for, seconds.
    """

    def __init__(
        self, writer: RequestWriter, grid: OneByOneGrid, *, applied: dict[str, int], answer_within_s: float
    ) -> None:
        self._writer, self._grid, self._applied, self._answer_within_s = writer, grid, applied, answer_within_s
        self._under_way: dict[str, _Part] = {}
        self._held: dict[str, str] = {}
        self._bytes: Counter[str] = Counter()
        self.moved = 0.0
        """When a hospital last came forward, on the monotonic clock; 0 before any."""

    def open_step(self) -> None:
        """Try those again that did not come forward in the last step: once in a step, however often they are tended."""
        self._held.clear()

    def tend(self, nodes: Mapping[str, int], *, last: int) -> frozenset[str]:
        """Take the answers that have come, and send the next parts.

        Args:
            nodes: Node ids of the connected hospitals.
            last: The last complete round.

        Returns:
            Those of them that miss more than one request carries, or are still busy with a part.
        """
        behind = set()
        for hospital, node in nodes.items():
            self._take(hospital)
            missing = Rounds(self._applied.get(hospital, self._writer.plan.first_round - 1) + 1, last)
            part = self._writer.part(missing)
            if part == missing and hospital not in self._under_way:
                continue
            behind.add(hospital)
            if hospital not in self._under_way and hospital not in self._held:
                # One that has never told where it stands is asked that first.
                self._send(hospital, node, part if hospital in self._applied else Rounds(1, 0))
        return frozenset(behind)

    def is_busy(self, hospital: str) -> bool:
        """Whether a part is under way to it."""
        return hospital in self._under_way

    def outcome(self, hospital: str) -> Outcome:
        """What a hospital that is behind did since the last call, for the record of an exchange."""
        return Outcome(hospital, "catching-up", self._held.get(hospital, ""), 0, self.sent_bytes(hospital), 0.0)

    def sent_bytes(self, hospital: str) -> int:
        """Bytes of the parts that were sent to it since the last call."""
        return self._bytes.pop(hospital, 0)

    def _send(self, hospital: str, node: int, part: Rounds) -> None:
        expected = expected_answer(
            self._writer.plan, self._writer.run, HELLO, attempt=0, epoch=self._writer.epoch(HELLO)
        )
        attempt = Attempt(HELLO, 0, {hospital: node}, Collection(expected, {}))
        frames = self._writer.write(HELLO, attempt=0, rounds={hospital: part})
        identifiers = self._grid.send(messages_of(attempt, frames, ttl_s=self._answer_within_s))
        self._bytes[hospital] += attempt.collection.asked_bytes(hospital)
        self._under_way[hospital] = _Part(attempt, next(iter(identifiers), ""))
        log.info("%s is behind: rounds %d to %d sent", hospital, part.first, part.last)

    def _take(self, hospital: str) -> None:
        part = self._under_way.get(hospital)
        if part is None:
            return
        seconds = time.monotonic() - part.attempt.started
        answer = self._grid.answer(part.identifier) if part.identifier else None
        if answer is None and seconds < self._answer_within_s:
            return
        del self._under_way[hospital]
        if answer is None:
            self._grid.forget(part.identifier)
            self._held[hospital] = "NoAnswer"
            return
        outcome = part.attempt.collection.take(hospital, answer, seconds=seconds)
        before, now = self._applied.get(hospital, -1), part.attempt.collection.applied.get(hospital)
        if now is not None:
            self._applied[hospital] = now
        if now is None or now <= before:
            self._held[hospital] = outcome.code or "NoProgress"
            log.warning("%s stays behind at round %d: %s", hospital, max(before, 0), self._held[hospital])
        else:
            self.moved = time.monotonic()
