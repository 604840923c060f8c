"""Recomputes a sum, or chunks of it, from its transcript, byte for byte."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from client.member import Member
from client.verify import VerifiedAggregate
from common.ckks import PRESETS, PackedUpload, add_in_place, chunks_for, decode_sum, decode_upload
from common.ckks_parameters import SEED_BYTES
from common.errors import AggregateMismatch, MalformedMessage, SplitViewError, TranscriptError
from common.mask_messages import Advert, commitment_of, identity_of, opening_digest
from common.masked_sum import unmasked_blocks
from common.masks import MaskPlace, Unmask, find_masks
from common.messages import AggregateEntry, Transcript
from common.pair_box import public_hex
from common.transcript import merkle_root
from common.verdicts import read_records, records_bytes


def open_masks(entry: AggregateEntry, transcript: Transcript, *, member: Member) -> Unmask:
    """Check what a sum's masks were made of, against what its hospitals announced and signed.

    Args:
        entry: The round; its manifests were checked.
        transcript: What its masks were made of.
        member: This hospital.

    Returns:
        The masks that are left in the survivors' sum.

    Raises:
        TranscriptError: If the transcript's adverts, seeds or mask keys do not fit the manifests or each other.
        SplitViewError: If the adverts are not those that the survivors were shown.
        BadSignature: If an advert was not signed by its hospital.
    """
    adverts = {advert.hospital: advert for advert in transcript.adverts}
    survivors = tuple(signed.manifest.hospital for signed in entry.survivors)
    _check_adverts(entry, transcript, member=member)
    positions = {hospital.name: index for index, hospital in enumerate(member.plan.roster)}
    seeds = _seeds(survivors, transcript, adverts)
    dropped = _mask_secrets(survivors, transcript, adverts)
    return find_masks(
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
        PeerError: As `open_masks`; besides MalformedMessage if an upload has a wrong length or a word outside the ring.
        AggregateMismatch: If an upload is not the signed one, or the sum is another.
    """
    masks = open_masks(entry, transcript, member=member)
    parameters, chunks = verified.total.parameters, len(verified.total.words)
    size, readers = transcript.upload_bytes, []
    for index, signed in enumerate(entry.survivors):
        upload = uploads[index * size : (index + 1) * size]
        _check_upload(upload, signed.manifest.root, chunks=chunks, verified=verified, index=index)
        readers.append(partial(_cut, upload))
    for start, words, _ in unmasked_blocks(readers, chunks, parameters=parameters, masks=masks):
        if not np.array_equal(words, verified.total.words[start : start + len(words)]):
            raise AggregateMismatch(
                f"the aggregate of round {entry.round} is not the unmasked sum of the uploads that "
                f"{len(entry.survivors)} hospitals signed; nothing was decrypted; refuse it, and stop the run"
            )


def recompute_chunks(
    body: bytes | memoryview,
    entry: AggregateEntry,
    *,
    own: Sequence[int],
    records: memoryview,
    member: Member,
) -> None:
    """The same for some chunks of a sum.

    Args:
        body: The sum.
        entry: The round, with its transcript; its manifests were checked.
        own: The chunks, in ascending order.
        records: Of each survivor these chunks of its upload, with their Merkle paths.
        member: This hospital.

    Raises:
        PeerError: As `recompute`; TranscriptError besides if there is no transcript.
        AggregateMismatch: If a record is not of the signed upload, or one of the chunks is another.
    """
    parameters = PRESETS[member.plan.encryption.preset]
    chunks = chunks_for(member.plan.upload_values, parameters)
    if entry.transcript is None:
        raise TranscriptError("chunks to recompute of a sum without a transcript; refuse them")
    masks, record_bytes = open_masks(entry, entry.transcript, member=member), parameters.chunk_bytes + SEED_BYTES
    size = records_bytes(own, chunks=chunks, record_bytes=record_bytes)
    if len(records) != size * len(entry.survivors):
        raise MalformedMessage(
            f"{len(records)} bytes of records to check; {len(own)} chunks of {len(entry.survivors)} uploads take "
            f"{size * len(entry.survivors)}; refuse them"
        )
    if not own:
        return
    width = len(body) // chunks
    total = decode_sum(
        b"".join(body[chunk * width : (chunk + 1) * width] for chunk in own), len(own), len(entry.survivors), parameters
    )
    words = np.zeros_like(total.words)
    for index, signed in enumerate(entry.survivors):
        found = list(
            read_records(records[index * size : (index + 1) * size], own, chunks=chunks, record_bytes=record_bytes)
        )
        vector = decode_upload(b"".join(record for record, _ in found), len(own), parameters)
        if any(root != signed.manifest.root for _, root in found):
            raise AggregateMismatch(f"records of {signed.manifest.hospital} are not of the upload it signed; refuse")
        if vector.seeds != total.seeds[index]:
            raise AggregateMismatch(f"the aggregate's seeds of {signed.manifest.hospital} are not its own; refuse it")
        add_in_place(words, vector.words, parameters)
    masks.apply(words, parameters, chunks=own)
    if not np.array_equal(words, total.words):
        raise AggregateMismatch(
            f"the aggregate of round {entry.round} is not the unmasked sum of the uploads that "
            f"{len(entry.survivors)} hospitals signed, in the chunks recomputed here; refuse it, and stop the run"
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
