"""Sampled verification as the coordinator carries it: who recomputes which chunks of the last sum, and their verdicts.

Nothing of it needs to outlive this process: hospitals keep their verdicts and give them again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from common.ckks import PRESETS, chunks_for
from common.ckks_parameters import SEED_BYTES
from common.messages import SignedManifest, survivors_digest
from common.plan import Plan
from common.transcript import AggregateRoot, MerkleTree
from common.verdicts import ChunkCheck, assigned_chunks, can_share, sample_of
from server.bodies import Body, JoinedBody, RecordsBody, pieces_of
from server.mask_store import MaskStore
from server.store import Store


@dataclass(slots=True)
class LastSum:
    """The last sum, and what hospitals have said of it.

    Args:
        round: Its round.
        attempt: Of that round.
        survivors: Whose uploads are in it, in roster order.
        sample: Decides who recomputes what.
        present: Roster positions that share its chunks.
        verdicts: By hospital, its signed word.
    """

    round: int
    attempt: int
    survivors: tuple[str, ...]
    sample: str
    present: tuple[int, ...] = ()
    verdicts: dict[str, SignedManifest] = field(default_factory=dict)
    trees: dict[str, MerkleTree] = field(default_factory=dict)


class Verification:
    """The verdicts on the last sum of one run.

    Args:
        plan: The plan.
        run: The run.
        store: Where sums are kept.
        masks: What is kept of the last one.
    """

    def __init__(self, plan: Plan, run: str, *, store: Store, masks: MaskStore) -> None:
        self._plan, self._run, self._store, self._masks = plan, run, store, masks
        self._names = tuple(hospital.name for hospital in plan.roster)
        self._parameters = PRESETS[plan.encryption.preset]
        self._chunks = chunks_for(plan.upload_values, self._parameters)
        self._last: LastSum | None = None

    def share(self, hospitals: Mapping[str, object]) -> bool:
        """Have the chunks of the last sum shared among these hospitals, unless its verdicts are there.

        Returns:
            Whether there is something to share and they are enough for it.
        """
        last = self._find()
        if last is None or self.is_complete:
            return False
        present = tuple(index for index, name in enumerate(self._names) if name in hospitals)
        if not can_share(present, hospitals=len(self._names), verifiers=self._plan.verifiers):
            return False
        last.present = present
        return True

    @property
    def is_due(self) -> bool:
        """Whether there is a sum whose verdicts are not all there."""
        return self._find() is not None and not self.is_complete

    @property
    def is_complete(self) -> bool:
        """Whether all that share the chunks of the last sum have given their verdicts."""
        last = self._find()
        return last is not None and bool(last.present) and not self.silent

    @property
    def verdicts(self) -> tuple[SignedManifest, ...]:
        """The verdicts of those that share the chunks, in roster order."""
        last = self._find()
        if last is None:
            return ()
        names = [self._names[position] for position in last.present]
        return tuple(last.verdicts[name] for name in names if name in last.verdicts)

    def hear(self, signed: SignedManifest) -> None:
        """Take the verdict in an admitted manifest, if it holds one on the last sum."""
        last, verdict, hospital = self._find(), signed.manifest.verdict, signed.manifest.hospital
        if last is None or verdict is None or (verdict.round, verdict.sample) != (last.round, last.sample):
            return
        # No honest hospital shares with fewer than can, or signs for others alone.
        can = can_share(verdict.present, hospitals=len(self._names), verifiers=self._plan.verifiers)
        if can and self._plan.agreed.position(hospital) in verdict.present:
            last.verdicts[hospital] = signed

    def check_for(self, hospital: str) -> tuple[ChunkCheck | None, Body]:
        """What a hospital is to recompute, and the records for it; nothing if it need not, or has done so."""
        last = self._find()
        if last is None or hospital not in self.silent:
            return None, JoinedBody(())
        position = self._plan.agreed.position(hospital)
        own, known = self._own(last, last.present, position), tuple[int, ...]()
        heard = last.verdicts.get(hospital)
        if heard is not None and heard.manifest.verdict is not None:
            known = heard.manifest.verdict.present
            done = set(self._own(last, known, position))
            own = tuple(chunk for chunk in own if chunk not in done)
        records = JoinedBody([self._records(last, name, own) for name in last.survivors])
        check = ChunkCheck(
            round=last.round, sample=last.sample, present=last.present, known=known, record_bytes=records.size_bytes
        )
        return check, records

    @property
    def silent(self) -> frozenset[str]:
        """Those that share the chunks as it was said last, and have not given their verdict on that."""
        last = self._find()
        if last is None:
            return frozenset()
        heard = (
            name
            for name, signed in last.verdicts.items()
            if signed.manifest.verdict is not None and signed.manifest.verdict.present == last.present
        )
        return frozenset(self._names[position] for position in last.present) - frozenset(heard)

    def _own(self, last: LastSum, present: tuple[int, ...], position: int) -> tuple[int, ...]:
        shares = assigned_chunks(
            last.sample,
            present,
            hospitals=len(self._names),
            chunks=self._chunks,
            verifiers=self._plan.verifiers,
        )
        return shares[position]

    def _records(self, last: LastSum, survivor: str, own: tuple[int, ...]) -> RecordsBody:
        opened = partial(self._masks.opened_upload, last.round, last.attempt, hospital=survivor)
        size = self._parameters.chunk_bytes + SEED_BYTES
        if survivor not in last.trees:
            with opened() as read:
                pieces = (read(chunk * size, (chunk + 1) * size) for chunk in range(self._chunks))
                last.trees[survivor] = MerkleTree.of(pieces)
        return RecordsBody(opened, last.trees[survivor], own, chunks=self._chunks, record_bytes=size)

    def _find(self) -> LastSum | None:
        """The last sum, if its chunks are shared among the hospitals."""
        if self._plan.verification == "full":
            return None
        # A transcript is kept a moment before its sum is.
        number = self._masks.last_sum(self._store.last_complete_round(self._run))
        if number is None:
            return None
        if self._last is None or self._last.round != number:
            (entry,) = self._store.entries(self._run, number, number)
            (body,) = self._store.bodies(self._run, number, number)
            root = AggregateRoot(body.size_bytes)
            for piece in pieces_of(body):
                root.update(piece)
            names = tuple(signed.manifest.hospital for signed in entry.survivors)
            sample = sample_of(survivors_digest(entry.survivors), root.hex)
            self._last = LastSum(number, entry.attempt, names, sample)
        return self._last
