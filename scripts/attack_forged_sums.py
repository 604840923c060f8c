"""Forged aggregates: the sum of round 2, or what it is verified with, is not what the hospitals made."""

from __future__ import annotations

import numpy as np

from common.ckks import EncryptedVector, add_in_place, encode_upload
from scripts.attack_forgery import Forge, Forgery, Parts, World, bare
from scripts.attack_key_recovery import KeyThief

_MISMATCH, _TRANSCRIPT = "AggregateMismatch", "TranscriptError"


def _shift(world: World, parts: Parts) -> None:
    """Add something to one word of the sum."""
    chunk, word = world.draw.randrange(len(parts.total.words)), world.draw.randrange(parts.total.words.shape[1])
    modulus = parts.stage.parameters.modulus
    old = int(parts.total.words[chunk, word])
    parts.total.words[chunk, word] = (old + world.draw.randrange(1, modulus)) % modulus


def flip_the_sum(world: World, *, to: str = "") -> Forgery:
    """A word of the sum is another."""
    parts = world.sum_of(2)
    _shift(world, parts)
    return world.deliver(parts.together(), _MISMATCH, to=to)


def flip_an_upload(world: World) -> Forgery:
    """A bit of an upload in the transcript is another."""
    parts, index = world.sum_of(2), world.draw.randrange(4)
    changed = bytearray(parts.uploads[index])
    changed[world.draw.randrange(len(changed))] ^= 1 << world.draw.randrange(8)
    parts.uploads[index] = bytes(changed)
    return world.deliver(parts.together(), _MISMATCH, "MalformedMessage")


def flip_both(world: World) -> Forgery:
    """An upload and the sum are changed alike, so that the sum is that of the uploads."""
    parts, index = world.sum_of(2), world.draw.randrange(4)
    before = parts.total.words.copy()
    _shift(world, parts)
    modulus = np.uint64(parts.stage.parameters.modulus)
    vector = parts.upload(index)
    words = (vector.words + parts.total.words + modulus - before) % modulus
    parts.uploads[index] = encode_upload(EncryptedVector(vector.parameters, words, vector.seeds))
    return world.deliver(parts.together(), _MISMATCH)


def add_chosen_values(world: World, *, to: str = "") -> Forgery:
    """The coordinator needs no key to add values of its choice to a sum: CKKS lets it, and it decrypts well."""
    parts = world.sum_of(2)
    site = world.stage.sites[world.stage.names[0]]
    values = np.zeros(parts.stage.parameters.ring_degree)
    for _ in range(world.draw.randint(1, 20)):
        values[world.draw.randrange(len(values))] = world.draw.choice((-1, 1)) * 1000 * site.grid.encoded_step
    add_in_place(parts.total.words[:1], KeyThief().encode(values)[np.newaxis], parts.stage.parameters)
    return world.deliver(parts.together(), _MISMATCH, to=to)


def add_an_earlier_upload(world: World) -> Forgery:
    """A masked upload of round 1 is added."""
    parts, earlier = world.sum_of(2), world.sum_of(1)
    add_in_place(parts.total.words, earlier.upload(world.draw.randrange(5)).words, parts.stage.parameters)
    return world.deliver(parts.together(), _MISMATCH)


def add_an_earlier_sum(world: World) -> Forgery:
    """The unmasked sum of round 1 is added, with the seeds of two hospitals exchanged for its own."""
    parts, earlier = world.sum_of(2), world.sum_of(1)
    add_in_place(parts.total.words, earlier.total.words, parts.stage.parameters)
    if world.draw.random() < 0.5:
        parts.with_seeds((*earlier.total.seeds[:2], *parts.total.seeds[2:]))
    return world.deliver(parts.together(), _MISMATCH, _TRANSCRIPT)


def omit(world: World) -> Forgery:
    """One upload is taken out of the sum, with its manifest or without."""
    parts, index = world.sum_of(2), world.draw.randrange(4)
    modulus = np.uint64(parts.stage.parameters.modulus)
    parts.total.words[:] = (parts.total.words + modulus - parts.upload(index).words) % modulus
    if world.draw.random() < 0.5:
        parts.keep(*(other for other in range(4) if other != index))
        return world.deliver(parts.together(), _TRANSCRIPT)
    return world.deliver(parts.together(), _MISMATCH)


def duplicate(world: World) -> Forgery:
    """One upload is added twice, with its manifest twice, its seeds twice, or neither."""
    parts, index, choice = world.sum_of(2), world.draw.randrange(4), world.draw.randrange(3)
    add_in_place(parts.total.words, parts.upload(index).words, parts.stage.parameters)
    if choice == 1:
        parts.keep(*sorted([*range(4), index]))
    elif choice == 2:
        parts.with_seeds([parts.total.seeds[index if other == (index + 1) % 4 else other] for other in range(4)])
    return world.deliver(parts.together(), _TRANSCRIPT if choice else _MISMATCH)


def replay_a_round(world: World) -> Forgery:
    """The sum of round 1 comes as that of round 2, or again as its own."""
    parts = world.sum_of(1)
    if world.draw.random() < 0.3:
        return world.deliver(parts.together(), "WrongRound")
    parts.change(round=2)
    return world.deliver(parts.together(), _TRANSCRIPT)


def replay_under_new_manifests(world: World) -> Forgery:
    """Sum and uploads of round 1 come under the manifests of round 2."""
    parts, earlier = world.sum_of(2), world.sum_of(1)
    parts.total.words[:] = earlier.total.words
    if world.draw.random() < 0.5:
        parts.with_seeds(earlier.total.seeds[:4])
        parts.uploads = earlier.uploads[:4]
    return world.deliver(parts.together(), _TRANSCRIPT, _MISMATCH)


def swap(world: World) -> Forgery:
    """Two uploads change places: their bytes, their manifests or their seeds."""
    parts = world.sum_of(2)
    first, second = sorted(world.draw.sample(range(4), 2))
    order = list(range(4))
    order[first], order[second] = second, first
    choice = world.draw.randrange(3)
    if choice == 0:
        parts.uploads = [parts.uploads[index] for index in order]
    elif choice == 1:
        parts.change(survivors=tuple(parts.entry.survivors[index] for index in order))
    else:
        parts.with_seeds([parts.total.seeds[index] for index in order])
    return world.deliver(parts.together(), *((_TRANSCRIPT,), (_MISMATCH, _TRANSCRIPT))[choice != 1])


def send_a_victims_upload(world: World) -> Forgery:
    """One hospital's upload comes as the aggregate: alone, or under the manifests of all."""
    parts, index = world.sum_of(2), world.draw.randrange(4)
    parts.total.words[:] = parts.upload(index).words
    if world.draw.random() < 0.5:
        parts.keep(index)
        return world.deliver(parts.together(), _TRANSCRIPT)
    return world.deliver(parts.together(), _MISMATCH)


def forge_the_transcript(world: World) -> Forgery:
    """A seed, a mask key or the adverts are others than those of the round."""
    parts, earlier = world.sum_of(2), world.stage.aggregates[0].entry.transcript
    transcript, choice = parts.entry.transcript, world.draw.randrange(4)
    if transcript is None or earlier is None:
        return world.deliver(parts.together())
    index = world.draw.randrange(4)
    if choice == 0:
        parts.change_transcript(seeds=(*transcript.seeds[:index], earlier.seeds[0], *transcript.seeds[index + 1 :]))
        return world.deliver(parts.together(), _TRANSCRIPT)
    if choice == 1:
        parts.change_transcript(mask_secrets=(earlier.seeds[index],))
        return world.deliver(parts.together(), _TRANSCRIPT)
    if choice == 2:
        parts.change_transcript(adverts=transcript.adverts[:index] + transcript.adverts[index + 1 :])
        return world.deliver(parts.together(), "SplitViewError")
    parts.change_transcript(adverts=earlier.adverts)
    return world.deliver(parts.together(), "SplitViewError")


def leave_the_transcript_out(world: World) -> Forgery:
    """A forged sum comes without what verifies it; manifests of other rounds are to vouch for it."""
    parts = world.sum_of(2)
    if world.draw.random() < 0.5:
        _shift(world, parts)
    witnesses = world.draw.choice(
        ((), parts.entry.survivors, world.survivors(), world.stage.aggregates[0].entry.survivors)
    )
    if witnesses == world.survivors():
        # Hospitals that applied the true sum vouch for that one only.
        parts.total.words[:] = world.sum_of(1).total.words
    return world.deliver(bare(parts.together(), witnesses), _TRANSCRIPT)


def name_another_attempt(world: World) -> Forgery:
    """The sum is said to be of another attempt."""
    parts = world.sum_of(2)
    parts.change(attempt=world.draw.randint(1, 2))
    return world.deliver(parts.together(), _TRANSCRIPT)


FORGED_SUMS: dict[str, Forge] = {
    one.__name__.replace("_", "-"): one
    for one in (
        flip_the_sum,
        flip_an_upload,
        flip_both,
        add_chosen_values,
        add_an_earlier_upload,
        add_an_earlier_sum,
        omit,
        duplicate,
        replay_a_round,
        replay_under_new_manifests,
        swap,
        send_a_victims_upload,
        forge_the_transcript,
        leave_the_transcript_out,
        name_another_attempt,
    )
}
