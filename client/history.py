"""Brings the model up to date with the rounds that the coordinator sends: all of them verified, then one by one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from client.apply import Opener, apply_aggregate
from client.epochs import check_epoch
from client.keys import EpochKey
from client.member import Member
from client.opening import known_opening
from client.sampled import Recomputer
from client.state import RunState, skip, state_tag
from client.storage import RunStorage
from client.verify import Expectation, check_history
from common.errors import AggregateMismatch, MalformedMessage, TranscriptError
from common.grid import Grid
from common.messages import AggregateEntry, decode_reply
from common.request_frames import SignedRequest
from common.transcript import aggregate_root
from common.wire import header_bytes

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class History:
    """What a hospital needs to take up rounds that are over.

    Args:
        member: This hospital.
        epoch_key: The key of an epoch; raises KeyMissing before its ceremony.
        grid: The plan's grid.
        run: The run.
        storage: Keeps the model and its history.
    """

    member: Member
    epoch_key: Callable[[int], EpochKey]
    grid: Grid
    run: str
    storage: RunStorage

    @property
    def recomputer(self) -> Recomputer:
        """Makes sure of sums."""
        return Recomputer(self.member, self.storage)

    def catch_up(self, signed: SignedRequest, state: RunState) -> RunState:
        """Apply the rounds in a request that this hospital has not applied yet, and recompute what it asks for.

        Args:
            signed: The request.
            state: The model before.

        Returns:
            The model after them; it is on the disk.

        Raises:
            PeerError: If they are not one history that enough hospitals vouch for, or a sum does not verify; what was
                applied before it stays.
            KeyMissing: If this site was away when the key of one of them was dealt.
            EpochClosed: If the key has refused too many sums.
            SiteStorageError: If the disk refuses.
        """
        pairs = list(zip(signed.request.aggregates, signed.aggregate_bodies(), strict=True))
        fresh = [(entry, body) for entry, body in pairs if entry.round > state.applied.round]
        for entry, body in pairs[: len(pairs) - len(fresh)]:
            if entry.round == state.applied.round and _root(entry, body) != state.applied.root:
                raise TranscriptError(f"another outcome of round {entry.round} than the one applied here; refuse it")
        entries, roots = [entry for entry, _ in fresh], [_root(entry, body) for entry, body in fresh]
        check_history(entries, roots, member=self.member, run=self.run, applied=state.applied)
        for entry, body in fresh:
            with self._keeping_evidence(signed, entry.round):
                state = self._apply(entry, body, state, signed) if entry.survivors else self._skip(entry, state)
        if signed.request.check is not None:
            with self._keeping_evidence(signed, signed.request.check.round):
                self.recomputer.take(signed, state.applied)
        return state

    def expectation(self, state: RunState, *, attempt: int, epoch: int) -> Expectation:
        """What this hospital holds against the coordinator's word about the next round, which is under that epoch."""
        number, storage = state.applied.round + 1, self.storage
        opening, reveal = known_opening(number, storage), storage.load_reveal(number)
        own = storage.load_reply(number, attempt)
        return Expectation(
            member=self.member,
            run=self.run,
            epoch=epoch,
            state_tag=state_tag(state, self.epoch_key(epoch).tag),
            applied=state.applied,
            opening=opening.digest if opening else None,
            revealed=reveal.survivors if reveal else None,
            own=decode_reply(own, self.member.identities) if own is not None else None,
            revealed_before=storage.revealed_in(state.applied.round),
        )

    @contextmanager
    def _keeping_evidence(self, signed: SignedRequest, round_number: int) -> Iterator[None]:
        try:
            yield
        except AggregateMismatch:
            # Both signatures are needed to show to others what was sent: the coordinator's and the hospitals'.
            self.storage.save_evidence(round_number, signed.signature.hex().encode() + header_bytes(signed.request))
            raise

    def _apply(self, entry: AggregateEntry, body: memoryview, state: RunState, signed: SignedRequest) -> RunState:
        epoch = entry.survivors[0].manifest.epoch
        check_epoch(epoch, entry.round, plan=self.member.plan)
        key = self.epoch_key(epoch)
        applied = apply_aggregate(
            state,
            entry,
            total=body[: entry.sum_bytes],
            expected=self.expectation(state, attempt=entry.attempt, epoch=epoch),
            recheck=lambda verified: self.recomputer.recheck(verified, entry, body, signed),
            opener=Opener(key=key.ckks, grid=self.grid, refused=key.refused),
        )
        # History first: after a crash in between the row is written again, with the aggregate that comes then.
        row = {"contributors": list(applied.contributors), "counts_before": applied.counts.tolist()}
        self._record(entry.round, row)
        self.storage.save_state(applied.state)
        log.info("applied aggregate %d of %d hospitals", entry.round, len(applied.contributors))
        return applied.state

    def _record(self, number: int, row: dict[str, Any]) -> None:
        """Keep what happened in a round; what we were asked to unmask in it is signed in the next."""
        reveal = self.storage.load_reveal(number)
        self.storage.record_round(number, row | {"revealed": reveal.survivors if reveal else ""})

    def _skip(self, entry: AggregateEntry, state: RunState) -> RunState:
        skipped = skip(state)
        self._record(entry.round, {"contributors": [], "counts_before": []})
        self.storage.save_state(skipped)
        log.warning("round %d was skipped: too few hospitals answered; its charge stays", entry.round)
        return skipped


def _root(entry: AggregateEntry, body: memoryview) -> str:
    """Digest of a round's sum; empty of a skipped round, which brings nothing."""
    if entry.survivors:
        return aggregate_root(body[: entry.sum_bytes])
    if entry.sum_bytes or entry.transcript:
        raise MalformedMessage(f"round {entry.round} has a sum and no survivors; refuse it")
    return ""
