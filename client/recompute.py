"""Recomputes a sum from its transcript, byte for byte, before anything of it is decrypted."""

from __future__ import annotations

from functools import partial

import numpy as np

from client.member import Member
from client.verify import VerifiedAggregate
from common.ckks import PackedUpload
from common.errors import AggregateMismatch, SplitViewError, TranscriptError
from common.mask_messages import Advert, commitment_of, identity_of, opening_digest
from common.masked_sum import unmasked_blocks
from common.masks import MaskPlace, find_masks
from common.messages import AggregateEntry, Transcript
from common.pair_box import public_hex
from common.transcript import merkle_root


def recompute(
    verified: VerifiedAggregate, entry: AggregateEntry, transcript: Transcript, *, uploads: memoryview, member: Member
) -> None:
    """Check that a sum is the unmasked sum of its survivors' signed uploads.

    Args:
        verified: The sum; its manifests were checked.
        entry: The round.
        transcript: What its masks were made of.
        uploads: The survivors' uploads, one after the other.
        member: This hospital.

    Raises:
        TranscriptError: If the transcript's adverts, seeds or mask keys do not fit the manifests or each other.
        SplitViewError: If the adverts are not those that the survivors were shown.
        BadSignature: If an advert was not signed by its hospital.
        MalformedMessage: If an upload has a wrong length or a word outside the ring.
        AggregateMismatch: If an upload is not the signed one, or the sum is another.
    """
    adverts = {advert.hospital: advert for advert in transcript.adverts}
    _check_adverts(entry, transcript, member=member)
    positions = {hospital.name: index for index, hospital in enumerate(member.plan.roster)}
    seeds = _seeds(verified.contributors, transcript, adverts)
    dropped = _mask_secrets(verified.contributors, transcript, adverts)
    parameters, chunks = verified.total.parameters, len(verified.total.words)
    size, readers = transcript.upload_bytes, []
    for index, signed in enumerate(entry.survivors):
        upload = uploads[index * size : (index + 1) * size]
        _check_upload(upload, signed.manifest.root, chunks=chunks, verified=verified, index=index)
        readers.append(partial(_cut, upload))
    masks = find_masks(
        MaskPlace(
            run=entry.survivors[0].manifest.run,
            plan=member.plan.digest,
            epoch=entry.survivors[0].manifest.epoch,
            round=entry.round,
            attempt=entry.attempt,
        ),
        seeds={positions[name]: seed for name, seed in seeds.items()},
        mask_keys={positions[name]: adverts[name].mask_key for name in seeds},
        dropped={positions[name]: secret for name, secret in dropped.items()},
    )
    for start, words, _ in unmasked_blocks(readers, chunks, parameters=parameters, masks=masks):
        if not np.array_equal(words, verified.total.words[start : start + len(words)]):
            raise AggregateMismatch(
                f"the aggregate of round {entry.round} is not the unmasked sum of the uploads that "
                f"{len(entry.survivors)} hospitals signed; nothing was decrypted; refuse it, and stop the run"
            )


def _cut(upload: memoryview, start: int, stop: int) -> memoryview:
    return upload[start:stop]


def _check_upload(upload: memoryview, root: str, *, chunks: int, verified: VerifiedAggregate, index: int) -> None:
    name = verified.contributors[index]
    seeds = PackedUpload.read(upload, chunks, verified.total.parameters).seeds
    if merkle_root(upload, chunks) != root:
        raise AggregateMismatch(f"the upload of {name} in the transcript is not the one it signed; refuse it")
    if seeds != verified.total.seeds[index]:
        raise AggregateMismatch(f"the aggregate's seeds of {name} are not those of its upload; refuse it")


def _check_adverts(entry: AggregateEntry, transcript: Transcript, *, member: Member) -> None:
    if opening_digest(transcript.adverts) != entry.survivors[0].manifest.opening:
        raise SplitViewError(
            f"round {entry.round} was opened with other adverts than its transcript says; refuse it, and stop the run"
        )
    for advert in transcript.adverts:
        seen = (advert.plan, advert.epoch, advert.round)
        if seen != (member.plan.digest, entry.survivors[0].manifest.epoch, entry.round):
            raise TranscriptError(f"the advert of {advert.hospital} is not one of round {entry.round}; refuse it")
        advert.check(identity_of(advert.hospital, member.identities))


def _seeds(survivors: tuple[str, ...], transcript: Transcript, adverts: dict[str, Advert]) -> dict[str, bytes]:
    if len(transcript.seeds) != len(survivors) or not set(survivors) <= set(adverts):
        raise TranscriptError("a transcript has not one seed for each survivor of its opening; refuse it")
    seeds = {name: bytes.fromhex(seed) for name, seed in zip(survivors, transcript.seeds, strict=True)}
    for name, seed in seeds.items():
        if commitment_of(seed) != adverts[name].commitment:
            raise TranscriptError(f"the seed of {name} is not the one it committed itself to; refuse it")
    return seeds


def _mask_secrets(survivors: tuple[str, ...], transcript: Transcript, adverts: dict[str, Advert]) -> dict[str, bytes]:
    gone = [name for name in adverts if name not in survivors]
    if len(transcript.mask_secrets) != len(gone):
        raise TranscriptError("a transcript has not one mask key for each hospital that dropped out; refuse it")
    secrets = {name: bytes.fromhex(secret) for name, secret in zip(gone, transcript.mask_secrets, strict=True)}
    for name, secret in secrets.items():
        if public_hex(secret) != adverts[name].mask_key:
            raise TranscriptError(f"the mask key of {name} is not the one it announced; refuse it")
    return secrets
