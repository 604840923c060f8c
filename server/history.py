"""The rounds of a run that are over, as hospitals get them: the last sum with all that verifies it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from common.messages import AggregateEntry, SignedManifest
from common.wire import header_bytes
from server.bodies import Body, JoinedBody, StoredBody
from server.mask_store import MaskStore
from server.store import Store


@dataclass(frozen=True, slots=True)
class StoredHistory:
    """The completed rounds of one run, as `server.parts` wants them."""

    store: Store
    masks: MaskStore
    run: str

    def entries(self, rounds: tuple[int, int]) -> tuple[AggregateEntry, ...]:
        """What a request says of the rounds first to last, in order.

        The last sum of the run comes with its transcript; where it is not among them, the last entry carries manifests
        of the next sum, which vouch for all before it.

        Raises:
            StoreError: If one is missing.
        """
        found = [self._with_transcript(one) for one in self.store.entries(self.run, *rounds)]
        if found and not any(entry.transcript for entry in found):
            found[-1] = found[-1].model_copy(update={"witnesses": self._witnesses(rounds[1])})
        return tuple(found)

    def body(self, rounds: tuple[int, int]) -> Body:
        """Their bodies, one after the other, none of which is read yet: each sum, with the last one's uploads.

        Where verification is sampled, records of uploads are sent instead, to each hospital its own.
        """
        entries, sums = self.store.entries(self.run, *rounds), self.store.bodies(self.run, *rounds)
        both = zip(entries, sums, strict=True)
        return JoinedBody([body for entry, total in both for body in (total, *self._uploads(entry))])

    def sizes(self, rounds: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        """Bytes of each one's entry and body, without manifests that vouch."""
        sizes: Sequence[tuple[int, int]] = self.store.sizes(self.run, *rounds)
        return tuple(self._with_verification(rounds[0] + index, size) for index, size in enumerate(sizes))

    def _with_transcript(self, entry: AggregateEntry) -> AggregateEntry:
        transcript = self.masks.transcript(entry.round)
        return entry if transcript is None else entry.model_copy(update={"transcript": transcript})

    def _uploads(self, entry: AggregateEntry) -> tuple[Body, ...]:
        transcript = self.masks.transcript(entry.round)
        size = transcript.upload_bytes if transcript else 0
        names = [signed.manifest.hospital for signed in entry.survivors] if size else []
        opened = self.masks.opened_upload
        return tuple(StoredBody(size, partial(opened, entry.round, entry.attempt, hospital=name)) for name in names)

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
            (entry,) = self.store.entries(self.run, later, later)
            if entry.survivors:
                return entry.survivors
        return ()
