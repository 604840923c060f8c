"""Adds encrypted uploads as they arrive. Holds one running sum, not one upload per hospital."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from common.ckks import CkksParameters, EncryptedSum, EncryptedVector, add_in_place, encode_sum
from common.ckks_parameters import SEED_BYTES
from common.messages import AggregateEntry, Applied, SignedManifest, Transcript
from server.masked_round import Unmasking

StateKey = tuple[str, Applied]


@dataclass(frozen=True, slots=True)
class Aggregate:
    """The sum of one round: what is stored and sent to all."""

    entry: AggregateEntry
    body: bytes


def skipped(round_number: int, attempt: int) -> Aggregate:
    """A round that ends without a sum."""
    entry = AggregateEntry(
        round=round_number, attempt=attempt, survivors=(), sum_bytes=0, transcript=None, witnesses=()
    )
    return Aggregate(entry, b"")


@dataclass(slots=True)
class _Group:
    """Uploads that start from one model: their sum modulo q, shape (chunks, N), uint64, and who is in it."""

    words: NDArray[np.uint64]
    members: dict[str, tuple[SignedManifest, bytes]] = field(default_factory=dict)


class RunningSum:
    """The uploads of one attempt, summed per (state tag, applied history).

    Hospitals with different tags hold different models; adding their updates would be meaningless. All are equal in a
    healthy run, so there is one sum.
    """

    def __init__(self, parameters: CkksParameters) -> None:
        self._parameters = parameters
        self._groups: dict[StateKey, _Group] = {}

    def add(self, signed: SignedManifest, upload: EncryptedVector) -> None:
        """Add an admitted upload; takes over its array."""
        manifest = signed.manifest
        key = (manifest.state_tag, manifest.applied)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group(upload.words)
        else:
            add_in_place(group.words, upload.words, self._parameters)
        group.members[manifest.hospital] = (signed, upload.seeds)

    @property
    def largest(self) -> frozenset[str]:
        """Hospitals of the largest group; of equal ones that which has applied more rounds."""
        return frozenset(self._largest().members) if self._groups else frozenset()

    @property
    def outside(self) -> frozenset[str]:
        """Hospitals whose uploads are in another group: they hold another model."""
        return frozenset(name for group in self._groups.values() for name in group.members) - self.largest

    def survivors(self, roster: Sequence[str]) -> tuple[SignedManifest, ...]:
        """Manifests of the largest group, in the plan's order.

        Args:
            roster: Names of all hospitals, in that order.
        """
        members = self._largest().members
        return tuple(members[name][0] for name in roster if name in members)

    def unmasked(self, unmasking: Unmasking) -> tuple[Aggregate, Transcript]:
        """The largest group's sum without its masks, and what shows that it is that; call it once.

        Args:
            unmasking: The shares for exactly this group.

        Raises:
            BadShare: If the shares do not give what was committed to; the sum is as before.
        """
        group, first = self._largest(), unmasking.survivors[0].manifest
        parameters = self._parameters
        upload_bytes = len(group.words) * (parameters.chunk_bytes + SEED_BYTES)
        transcript = unmasking.transcript(upload_bytes)
        unmasking.unmask(group.words, parameters, transcript)
        seeds = tuple(group.members[name][1] for name in unmasking.names)
        body = encode_sum(EncryptedSum(parameters, group.words, seeds))
        entry = AggregateEntry(
            round=first.round,
            attempt=first.attempt,
            survivors=unmasking.survivors,
            sum_bytes=len(body),
            transcript=None,
            witnesses=(),
        )
        return Aggregate(entry, body), transcript

    def _largest(self) -> _Group:
        key = max(self._groups, key=lambda k: (len(self._groups[k].members), k[1].round, k[0]))
        return self._groups[key]
