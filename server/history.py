"""The rounds of a run that are over, as hospitals get them: the last sum with all that verifies it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from common.messages import SignedManifest
from common.wire import header_bytes
from server.aggregate import Aggregate
from server.mask_store import MaskStore
from server.store import Store


@dataclass(frozen=True, slots=True)
class StoredHistory:
    """The completed rounds of one run, as `server.requests` wants them."""

    store: Store
    masks: MaskStore
    run: str

    def aggregates(self, rounds: tuple[int, int]) -> tuple[Aggregate, ...]:
        """The rounds first to last, in order.

        The last sum of the run comes with transcript and, if each hospital recomputes all of it, uploads; where it is
        not among them, the last entry carries manifests of the next sum, which vouch for all before it.

        Raises:
            StoreError: If one is missing.
        """
        found = [self._with_transcript(one) for one in self.store.aggregates(self.run, *rounds)]
        if found and not any(one.entry.transcript for one in found):
            entry = found[-1].entry.model_copy(update={"witnesses": self._witnesses(rounds[1])})
            found[-1] = replace(found[-1], entry=entry)
        return tuple(found)

    def sizes(self, rounds: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        """Bytes of each one's entry and body, without manifests that vouch."""
        sizes: Sequence[tuple[int, int]] = self.store.sizes(self.run, *rounds)
        return tuple(self._with_verification(rounds[0] + index, size) for index, size in enumerate(sizes))

    def _with_transcript(self, aggregate: Aggregate) -> Aggregate:
        entry = aggregate.entry
        transcript = self.masks.transcript(entry.round)
        if transcript is None:
            return aggregate
        # Where verification is sampled, records of them are sent instead, to each hospital its own.
        names = [signed.manifest.hospital for signed in entry.survivors] if transcript.upload_bytes else []
        uploads = [self.masks.upload(entry.round, entry.attempt, hospital=name) for name in names]
        return Aggregate(entry.model_copy(update={"transcript": transcript}), b"".join((aggregate.body, *uploads)))

    def _with_verification(self, number: int, size: tuple[int, int]) -> tuple[int, int]:
        transcript, (entry, body) = self.masks.transcript(number), size
        if transcript is None:
            return size
        uploads = transcript.upload_bytes * len(transcript.seeds)
        return entry + len(header_bytes(transcript)), body + uploads

    def _witnesses(self, number: int) -> tuple[SignedManifest, ...]:
        """Manifests of the first sum behind a round."""
        last = self.store.last_complete_round(self.run)
        for later in range(number + 1, last + 1):
            (aggregate,) = self.store.aggregates(self.run, later, later)
            if aggregate.entry.survivors:
                return aggregate.entry.survivors
        return ()
