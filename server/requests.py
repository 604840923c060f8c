"""The signed request to each hospital."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from common.mask_messages import DeliveredAdvert
from common.messages import AggregateEntry, Kind, Request, SignedManifest
from common.page_sizes import PageSizes
from common.plan import Plan
from common.request_frames import encode_request
from common.verdicts import ChunkCheck
from server.bodies import Body, HeldBody, JoinedBody, PageHashes
from server.freshness import FreshnessDesk
from server.long_messages import LongMessages
from server.masked_round import Opening
from server.parts import History, PartLimits, first_part
from server.steps import Rounds, Step
from server.verification import Verification

NO_BODY = HeldBody(b"")
Survivors = tuple[SignedManifest, ...]


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
        sizes: How long pages are.
    """

    plan: Plan
    run: str
    sign: Callable[[bytes], bytes]
    history: History
    limits: PartLimits = field(default_factory=PartLimits)
    epoch_of: Callable[[Step], int] | None = None
    long: LongMessages | None = None
    freshness: FreshnessDesk = field(init=False)
    sizes: PageSizes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", PageSizes.of(self.plan))
        object.__setattr__(self, "freshness", FreshnessDesk(self.plan, self.run))

    def epoch(self, step: Step) -> int:
        """Number of the CKKS key that a step is under."""
        return self.plan.least_epoch(step.round) if self.epoch_of is None else self.epoch_of(step)

    def part(self, missing: Rounds) -> Rounds:
        """The first of the missing rounds, as many as fit into one request."""
        return first_part(missing, self.history, self.limits)

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
            entries, body = self.history.entries(sent), self._body(sent)
            # Full pages of what several hospitals get are read and hashed once.
            page_bytes = self.sizes.page_bytes
            shared = PageHashes(page_bytes).up_to(body.size_bytes // page_bytes * page_bytes, body)
            for hospital in [name for name in rounds if rounds[name] == sent]:
                position = self.plan.agreed.position(hospital)
                check, records = verification.check_for(hospital) if verification else (None, NO_BODY)
                frame = self._encode(
                    step,
                    hospital,
                    attempt=attempt,
                    body=JoinedBody((body, records)),
                    shared=shared,
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

    def _body(self, sent: Rounds) -> Body:
        """The bodies of the aggregates that hospitals lack; what goes in pages stays where it is."""
        body = self.history.body(sent)
        is_long = self.long is not None and self.sizes.is_long(body.size_bytes)
        return body if is_long else HeldBody(body.read(0, body.size_bytes))

    def _encode(  # noqa: PLR0913 -- the fields of a request
        self,
        step: Step,
        hospital: str,
        *,
        attempt: int,
        body: Body,
        shared: PageHashes | None = None,
        aggregates: tuple[AggregateEntry, ...] = (),
        adverts: tuple[DeliveredAdvert, ...] = (),
        survivors: Survivors = (),
        check: ChunkCheck | None = None,
        verdicts: Survivors = (),
        epoch: int | None = None,
    ) -> bytes:
        hashes = (shared or PageHashes(self.sizes.page_bytes)).up_to(body.size_bytes, body)
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
            body_sha256=hashes.whole,
        )
        if self.long is not None and self.sizes.is_long(body.size_bytes):
            head = encode_request(request, b"", self.sign)
            return self.long.announce(step.kind, hospital, head, body, pages=hashes.pages)
        frame = encode_request(request, body.read(0, body.size_bytes), self.sign)
        if self.long is not None:
            self.long.note(step.kind, hospital, frame)
        return frame
