"""What the coordinator asks for, in which order, and the signed request to each hospital."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from common.mask_messages import DeliveredAdvert
from common.messages import UPLOAD_KINDS, AggregateEntry, Kind, Request, SignedManifest, encode_request
from common.page_sizes import CATCH_UP_BYTES
from common.plan import Plan
from common.verdicts import ChunkCheck
from server.aggregate import Aggregate
from server.bodies import Body, HeldBody, JoinedBody, pieces_of
from server.freshness import FreshnessDesk
from server.long_messages import LongMessages
from server.masked_round import Opening
from server.verification import Verification

NO_BODY = HeldBody(b"")
Survivors = tuple[SignedManifest, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One exchange of the run, before any attempt of it."""

    kind: Kind
    round: int

    @property
    def takes_uploads(self) -> bool:
        """Whether hospitals contribute to it."""
        return self.kind in UPLOAD_KINDS


HELLO = Step("hello", 0)


class Rounds(NamedTuple):
    """Completed rounds whose aggregates are sent, `first` to `last`, both included; none if `first` > `last`."""

    first: int
    last: int


class History(Protocol):
    """The completed rounds of a run; see `server.store`."""

    def aggregates(self, rounds: Rounds) -> Sequence[Aggregate]:
        """The aggregates, in order."""

    def sizes(self, rounds: Rounds) -> Sequence[tuple[int, int]]:
        """Bytes of each aggregate's entry and body, in order."""


@dataclass(frozen=True, slots=True)
class PageLimits:
    """What one request carries at most; one aggregate fits always.

    Args:
        aggregates: So many a site applies well within a round's timeout.
        header_bytes: Of the entries; half of what a site takes as a header.
        body_bytes: Of the bodies.
    """

    aggregates: int = 256
    header_bytes: int = 4 << 20
    body_bytes: int = CATCH_UP_BYTES


def steps_after(plan: Plan, last_complete_round: int) -> tuple[Step, ...]:
    """What is left of a run: hello, the rounds behind `last_complete_round`, the closing eval if due, finish."""
    rounds = range(max(last_complete_round + 1, plan.first_round), plan.last_round + 1)
    return (
        HELLO,
        *(Step(plan.kind_of(number), number) for number in rounds),
        Step("finish", plan.last_round + 1),
    )


@dataclass(frozen=True, slots=True)
class RequestWriter:
    """Writes requests of one run.

    Args:
        plan: The plan.
        run: Run id.
        sign: Signs with the coordinator's identity key.
        history: The run's completed rounds.
        limits: What one request carries.
        epoch_of: Number of the CKKS key that a step is under; None: what the plan asks for at least.
        long: What goes in pages; None: nothing does.
        freshness: What hospitals that were started ask of others, and what those answer; new for each writer.
    """

    plan: Plan
    run: str
    sign: Callable[[bytes], bytes]
    history: History
    limits: PageLimits = PageLimits()
    epoch_of: Callable[[Step], int] | None = None
    long: LongMessages | None = None
    freshness: FreshnessDesk = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "freshness", FreshnessDesk(self.plan, self.run))

    def epoch(self, step: Step) -> int:
        """Number of the CKKS key that a step is under."""
        return self.plan.least_epoch(step.round) if self.epoch_of is None else self.epoch_of(step)

    def page(self, missing: Rounds) -> Rounds:
        """The first of the missing rounds, as many as fit into one request."""
        if missing.first >= missing.last:
            return missing
        limits, last = self.limits, missing.first - 1
        entries = bodies = 0
        for number, (entry_bytes, body_bytes) in enumerate(self._sizes(missing), start=missing.first):
            entries, bodies = entries + entry_bytes, bodies + body_bytes
            full = number - missing.first >= limits.aggregates
            full = full or entries > limits.header_bytes or bodies > limits.body_bytes
            # Skipped rounds go with the sum before them: the manifests that vouch for it cover them too.
            if body_bytes and full and number > missing.first:
                break
            last = number
        return Rounds(missing.first, last)

    def _sizes(self, missing: Rounds) -> Iterator[tuple[int, int]]:
        """Sizes of the missing rounds, asked for as far as they are taken."""
        step = self.limits.aggregates + 1
        for first in range(missing.first, missing.last + 1, step):
            yield from self.history.sizes(Rounds(first, min(missing.last, first + step - 1)))

    def write(
        self,
        step: Step,
        *,
        attempt: int,
        rounds: Mapping[str, Rounds],
        opening: Opening | None = None,
        verification: Verification | None = None,
    ) -> Iterator[tuple[str, bytes]]:
        """Hospital and signed frame, one at a time.

        Hospitals that get the same aggregates share what was read once: whoever drops each frame before asking for the
        next holds one body and one frame, however many hospitals there are.

        Args:
            step: What is asked for.
            attempt: Attempt of that step.
            rounds: Recipients, and the aggregates that each of them gets.
            opening: What the round is opened with, where uploads are asked for.
            verification: What is known of the last sum, and what the recipients are to recompute of it.
        """
        for sent in sorted(set(rounds.values())):
            entries, body = self._read(sent)
            digest = hashlib.sha256()
            for piece in pieces_of(body):
                digest.update(piece)
            for hospital in [name for name in rounds if rounds[name] == sent]:
                position = self.plan.agreed.position(hospital)
                check, records = verification.check_for(hospital) if verification else (None, NO_BODY)
                whole = digest.copy()
                for piece in pieces_of(records):
                    whole.update(piece)
                frame = self._encode(
                    step,
                    hospital,
                    attempt=attempt,
                    body=body,
                    records=records,
                    digest=whole.hexdigest(),
                    aggregates=entries,
                    adverts=opening.delivered_to(position) if opening else (),
                    check=check,
                    verdicts=verification.verdicts if verification and step.kind == "finish" else (),
                )
                named = [(hospital, frame)]
                del frame
                # Whoever takes it holds the only copy.
                yield named.pop()

    def write_plain(
        self,
        step: Step,
        hospital: str,
        *,
        attempt: int = 0,
        survivors: Survivors = (),
        verdicts: Survivors = (),
    ) -> bytes:
        """A signed frame for one hospital that carries no aggregates.

        Args:
            step: What is asked for.
            hospital: The recipient.
            attempt: Attempt of that step.
            survivors: Whose uploads are to be unmasked.
            verdicts: Manifests with verdicts on the last sum.
        """
        return self._encode(step, hospital, attempt=attempt, body=NO_BODY, survivors=survivors, verdicts=verdicts)

    def write_under(
        self, kind: Kind, hospital: str, *, epoch: int, body: bytes = b"", survivors: Survivors = ()
    ) -> bytes:
        """A signed frame that belongs to a key and to no round: of a ceremony, or of a checkpoint.

        Args:
            kind: What is asked.
            hospital: The recipient.
            epoch: Number of the key.
            body: What the coordinator forwards.
            survivors: Who vouch for it.
        """
        return self._encode(Step(kind, 0), hospital, attempt=0, body=HeldBody(body), epoch=epoch, survivors=survivors)

    def _read(self, sent: Rounds) -> tuple[tuple[AggregateEntry, ...], Body]:
        """The aggregates that hospitals lack; bodies that go in pages stay where they are."""
        long = self.long
        if long is not None and long.is_long(sum(size for _, size in self.history.sizes(sent))):
            return long.history.entries(sent), long.history.body(sent)
        aggregates = self.history.aggregates(sent)
        return tuple(one.entry for one in aggregates), HeldBody(b"".join(one.body for one in aggregates))

    def _encode(  # noqa: PLR0913 -- the fields of a request
        self,
        step: Step,
        hospital: str,
        *,
        attempt: int,
        body: Body,
        records: Body = NO_BODY,
        digest: str = "",
        aggregates: tuple[AggregateEntry, ...] = (),
        adverts: tuple[DeliveredAdvert, ...] = (),
        survivors: Survivors = (),
        check: ChunkCheck | None = None,
        verdicts: Survivors = (),
        epoch: int | None = None,
    ) -> bytes:
        request = Request(
            kind=step.kind,
            run=self.run,
            plan=self.plan.digest,
            epoch=self.epoch(step) if epoch is None else epoch,
            round=step.round,
            attempt=attempt,
            hospital=hospital,
            aggregates=aggregates,
            adverts=adverts,
            survivors=survivors,
            nonces=self.freshness.nonces_for(hospital, step.kind),
            answers=self.freshness.answers_for(hospital, step.kind),
            check=check,
            verdicts=verdicts,
            body_sha256=digest or hashlib.sha256(body.read(0, body.size_bytes)).hexdigest(),
        )
        whole = JoinedBody((body, records))
        if self.long is not None and self.long.is_long(whole.size_bytes):
            return self.long.announce(step.kind, hospital, encode_request(request, b"", self.sign), whole)
        parts = (one.read(0, one.size_bytes) for one in (body, records))
        frame = encode_request(request, next(parts), self.sign, records=next(parts))
        if self.long is not None:
            self.long.note(step.kind, hospital, frame)
        return frame
