"""The exchanges around a round's uploads: adverts before it where they are missing, shares after it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from common.errors import DeploymentError, NobodyContributes, NotFresh, PeerError
from common.mask_messages import FullAdvert
from common.messages import SignedManifest
from server.exchange import NodeError, explain
from server.mask_store import MaskStore
from server.masked_round import Opening, Unmasking, check_advert, read_advert
from server.one_by_one import OneByOneGrid
from server.progress import ProgressFile
from server.requests import RequestWriter
from server.steps import Step
from server.store import Exchange, Outcome, Store

log = logging.getLogger(__name__)

# Once there is enough, the others get as long again as it took, and at least this.
GRACE_S = 3.0
RECONNECT_POLL_S = 0.25


class MaskExchange:
    """Gathers adverts and shares.

    Args:
        writer: Signs the requests.
        grid: Where they go.
        store: Where each exchange is recorded.
        masks: What is kept of open rounds.
        progress: What the operator sees.
    """

    def __init__(
        self, writer: RequestWriter, grid: OneByOneGrid, *, store: Store, masks: MaskStore, progress: ProgressFile
    ) -> None:
        self._writer, self._grid, self._store, self._masks = writer, grid, store, masks
        self._progress, self._plan = progress, writer.plan
        self._names = tuple(hospital.name for hospital in self._plan.roster)
        self._liars: set[str] = set()

    def opening(self, round_number: int, nodes: Mapping[str, int]) -> Opening:
        """What a round is opened with: what it was opened with before, else the adverts that are there or come now.

        Args:
            round_number: The round.
            nodes: Node ids of the hospitals that can be asked.

        Raises:
            DeploymentError: If too few hospitals send an advert.
            NobodyContributes: If too few have budget for the round.
        """
        self.freshen(round_number, nodes)
        opened = self._masks.opened(round_number)
        if opened is not None:
            return opened.opening
        adverts = self._adverts(round_number)
        # Of those that sent theirs and left, no upload is to be expected.
        here = adverts.keys() & nodes.keys()
        if len(here) < self._plan.needed:
            others = {name: node for name, node in nodes.items() if name not in adverts}
            outcomes = self._ask_keys(round_number, others, here=len(here))
            adverts = self._adverts(round_number)
            self._check_enough(round_number, frozenset(adverts), outcomes)
        return Opening(tuple(adverts[name] for name in self._names if name in adverts))

    def freshen(self, round_number: int, nodes: Mapping[str, int]) -> None:
        """Have hospitals that were started answered by the others, if there are any; their adverts come again with it.

        Args:
            round_number: The round that is open or opens next.
            nodes: Node ids of the hospitals that can be asked.
        """
        if self._writer.freshness.is_open(nodes):
            self._ask_keys(round_number, nodes, here=0)

    def unmask(
        self,
        unmasking: Unmasking,
        connected: Callable[[], Mapping[str, int]],
        *,
        verdicts: tuple[SignedManifest, ...] = (),
    ) -> Exchange:
        """Ask for shares until every mask can be taken off, as often as the plan asks for a round.

        Args:
            unmasking: Takes the shares.
            connected: Node ids of the hospitals that are connected now.
            verdicts: On the last sum, where verification is sampled.

        Returns:
            What each hospital did, for the record.
        """
        place = unmasking.survivors[0].manifest
        # Those of survivors are in their manifests.
        others = tuple(signed for signed in verdicts if signed not in unmasking.survivors)
        step, started, outcomes = Step("unmask", place.round), time.monotonic(), dict[str, Outcome]()
        for _ in range(self._plan.cohort.attempts):
            end = time.monotonic() + self._plan.cohort.round_timeout_s
            nodes: Mapping[str, int] = {}
            while not nodes and time.monotonic() < end:
                here = connected()
                nodes = {name: node for name, node in here.items() if not _answered(outcomes.get(name))}
                time.sleep(0.0 if nodes else RECONNECT_POLL_S)
            if self._writer.freshness.is_open(nodes.keys() & set(unmasking.names)):
                self.freshen(place.round, here)
            frames = {
                name: self._writer.write_plain(
                    step, name, attempt=place.attempt, survivors=unmasking.survivors, verdicts=others
                )
                for name in nodes
            }
            self._ask(
                step,
                nodes,
                frames,
                take=lambda answer, name: self._take_shares(answer, name, unmasking),
                is_enough=lambda: unmasking.is_enough,
                outcomes=outcomes,
            )
            if unmasking.is_enough:
                break
        return self._exchange(step, outcomes, attempt=place.attempt, seconds=time.monotonic() - started)

    def distrust(self, hospitals: frozenset[str]) -> None:
        """Open no later round with the adverts of hospitals that dealt shares of something else than they announced."""
        self._liars |= hospitals

    def _adverts(self, round_number: int) -> dict[str, FullAdvert]:
        # Where the keys were renewed in between, some are for the key before.
        epoch = self._writer.epoch(Step("keys", round_number))
        return {
            name: one
            for name, one in self._masks.adverts(round_number).items()
            if name not in self._liars and one.advert.epoch == epoch
        }

    def _ask_keys(self, round_number: int, nodes: Mapping[str, int], *, here: int) -> dict[str, Outcome]:
        step, outcomes, started = Step("keys", round_number), dict[str, Outcome](), time.monotonic()
        frames = {name: self._writer.write_plain(step, name) for name in nodes}
        self._ask(
            step,
            nodes,
            frames,
            take=lambda answer, name: self._take_advert(answer, name, round_number),
            is_enough=lambda: here + sum(map(_answered, outcomes.values())) >= self._plan.needed,
            outcomes=outcomes,
        )
        exchange = self._exchange(step, outcomes, attempt=0, seconds=time.monotonic() - started)
        self._store.save(self._writer.run, exchange, None)
        return outcomes

    def _check_enough(self, round_number: int, found: frozenset[str], outcomes: Mapping[str, Outcome]) -> None:
        if len(found) >= self._plan.needed:
            return
        spent = [
            outcome
            for outcome in outcomes.values()
            if outcome.code in ("BudgetExceeded", "LedgerError", "LedgerRolledBack")
        ]
        stop = NobodyContributes if len(self._names) - len(spent) < self._plan.needed else DeploymentError
        raise stop(
            f"round {round_number} cannot be opened: {len(found)} of {len(self._names)} hospitals take part, "
            f"{self._plan.needed} are needed; {explain(self._outcomes(outcomes), found)}; mend these hospitals"
        )

    def _take_advert(self, answer: bytes, name: str, round_number: int) -> str:
        run, epoch = self._writer.run, self._writer.epoch(Step("keys", round_number))
        full = read_advert(answer, name, plan=self._plan, run=run, round_number=round_number, epoch=epoch)
        self._writer.freshness.take(full.answers, name, epoch=epoch)
        self._masks.save_advert(full.model_copy(update={"answers": ()}))
        return ""

    def _take_shares(self, answer: bytes, name: str, unmasking: Unmasking) -> str:
        reveal = unmasking.take(answer, name)
        self._writer.freshness.take(reveal.answers, name, epoch=reveal.epoch)
        if reveal.nonce:
            self._writer.freshness.note(name, reveal.nonce)
        if reveal.next is not None:
            run, number, epoch = self._writer.run, reveal.round + 1, reveal.next.advert.epoch
            # Of any epoch: which one the next round is under is settled when it opens.
            full = check_advert(reveal.next, name, plan=self._plan, run=run, round_number=number, epoch=epoch)
            self._masks.save_advert(full)
        return "" if any(reveal.shares) else NotFresh.__name__ if reveal.nonce else "NothingRevealed"

    def _ask(  # noqa: PLR0913 -- one exchange: what goes out, and what is done with what comes back
        self,
        step: Step,
        nodes: Mapping[str, int],
        frames: Mapping[str, bytes],
        *,
        take: Callable[[bytes, str], str],
        is_enough: Callable[[], bool],
        outcomes: dict[str, Outcome],
    ) -> None:
        self._progress.open(step.kind, step.round, attempt=0, connected=tuple(nodes))
        started = time.monotonic()
        end = started + self._plan.cohort.round_timeout_s

        def deadline() -> float:
            nonlocal end
            if is_enough():
                now = time.monotonic()
                end = min(end, now + max(GRACE_S, now - started))
            return end

        down_bytes = {
            name: len(frames[name]) + (outcomes[name].down_bytes if name in outcomes else 0) for name in nodes
        }
        for name in nodes:
            outcomes[name] = Outcome(name, "late", "", 0, down_bytes[name], 0.0)
        for name, answer in self._grid.ask(
            step.kind, frames, nodes, deadline=deadline, ttl_s=self._plan.cohort.round_timeout_s
        ):
            seconds, down = round(time.monotonic() - started, 3), down_bytes[name]
            if isinstance(answer, NodeError):
                outcomes[name] = Outcome(name, "failed", answer.name, 0, down, seconds)
            else:
                try:
                    outcomes[name] = Outcome(name, "answered", take(answer, name), len(answer), down, seconds)
                except PeerError as refusal:
                    log.warning("%s: %s", name, refusal)
                    outcomes[name] = Outcome(name, "failed", refusal.code, len(answer), down, seconds)
            self._progress.record(outcomes[name], step.round)

    def _outcomes(self, outcomes: Mapping[str, Outcome]) -> tuple[Outcome, ...]:
        """In the roster's order."""
        return tuple(outcomes.get(name, Outcome(name, "absent", "", 0, 0, 0.0)) for name in self._names)

    def _exchange(self, step: Step, outcomes: Mapping[str, Outcome], *, attempt: int, seconds: float) -> Exchange:
        return Exchange(step.round, attempt, step.kind, round(seconds, 3), self._outcomes(outcomes))


def _answered(outcome: Outcome | None) -> bool:
    return outcome is not None and outcome.outcome == "answered" and outcome.code != NotFresh.__name__
