"""Adds encrypted uploads as they arrive. Holds one running sum, not one upload per hospital."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from common.ckks import CkksParameters, EncryptedSum, EncryptedVector, add_in_place, encode_sum
from common.messages import AggregateEntry, Applied, SignedManifest

StateKey = tuple[str, Applied]


@dataclass(frozen=True, slots=True)
class Aggregate:
    """The sum of one round: what is stored and sent to all."""

    entry: AggregateEntry
    body: bytes


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

    def result(self, roster: Sequence[str], *, round_number: int, attempt: int) -> Aggregate:
        """The sum of the largest group, with manifests and seeds in roster order.

        Args:
            roster: Names of all hospitals, in the plan's order.
            round_number: The round that is closed.
            attempt: Its attempt.
        """
        group = self._largest()
        members = [group.members[name] for name in roster if name in group.members]
        body = encode_sum(EncryptedSum(self._parameters, group.words, tuple(seeds for _, seeds in members)))
        survivors = tuple(signed for signed, _ in members)
        return Aggregate(
            AggregateEntry(round=round_number, attempt=attempt, survivors=survivors, body_bytes=len(body)), body
        )

    def _largest(self) -> _Group:
        key = max(self._groups, key=lambda k: (len(self._groups[k].members), k[1].round, k[0]))
        return self._groups[key]
