"""Adds encrypted uploads and takes their masks off. No array here is as large as an upload's words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from io import BytesIO
from typing import IO, Protocol, Self

from common.ckks import CkksParameters, EncryptedSum, PackedUpload, encode_sum
from common.ckks_parameters import SEED_BYTES
from common.masked_sum import Records, unmasked_blocks
from common.messages import AggregateEntry, Applied, SignedManifest, Transcript
from server.bodies import Body, FileBody, HeldBody
from server.masked_round import Unmasking

StateKey = tuple[str, Applied]


@dataclass(frozen=True, slots=True)
class Aggregate:
    """The sum of one round: what is stored and sent to all. Its body need not be in memory."""

    entry: AggregateEntry
    content: Body

    @classmethod
    def held(cls, entry: AggregateEntry, body: bytes) -> Self:
        """One whose body is in memory."""
        return cls(entry, HeldBody(body))

    @property
    def body(self) -> bytes:
        """All of it."""
        return self.content.read(0, self.content.size_bytes)


def skipped(round_number: int, attempt: int) -> Aggregate:
    """A round that ends without a sum."""
    entry = AggregateEntry(
        round=round_number, attempt=attempt, survivors=(), sum_bytes=0, transcript=None, witnesses=()
    )
    return Aggregate.held(entry, b"")


class Uploads(Protocol):
    """Where the admitted uploads of one attempt are."""

    def keep(self, hospital: str, body: bytes | memoryview) -> None:
        """Keep the body of a hospital's upload."""

    def open(self, hospital: str) -> AbstractContextManager[Records]:
        """Read it."""


class HeldUploads:
    """Uploads in memory; those of the ServerApp are in `server.mask_store`."""

    def __init__(self) -> None:
        self._bodies: dict[str, bytes | memoryview] = {}

    def keep(self, hospital: str, body: bytes | memoryview) -> None:
        """Hold it."""
        self._bodies[hospital] = body

    def open(self, hospital: str) -> AbstractContextManager[Records]:
        """Cut it."""
        view = memoryview(self._bodies[hospital])
        return nullcontext(lambda start, stop: view[start:stop])


class RunningSum:
    """The uploads of one attempt, by (state tag, applied history).

    Hospitals with different tags hold different models; adding their updates would be meaningless. All are equal in a
    healthy run. They are added once it is known whose masks can be taken off, a block of ciphertexts at a time: the
    masked sum is of no use to anybody.
    """

    def __init__(self, parameters: CkksParameters, uploads: Uploads | None = None) -> None:
        self._parameters = parameters
        self._uploads: Uploads = uploads or HeldUploads()
        self._groups: dict[StateKey, dict[str, SignedManifest]] = {}

    def add(self, signed: SignedManifest, upload: PackedUpload) -> None:
        """Take an admitted upload."""
        self._uploads.keep(signed.manifest.hospital, upload.body)
        self.resume(signed)

    def resume(self, signed: SignedManifest) -> None:
        """Count an upload that was kept before."""
        manifest = signed.manifest
        self._groups.setdefault((manifest.state_tag, manifest.applied), {})[manifest.hospital] = signed

    @property
    def largest(self) -> frozenset[str]:
        """Hospitals of the largest group; of equal ones that which has applied more rounds."""
        return frozenset(self._largest()) if self._groups else frozenset()

    @property
    def outside(self) -> frozenset[str]:
        """Hospitals whose uploads are in another group: they hold another model."""
        return frozenset(name for group in self._groups.values() for name in group) - self.largest

    def survivors(self, roster: Sequence[str]) -> tuple[SignedManifest, ...]:
        """Manifests of the largest group, in the plan's order.

        Args:
            roster: Names of all hospitals, in that order.
        """
        members = self._largest()
        return tuple(members[name] for name in roster if name in members)

    def unmasked(self, unmasking: Unmasking) -> tuple[Aggregate, Transcript]:
        """`unmask_into`, in memory."""
        with BytesIO() as file:
            made, transcript = self.unmask_into(file, unmasking)
            return Aggregate.held(made.entry, file.getvalue()), transcript

    def unmask_into(self, file: IO[bytes], unmasking: Unmasking) -> tuple[Aggregate, Transcript]:
        """The largest group's sum without its masks, and what shows that it is that.

        Args:
            file: Takes the sum; it must stay open as long as the sum is read.
            unmasking: The shares for exactly this group.

        Raises:
            BadShare: If the shares do not give what was committed to.
        """
        first, parameters = unmasking.survivors[0].manifest, self._parameters
        transcript = unmasking.transcript(first.chunks * (parameters.chunk_bytes + SEED_BYTES))
        masks = unmasking.masks(transcript)
        with ExitStack() as stack:
            uploads = [stack.enter_context(self._uploads.open(name)) for name in unmasking.names]
            for _, words, seeds in unmasked_blocks(uploads, first.chunks, parameters=parameters, masks=masks):
                file.write(encode_sum(EncryptedSum(parameters, words, seeds)))
        entry = AggregateEntry(
            round=first.round,
            attempt=first.attempt,
            survivors=unmasking.survivors,
            sum_bytes=file.tell(),
            transcript=None,
            witnesses=(),
        )
        return Aggregate(entry, FileBody(entry.sum_bytes, file)), transcript

    def _largest(self) -> dict[str, SignedManifest]:
        key = max(self._groups, key=lambda k: (len(self._groups[k]), k[1].round, k[0]))
        members = self._groups[key]
        # One that names other survivors of the round before than most would make all others refuse to unmask.
        told = Counter(signed.manifest.revealed for signed in members.values() if signed.manifest.revealed)
        believed = {"", *(digest for digest, _ in told.most_common(1))}
        return {name: signed for name, signed in members.items() if signed.manifest.revealed in believed}
