"""The end of a round: the masks are taken off the survivors' sum, or the round is skipped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import IO

from common.errors import BadShare, LocalProtocolError
from common.messages import Transcript
from server.aggregate import Aggregate, RunningSum, skipped
from server.ask import expected_answer
from server.bodies import spooled
from server.mask_exchange import MaskExchange
from server.mask_store import MaskStore
from server.masked_round import Unmasking
from server.requests import RequestWriter
from server.steps import Step
from server.store import Exchange, Outcome, Store
from server.verify_exchange import VerifyExchange

log = logging.getLogger(__name__)


class RoundEnd:
    """Ends rounds whose uploads are in.

    Args:
        writer: Knows plan, run and the keys of its rounds.
        store: Where sums are kept.
        masks: What is kept of open rounds.
        exchange: Asks for shares.
        verify: Asks for verdicts on the last sum.
        ready: Node ids of the hospitals that can be asked in a step.
    """

    def __init__(  # noqa: PLR0913 -- the parts of one run
        self,
        writer: RequestWriter,
        *,
        store: Store,
        masks: MaskStore,
        exchange: MaskExchange,
        verify: VerifyExchange,
        ready: Callable[[Step], Mapping[str, int]],
    ) -> None:
        self._writer, self._store, self._masks = writer, store, masks
        self._plan, self._run = writer.plan, writer.run
        self._exchange, self._ready = exchange, ready
        self._verify = verify
        self._names = tuple(hospital.name for hospital in writer.plan.roster)

    def resume(self, step: Step) -> None:
        """Go on with a round that was interrupted while its shares were asked for."""
        opened = self._masks.opened(step.round)
        if opened is None or opened.survivors is None:
            return
        digest = opened.opening.digest
        epoch = self._writer.epoch(step)
        expected = expected_answer(self._plan, self._run, step, attempt=opened.attempt, epoch=epoch, opening=digest)
        total = RunningSum(expected.parameters, self._masks.uploads(step.round, opened.attempt))
        for signed in opened.survivors:
            total.resume(signed)
            self._verify.verification.hear(signed)
        self.unmask(step, total, attempt=opened.attempt, answered=frozenset(self._names))

    def skip(self, step: Step, attempt: int, outcomes: tuple[Outcome, ...]) -> None:
        """End a round without a sum; no later sum of it is asked for."""
        log.warning("round %d is skipped: it cannot come to a sum; its charges stay", step.round)
        # Bytes were counted where they moved.
        nothing = tuple(replace(one, up_bytes=0, down_bytes=0) for one in outcomes)
        exchange = Exchange(step.round, attempt, "unmask", 0.0, nothing)
        self._masks.drop_transcript(step.round)
        self._store.save(self._run, exchange, skipped(step.round, attempt))

    def unmask(self, step: Step, total: RunningSum, *, attempt: int, answered: frozenset[str]) -> None:
        """Have the masks of the largest group taken off and record its sum, or that the round is skipped.

        Args:
            step: The round.
            total: Its uploads.
            attempt: Of the round.
            answered: Hospitals that can be asked to recompute chunks of the last sum.
        """
        opened = self._masks.opened(step.round)
        if opened is None:
            raise LocalProtocolError(f"round {step.round} is to be unmasked and was never opened")
        if not self._verify.complete(step.round, lambda: self._among(answered, step)):
            unverified = tuple(Outcome(name, "absent", "UnverifiedChunks", 0, 0, 0.0) for name in self._names)
            self.skip(step, attempt, unverified)
            return
        survivors = total.survivors(self._names)
        self._masks.ask_for(step.round, survivors)
        unmasking = Unmasking(self._plan, self._run, opened.opening, survivors)
        exchange = self._exchange.unmask(
            unmasking, lambda: self._ready(step), verdicts=self._verify.verification.verdicts
        )
        with spooled(self._store.path.parent) as file:
            self._end(step, exchange, unmasking, total=total, file=file)
        self._masks.forget()

    def _end(self, step: Step, exchange: Exchange, unmasking: Unmasking, *, total: RunningSum, file: IO[bytes]) -> None:
        """Record the sum, or that the round is skipped; the file takes the sum on its way into the store."""
        attempt = exchange.attempt
        aggregate: Aggregate = skipped(step.round, attempt)
        transcript: Transcript | None = None
        if unmasking.is_enough:
            try:
                aggregate, transcript = total.unmask_into(file, unmasking)
            except BadShare as error:
                log.warning("%s", error)
        if transcript is None:
            log.warning("round %d is skipped: its sum cannot be unmasked; its charges stay", step.round)
            for dealer, without in unmasking.blanks.items():
                log.warning("no share of %s is with %s", dealer, ", ".join(sorted(without)))
            self._exchange.distrust(unmasking.blamed)
            # A coordinator that died between the two saves below has left one of a sum that there is not.
            self._masks.drop_transcript(step.round)
        else:
            if self._plan.verification == "sampled":
                transcript = transcript.model_copy(update={"upload_bytes": 0})
            # Before the sum: a sum without it could be verified by nobody.
            self._masks.save_transcript(step.round, attempt, transcript)
        self._store.save(self._run, exchange, aggregate)

    def _among(self, hospitals: frozenset[str], step: Step) -> Mapping[str, int]:
        return {name: node for name, node in self._ready(step).items() if name in hospitals}
