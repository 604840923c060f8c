"""Checks survivors, histories and aggregates before anything is revealed for them or decrypted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from client.member import Member
from common.ckks import PRESETS, EncryptedSum, chunks_for, decode_sum, upload_seeds
from common.errors import DivergenceError, SplitViewError, TranscriptError, WrongRound
from common.mask_messages import identity_of
from common.messages import AggregateEntry, Applied, Manifest, SignedManifest, SignedReply, survivors_digest


@dataclass(frozen=True, slots=True)
class Expectation:
    """What this hospital holds against the coordinator's word about the round behind `applied`.

    Args:
        member: This hospital.
        run: The run.
        epoch: Key epoch of that round.
        state_tag: Of its own model, under that epoch's key.
        applied: What that rests on.
        opening: Digest of the round's opening that it was shown, or None if it was shown none.
        revealed: Digest of the survivors that it gave shares for, or None.
        own: Its reply to the attempt in question, or None if it sent none or has it no more.
        revealed_before: Digest of the survivors that it gave shares for in the round of `applied`, or empty.
    """

    member: Member
    run: str
    epoch: int
    state_tag: str
    applied: Applied
    opening: str | None
    revealed: str | None
    own: SignedReply | None
    revealed_before: str


@dataclass(frozen=True, slots=True)
class VerifiedAggregate:
    """An encrypted sum whose manifests fit; `declared_units` is what its weight slot must hold."""

    total: EncryptedSum
    contributors: tuple[str, ...]
    declared_units: int


def check_survivors(survivors: Sequence[SignedManifest], *, attempt: int, expected: Expectation) -> tuple[str, ...]:
    """Check who is said to be in a round's sum.

    Args:
        survivors: Their manifests.
        attempt: The attempt of the round behind `expected.applied`.
        expected: What this hospital holds against it.

    Returns:
        Their names, in roster order.

    Raises:
        TranscriptError: If they are too few, not distinct, not in roster order, or do not fit plan, round or our reply.
        SplitViewError: If one of them was shown another opening than we, or than another one, or gave shares for other
            survivors of the round before, whether that has a sum or was skipped.
        DivergenceError: If one of them started from another model.
        BadSignature: If a manifest was not signed by its hospital.
    """
    member = expected.member
    names = _check_cohort(survivors, member)
    number = expected.applied.round + 1
    for signed in survivors:
        manifest = signed.manifest
        _check_place(manifest, attempt=attempt, expected=expected)
        if manifest.opening != (expected.opening or survivors[0].manifest.opening):
            raise SplitViewError(
                f"{manifest.hospital} was shown another opening of round {number} than others; refuse it, and stop "
                "the run"
            )
        if (manifest.state_tag, manifest.applied) != (expected.state_tag, expected.applied):
            raise DivergenceError(
                f"{manifest.hospital} trained round {number} from another model than ours; "
                "stop the run and compare the sites' logs"
            )
        own = expected.own
        if own is not None and manifest.hospital == member.hospital and signed != own.signed:
            raise TranscriptError("the transcript holds another manifest of ours than the one we sent; refuse it")
    before = {signed.manifest.revealed for signed in survivors} | {expected.revealed_before}
    if len(before - {""}) > 1:
        raise SplitViewError(
            f"hospitals gave shares for different survivors of round {number - 1}, so its sum may have been opened for "
            "fewer of them than they were told; refuse it, and stop the run"
        )
    return names


def check_history(
    entries: Sequence[AggregateEntry], roots: Sequence[str], *, member: Member, run: str, applied: Applied
) -> None:
    """Check that enough hospitals have applied the rounds that come without a transcript, before any is decrypted.

    Each hospital signs the hash chain over all rounds that it has applied or skipped. So the manifests of the last
    round that has any vouch for every round before it.

    Args:
        entries: Rounds behind `applied`, in order.
        roots: Digest of each one's sum, empty for a skipped round.
        member: This hospital.
        run: The run.
        applied: What this hospital rests on.

    Raises:
        WrongRound: If they are not the rounds behind `applied`, one after the other.
        TranscriptError: If too few hospitals vouch for them, or for another history.
        BadSignature: If a manifest was not signed by its hospital.
    """
    history = [applied]
    for entry, root in zip(entries, roots, strict=True):
        if entry.round != history[-1].round + 1 or entry.round > member.plan.last_round:
            raise WrongRound(
                f"seen aggregate {entry.round} after {history[-1].round}; the next one is allowed, send what lies "
                "between"
            )
        history.append(history[-1].followed_by(root))
    summed = [index for index, entry in enumerate(entries) if entry.survivors]
    if not summed:
        return
    last = summed[-1]
    if entries[last].transcript is not None:
        vouching, what = entries[last].survivors, history[last]
    else:
        vouching, what = entries[-1].witnesses, history[-1]
    _check_cohort(vouching, member)
    for signed in vouching:
        seen = (signed.manifest.run, signed.manifest.plan, signed.manifest.applied)
        if seen != (run, member.plan.digest, what):
            raise TranscriptError(
                f"{signed.manifest.hospital} has applied other rounds up to {what.round} than these; refuse them, stop "
                "the run and compare the sites' logs"
            )


def verify_aggregate(entry: AggregateEntry, body: memoryview, *, expected: Expectation) -> VerifiedAggregate:
    """Check the sum of the round behind `expected.applied` against its survivors' manifests.

    Args:
        entry: Who is in the sum, as the coordinator says.
        body: The sum's bytes, without uploads.
        expected: What this hospital holds against it.

    Raises:
        PeerError: As `check_survivors`; besides SplitViewError if shares were given for other survivors,
            TranscriptError if the seeds are not distinct or disagree about our upload, and MalformedMessage if the sum
            has a wrong length or a word outside the ring.
    """
    names = check_survivors(entry.survivors, attempt=entry.attempt, expected=expected)
    if expected.revealed not in (None, survivors_digest(entry.survivors)):
        raise SplitViewError(
            f"the aggregate of round {entry.round} has other survivors than those that shares were given for; refuse "
            "it, and stop the run"
        )
    plan, roster = expected.member.plan, {hospital.name: hospital for hospital in expected.member.plan.roster}
    parameters = PRESETS[plan.encryption.preset]
    total = decode_sum(body, chunks_for(plan.upload_values, parameters), len(names), parameters)
    _check_seeds(total, names, expected=expected)
    return VerifiedAggregate(total, names, sum(roster[name].declared_units for name in names))


def _check_cohort(survivors: Sequence[SignedManifest], member: Member) -> tuple[str, ...]:
    names = tuple(signed.manifest.hospital for signed in survivors)
    if names != tuple(hospital.name for hospital in member.plan.roster if hospital.name in set(names)):
        raise TranscriptError("an aggregate's contributors are not distinct hospitals in roster order; refuse it")
    needed = max(member.least, member.plan.threshold)
    if len(names) < needed:
        raise TranscriptError(f"an aggregate of {len(names)} hospitals; at least {needed} are allowed; refuse it")
    for signed in survivors:
        signed.check(identity_of(signed.manifest.hospital, member.identities))
    return names


def _check_seeds(total: EncryptedSum, names: Sequence[str], *, expected: Expectation) -> None:
    if len(set(total.seeds)) < len(total.seeds):
        raise TranscriptError("one upload stands more than once in an aggregate; refuse it")
    own, hospital = expected.own, expected.member.hospital
    if own is None or not own.body:
        return
    ours = upload_seeds(own.body, len(total.words), total.parameters)
    at = names.index(hospital) if hospital in names else None
    if [index for index, seeds in enumerate(total.seeds) if seeds == ours] != ([] if at is None else [at]):
        raise TranscriptError("an aggregate and its manifests disagree whether our upload is in it; refuse it")


def _check_place(manifest: Manifest, *, attempt: int, expected: Expectation) -> None:
    plan, number = expected.member.plan, expected.applied.round + 1
    parameters = PRESETS[plan.encryption.preset]
    seen = (manifest.kind, manifest.run, manifest.plan, manifest.epoch, manifest.round, manifest.attempt)
    wanted = (plan.kind_of(number), expected.run, plan.digest, expected.epoch, number, attempt)
    fits = manifest.role == "contribute" and manifest.chunks == chunks_for(plan.upload_values, parameters)
    if seen != wanted or not fits or manifest.parameters != parameters.digest():
        raise TranscriptError(f"the manifest of {manifest.hospital} is not one of round {number}; refuse it")
