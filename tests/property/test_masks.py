"""Double masks over any roster and any dropouts: what the coordinator can remove leaves the survivors' sum, exactly."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.ckks_parameters import PRESETS, CkksParameters
from common.mask_stream import MaskLabel, add_mask, mask_key, subtract_mask
from common.pair_box import pair_secret, public_hex
from common.shamir import combine_shares, split_secret

CHUNKS = 2
Words = NDArray[np.uint64]


@dataclass(frozen=True)
class Round:
    """One round that hypothesis thought of; positions are those of the roster."""

    preset: str
    size: int
    opened: tuple[int, ...]
    survivors: tuple[int, ...]
    seed: int
    attempt: int

    @property
    def parameters(self) -> CkksParameters:
        """The CKKS parameters."""
        return PRESETS[self.preset]

    @property
    def dropped(self) -> tuple[int, ...]:
        """U2 without U3."""
        return tuple(sorted(set(self.opened) - set(self.survivors)))

    def secret(self, kind: str, position: int) -> bytes:
        """A self-mask seed (b) or a mask private key (s) of one hospital."""
        return hashlib.sha256(f"{self.seed} {kind} {position}".encode()).digest()

    @cached_property
    def plain(self) -> dict[int, Words]:
        """The words that each survivor would upload without masks."""
        generator = np.random.default_rng(self.seed)
        shape = (CHUNKS, self.parameters.ring_degree)
        drawn = {one: generator.integers(0, self.parameters.modulus, shape, dtype=np.uint64) for one in self.survivors}
        # The ends of the range are where a reduction goes wrong.
        drawn[self.survivors[0]][0], drawn[self.survivors[-1]][1] = 0, self.parameters.modulus - 1
        return drawn

    def self_key(self, own: int, seed: bytes) -> bytes:
        """Key of a hospital's self mask."""
        return self._key(seed, "fedward/self/1", own, own)

    def pair_key(self, private: bytes, own: int, peer: int) -> bytes:
        """Key of a pair's mask, from the private key of either and the other's public key."""
        secret = pair_secret(private, public_hex(self.secret("s", peer)))
        return self._key(secret, "fedward/pair/1", *sorted((own, peer)))

    def _key(self, secret: bytes, label: MaskLabel, low: int, high: int) -> bytes:
        return mask_key(
            secret,
            label=label,
            run="run",
            plan="00" * 32,
            epoch=0,
            round_number=4,
            attempt=self.attempt,
            low=low,
            high=high,
        )


@st.composite
def rounds(draw: st.DrawFn, *, least_dropped: int = 0) -> Round:
    """3 to 8 hospitals; some never sent an advert, of the others any may drop, and two at least survive."""
    size = draw(st.integers(3, 8))
    opened = draw(st.permutations(range(size)))[: draw(st.integers(3, size))]
    survivors = opened[: draw(st.integers(2, len(opened) - least_dropped))]
    return Round(
        preset=draw(st.sampled_from(sorted(PRESETS))),
        size=size,
        opened=tuple(sorted(opened)),
        survivors=tuple(sorted(survivors)),
        seed=draw(st.integers(0, 2**32 - 1)),
        attempt=draw(st.integers(0, 3)),
    )


def masked(one: Round, own: int) -> Words:
    """What hospital `own` uploads: words, self mask, and a mask with every peer of U2; lo adds, hi subtracts."""
    words = one.plain[own].copy()
    add_mask(words, one.self_key(own, one.secret("b", own)), one.parameters)
    for peer in one.opened:
        if peer != own:
            put = add_mask if own < peer else subtract_mask
            put(words, one.pair_key(one.secret("s", own), own, peer), one.parameters)
    return words


def masked_sum(one: Round) -> Words:
    """What the coordinator adds up, before it removes anything."""
    return total((masked(one, own) for own in one.survivors), one.parameters)


def total(parts: Iterable[Words], parameters: CkksParameters) -> Words:
    """Sum modulo q, by numpy's remainder: eight words of 54 bits fit in 64."""
    words: Words = sum(parts, start=np.zeros((CHUNKS, parameters.ring_degree), dtype=np.uint64))
    return words % np.uint64(parameters.modulus)


def remove_self_masks(one: Round, words: Words, recovered: dict[int, bytes]) -> None:
    """Take the survivors' self masks away."""
    for own, seed in recovered.items():
        subtract_mask(words, one.self_key(own, seed), one.parameters)


def remove_pair_masks(one: Round, words: Words, recovered: dict[int, bytes]) -> None:
    """Take away what the survivors put on toward the hospitals that dropped: the other sign than the survivor's."""
    for gone, private in recovered.items():
        for own in one.survivors:
            put = subtract_mask if own < gone else add_mask
            put(words, one.pair_key(private, gone, own), one.parameters)


def rebuilt(one: Round, kind: str, owners: tuple[int, ...]) -> dict[int, bytes]:
    """Secrets as the coordinator gets them: from t shares of as many hospitals, t = floor(2n/3) + 1 or fewer."""
    threshold = min(2 * one.size // 3 + 1, max(2, len(one.survivors)))
    found = {}
    for owner in owners:
        shares = split_secret(one.secret(kind, owner), threshold, one.size)
        helpers = [*one.survivors, *(other for other in range(one.size) if other not in one.survivors)][:threshold]
        found[owner] = combine_shares({helper: shares[helper] for helper in helpers}, threshold)
    return found


@settings(deadline=None, max_examples=60)
@given(rounds())
def test_unmasking_leaves_exactly_the_survivors_sum(one: Round) -> None:
    """Whoever drops out: every word of the sum, bit for bit, and nothing of a mask."""
    words = masked_sum(one)
    remove_self_masks(one, words, rebuilt(one, "b", one.survivors))
    remove_pair_masks(one, words, rebuilt(one, "s", one.dropped))
    assert np.array_equal(words, total(one.plain.values(), one.parameters))


@settings(deadline=None, max_examples=20)
@given(rounds(least_dropped=1))
def test_a_dropped_peers_masks_stay_without_its_key(one: Round) -> None:
    """Control: the sum differs in about every word until the last dropped hospital's masks are gone."""
    plain = total(one.plain.values(), one.parameters)
    words = masked_sum(one)
    remove_self_masks(one, words, rebuilt(one, "b", one.survivors))
    *others, last = one.dropped
    remove_pair_masks(one, words, rebuilt(one, "s", tuple(others)))
    assert np.count_nonzero(words == plain) <= 2
    remove_pair_masks(one, words, rebuilt(one, "s", (last,)))
    assert np.array_equal(words, plain)


@settings(deadline=None, max_examples=20)
@given(rounds(), st.data())
def test_one_missing_seed_hides_the_whole_sum(one: Round, data: st.DataObject) -> None:
    """Control: a self mask that is not removed leaves no word of the sum readable."""
    seeds = rebuilt(one, "b", one.survivors)
    del seeds[data.draw(st.sampled_from(one.survivors))]
    words = masked_sum(one)
    remove_self_masks(one, words, seeds)
    remove_pair_masks(one, words, rebuilt(one, "s", one.dropped))
    assert np.count_nonzero(words == total(one.plain.values(), one.parameters)) <= 2


@settings(deadline=None, max_examples=20)
@given(rounds())
def test_one_upload_is_hidden_by_what_unmasking_never_gives_for_it(one: Round) -> None:
    """Its seed is revealed, its mask key is not: with the seed alone each word is as good as random."""
    own = one.survivors[0]
    words = masked(one, own)
    subtract_mask(words, one.self_key(own, one.secret("b", own)), one.parameters)
    assert np.count_nonzero(words == one.plain[own]) <= 2
    for peer in one.opened:
        if peer != own:
            put = subtract_mask if own < peer else add_mask
            put(words, one.pair_key(one.secret("s", own), own, peer), one.parameters)
    # Control: with the mask key as well nothing hides it, so the two must never be revealed for one hospital.
    assert np.array_equal(words, one.plain[own])


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_the_lower_position_adds_and_the_higher_subtracts(preset: str) -> None:
    """The sign rule word by word, against a mask drawn on its own; masks of a pair cancel modulo q."""
    one = Round(preset=preset, size=3, opened=(0, 1, 2), survivors=(0, 1, 2), seed=1, attempt=0)
    modulus = np.uint64(one.parameters.modulus)
    masks = {}
    for low, high in ((0, 1), (0, 2), (1, 2)):
        masks[low, high] = np.zeros((CHUNKS, one.parameters.ring_degree), dtype=np.uint64)
        add_mask(masks[low, high], one.pair_key(one.secret("s", high), high, low), one.parameters)
    bare = {}
    for own in one.survivors:
        bare[own] = masked(one, own)
        subtract_mask(bare[own], one.self_key(own, one.secret("b", own)), one.parameters)
    assert np.array_equal(bare[0], (one.plain[0] + masks[0, 1] + masks[0, 2]) % modulus)
    assert np.array_equal(bare[1], (one.plain[1] + modulus - masks[0, 1] + masks[1, 2]) % modulus)
    assert np.array_equal(bare[2], (one.plain[2] + modulus - masks[0, 2] + modulus - masks[1, 2]) % modulus)
