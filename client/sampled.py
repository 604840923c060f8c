"""A hospital's part in making sure of sums: all of each, or its chunks of it, as the plan says.

Where verification is sampled, the last sum is applied before all of it was recomputed. So it is provisional: nothing is
revealed and no result written that rests on it before enough hospitals have signed that their chunks of it are right.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from client.member import Member
from client.recompute import open_masks, recompute, recompute_chunks
from client.storage import RunStorage
from client.verify import VerifiedAggregate
from common.canonical import canonical_bytes
from common.ckks import PRESETS, chunks_for
from common.errors import SiteStorageError, TranscriptError, UnverifiedChunks, WrongRound
from common.mask_messages import identity_of
from common.messages import NOTHING_APPLIED, AggregateEntry, Applied, SignedManifest, survivors_digest
from common.request_frames import SignedRequest
from common.transcript import aggregate_root
from common.verdicts import ChunkCheck, Verdict, assigned_chunks, can_share, sample_of


@dataclass(frozen=True, slots=True)
class Provisional:
    """The last sum: what it is checked with, and this hospital's verdict on it, once there is one."""

    entry: AggregateEntry
    sample: str
    verdict: Verdict | None

    def to_bytes(self) -> bytes:
        """For the disk."""
        verdict = self.verdict.model_dump(mode="json") if self.verdict else None
        return canonical_bytes({"entry": self.entry.model_dump(mode="json"), "sample": self.sample, "verdict": verdict})


@dataclass(frozen=True, slots=True)
class Recomputer:
    """What a hospital needs to make sure of a run's sums.

    Args:
        member: This hospital.
        storage: Keeps the last sum.
    """

    member: Member
    storage: RunStorage

    def recheck(
        self, verified: VerifiedAggregate, entry: AggregateEntry, body: memoryview, signed: SignedRequest
    ) -> None:
        """Make sure of a sum before it is decrypted, as far as this hospital has to.

        Args:
            verified: The sum; its manifests were checked.
            entry: The round.
            body: The sum and, in `full` mode and with a transcript, the uploads.
            signed: The request that it came with.

        Raises:
            PeerError: If it is not the unmasked sum of its survivors' uploads; see `client.recompute`.
            SiteStorageError: If the disk refuses.
        """
        total, uploads = body[: entry.sum_bytes], body[entry.sum_bytes :]
        if self.member.plan.verification == "full":
            if entry.transcript is not None:
                recompute(verified, entry, entry.transcript, uploads=uploads, member=self.member)
        elif entry.transcript is None:
            # A later sum follows that this hospital can make sure of; before that it reveals nothing.
            self.storage.save_provisional(entry.round, b"")
        else:
            if entry.transcript.upload_bytes:
                raise TranscriptError("uploads come with a sum whose verification is sampled; refuse them")
            open_masks(entry, entry.transcript, member=self.member)
            sample = sample_of(survivors_digest(entry.survivors), aggregate_root(total))
            last = Provisional(entry, sample, None)
            if signed.request.check is not None and signed.request.check.round == entry.round:
                last = self._checked(last, total, signed.request.check, signed.records)
            self.storage.save_provisional(entry.round, last.to_bytes(), body=total)

    def take(self, signed: SignedRequest, applied: Applied) -> None:
        """Recompute the chunks that a request brings of a sum that was applied already.

        Raises:
            WrongRound: If they are not of the last sum.
            PeerError: As `recheck`.
            SiteStorageError: If the disk refuses.
        """
        check = signed.request.check
        if check is None:
            return
        last = self._last(applied)
        if last is None or check.round != last.entry.round:
            raise WrongRound(f"chunks of round {check.round} to recompute, which is not the last sum here; refuse them")
        if last.verdict is None or last.verdict.present != check.present:
            body = memoryview(self.storage.load_sum(last.entry.round))
            last = self._checked(last, body, check, signed.records)
            self.storage.save_provisional(last.entry.round, last.to_bytes())

    def verdict(self, applied: Applied) -> Verdict | None:
        """This hospital's word on the last sum, if it has recomputed its chunks."""
        last = self._last(applied)
        return last.verdict if last else None

    def require_verdicts(self, signed: Sequence[SignedManifest], *, run: str, applied: Applied) -> None:
        """Refuse to go on unless every chunk of the last sum was recomputed by as many hospitals as the plan asks for.

        Args:
            signed: Manifests that may hold verdicts.
            run: The run.
            applied: What this hospital rests on.

        Raises:
            UnverifiedChunks: If the verdicts of all that share the chunks are not among them.
            BadSignature: If a manifest was not signed by its hospital.
            SiteStorageError: If the disk is damaged.
        """
        plan, last = self.member.plan, self._last(applied)
        if plan.verification == "full" or applied == _after_skips(applied.round):
            return
        found: dict[tuple[int, ...], set[str]] = defaultdict(set)
        for one in signed if last else ():
            manifest, verdict = one.manifest, one.manifest.verdict
            if verdict is None or last is None or (manifest.run, manifest.plan) != (run, plan.digest):
                continue
            if (verdict.round, verdict.sample) == (last.entry.round, last.sample):
                one.check(identity_of(manifest.hospital, self.member.identities))
                found[verdict.present].add(manifest.hospital)
        for present, hospitals in found.items():
            shared = can_share(present, hospitals=len(plan.roster), verifiers=plan.verifiers)
            if shared and {plan.roster[position].name for position in present} <= hospitals:
                return
        raise UnverifiedChunks(
            f"the sum behind round {applied.round + 1} is not recomputed yet: every chunk takes the word of "
            f"{plan.verifiers} hospitals, all that share the chunks must have given it; nothing is given for it"
        )

    def _checked(self, last: Provisional, body: memoryview, check: ChunkCheck, records: memoryview) -> Provisional:
        plan, me = self.member.plan, self.member.position
        known = last.verdict.present if last.verdict else ()
        shared = can_share(check.present, hospitals=len(plan.roster), verifiers=plan.verifiers)
        fits = check.sample == last.sample and me in check.present and check.known in ((), known)
        if not (shared and fits):
            raise TranscriptError("chunks to recompute are of another sum, or not for this hospital; refuse them")
        own = self._chunks(last.sample, check.present)
        if check.known:
            done = set(self._chunks(last.sample, check.known))
            own = tuple(chunk for chunk in own if chunk not in done)
        recompute_chunks(body, last.entry, own=own, records=records, member=self.member)
        return replace(last, verdict=Verdict(round=last.entry.round, sample=last.sample, present=check.present))

    def _chunks(self, sample: str, present: tuple[int, ...]) -> tuple[int, ...]:
        plan = self.member.plan
        chunks = chunks_for(plan.upload_values, PRESETS[plan.encryption.preset])
        shares = assigned_chunks(sample, present, hospitals=len(plan.roster), chunks=chunks, verifiers=plan.verifiers)
        return shares[self.member.position]

    def _last(self, applied: Applied) -> Provisional | None:
        """The last sum, if it was applied and came with what it is checked with."""
        data = self.storage.load_provisional()
        if data is None:
            return None
        try:
            content = json.loads(data)
            entry = AggregateEntry.model_validate(content["entry"])
            verdict = content["verdict"]
            last = Provisional(
                entry, str(content["sample"]), None if verdict is None else Verdict.model_validate(verdict)
            )
        except (ValueError, TypeError, KeyError) as error:
            raise SiteStorageError(
                "the last sum on the disk is damaged; this site sits this run out; mend the disk and start a new run"
            ) from error
        # After a crash it may be one that was never applied.
        return last if last.entry.round <= applied.round else None


def _after_skips(rounds: int) -> Applied:
    applied = NOTHING_APPLIED
    for _ in range(rounds):
        applied = applied.followed_by("")
    return applied
