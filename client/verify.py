"""Checks an aggregate and its transcript before anything is decrypted."""

from __future__ import annotations

from dataclasses import dataclass

from common.ckks import PRESETS, EncryptedSum, chunks_for, decode_sum, decode_upload
from common.errors import DivergenceError, TranscriptError, WrongRound
from common.messages import AggregateEntry, Applied, Manifest, SignedReply
from common.plan import Plan


@dataclass(frozen=True, slots=True)
class Expectation:
    """What this hospital holds against the coordinator's word."""

    plan: Plan
    run: str
    hospital: str
    min_cohort: int
    state_tag: str
    applied: Applied


@dataclass(frozen=True, slots=True)
class VerifiedAggregate:
    """An encrypted sum whose transcript fits; `declared_units` is what its weight slot must hold."""

    total: EncryptedSum
    contributors: tuple[str, ...]
    declared_units: int


def verify_aggregate(
    entry: AggregateEntry, body: memoryview, *, expected: Expectation, own: SignedReply | None
) -> VerifiedAggregate:
    """Check the next aggregate of a run against its signed manifests.

    Args:
        entry: Who is in the sum, as the coordinator says.
        body: The sum's bytes.
        expected: Plan, run and this hospital's own state before the aggregate.
        own: The reply that this hospital sent for that round and attempt, if it still has it.

    Raises:
        WrongRound: If it is not the round after the last applied one.
        TranscriptError: If the manifests do not fit the plan, each other, or our own.
        DivergenceError: If a contributor started from another model.
        BadSignature: If a manifest was not signed by its hospital.
        MalformedMessage: If the sum has a wrong length or a word outside the ring.

    Guarantees:
        The sum's seeds are distinct, and ours among them exactly if we are a contributor: with other seeds than those
        of the uploads in it a sum decrypts to nothing, so our upload is in it once or not at all. Without masks this
        does not show that the others' are; the weight slot and the next round's state tags catch omissions and split
        views, recomputation comes with the masks (docs/threat-model.md).
    """
    if entry.round != expected.applied.round + 1:
        raise WrongRound(f"seen aggregate {entry.round} after {expected.applied.round}; the next one is allowed")
    plan, roster = expected.plan, {h.name: h for h in expected.plan.roster}
    names = [signed.manifest.hospital for signed in entry.survivors]
    if names != [h.name for h in plan.roster if h.name in set(names)]:
        raise TranscriptError("an aggregate's contributors are not distinct hospitals in roster order; refuse it")
    needed = max(plan.min_cohort, expected.min_cohort)
    if len(names) < needed:
        raise TranscriptError(f"an aggregate of {len(names)} hospitals; at least {needed} are allowed; refuse it")
    for signed in entry.survivors:
        signed.check(roster[signed.manifest.hospital].identity)
        _check_manifest(signed.manifest, entry, expected)
        if own is not None and signed.manifest.hospital == expected.hospital and signed != own.signed:
            raise TranscriptError("the transcript holds another manifest of ours than the one we sent; refuse it")
    parameters = PRESETS[plan.encryption.preset]
    chunks = chunks_for(plan.upload_values, parameters)
    total = decode_sum(body, chunks, len(names), parameters)
    _check_seeds(total, names, expected=expected, own=own)
    return VerifiedAggregate(total, tuple(names), sum(roster[name].declared_units for name in names))


def _check_seeds(total: EncryptedSum, names: list[str], *, expected: Expectation, own: SignedReply | None) -> None:
    if len(set(total.seeds)) < len(total.seeds):
        raise TranscriptError("one upload stands more than once in an aggregate; refuse it")
    if own is None or not own.body:
        return
    ours = decode_upload(own.body, len(total.words), total.parameters).seeds
    at = names.index(expected.hospital) if expected.hospital in names else None
    if [index for index, seeds in enumerate(total.seeds) if seeds == ours] != ([] if at is None else [at]):
        raise TranscriptError("an aggregate and its manifests disagree whether our upload is in it; refuse it")


def _check_manifest(manifest: Manifest, entry: AggregateEntry, expected: Expectation) -> None:
    plan = expected.plan
    parameters = PRESETS[plan.encryption.preset]
    kind = "train" if entry.round <= plan.training.rounds else "eval"
    seen = (manifest.kind, manifest.run, manifest.plan, manifest.epoch, manifest.round, manifest.attempt)
    wanted = (kind, expected.run, plan.digest, plan.agreed.epoch, entry.round, entry.attempt)
    fits = manifest.role == "contribute" and manifest.chunks == chunks_for(plan.upload_values, parameters)
    if seen != wanted or not fits or manifest.parameters != parameters.digest():
        raise TranscriptError(f"the manifest of {manifest.hospital} is not one of round {entry.round}; refuse it")
    if (manifest.state_tag, manifest.applied) != (expected.state_tag, expected.applied):
        raise DivergenceError(
            f"{manifest.hospital} trained round {entry.round} from another model than ours; "
            "stop the run and compare the sites' logs"
        )
