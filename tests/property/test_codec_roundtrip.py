"""Properties of the CKKS codec over sizes, weights, hospital counts and hostile bytes."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.encode import decode_sum_of_updates
from client.encrypt import SecretKey
from common.ckks import (
    PRESETS,
    SEED_BYTES,
    EncryptedSum,
    add_in_place,
    chunks_for,
    decode_sum,
    decode_upload,
    encode_sum,
    encode_upload,
    pack_words,
    unpack_words,
)
from common.errors import MalformedMessage
from common.grid import plan_grid
from tests.support.weighted_updates import encode_update

KEYS = {name: SecretKey.generate(parameters) for name, parameters in PRESETS.items()}
presets = st.sampled_from(sorted(PRESETS))


@dataclass(frozen=True, slots=True)
class Federation:
    """One round that hypothesis thought of."""

    preset: str
    sizes: list[int]
    survivors: list[int]
    length: int
    norm: float
    slot_count: int
    seed: int


@st.composite
def federations(draw: st.DrawFn) -> Federation:
    """1 to 12 hospitals of 1 to 3000 records, any of which may drop, and updates below, at and above the bound."""
    sizes = draw(st.lists(st.integers(1, 3000), min_size=1, max_size=12))
    return Federation(
        preset=draw(presets),
        sizes=sizes,
        survivors=sorted(draw(st.sets(st.sampled_from(range(len(sizes))), min_size=1))),
        length=draw(st.integers(1, 4200)),
        norm=draw(st.sampled_from([1e-6, 0.3, 1.0, 50.0])),
        slot_count=draw(st.integers(0, 4)),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


@settings(max_examples=60, deadline=None)
@given(federation=federations())
def test_the_encrypted_weighted_mean_is_the_integer_reference_bit_for_bit(federation: Federation) -> None:
    """From float updates over encryption, wire, sum with dropouts and decryption: nothing but rounding happens."""
    sizes, survivors, length = federation.sizes, federation.survivors, federation.length
    norm, slot_count = federation.norm, federation.slot_count
    parameters, key = PRESETS[federation.preset], KEYS[federation.preset]
    grid = plan_grid(parameters, sizes, update_norm_bound=1.0, slot_sum_max=10_000)
    generator = np.random.default_rng(federation.seed)
    updates = generator.standard_normal((len(sizes), length))
    updates *= norm / np.linalg.norm(updates, axis=1, keepdims=True)
    chunks = chunks_for(length + 1 + slot_count, parameters)
    words = np.zeros((chunks, parameters.ring_degree), dtype=np.uint64)
    seeds, reference = [], np.zeros(words.size, dtype=np.int64)
    for index in survivors:
        slots = generator.integers(-200, 200, slot_count)
        integers = encode_update(updates[index], declared_size=sizes[index], slots=slots, grid=grid)
        reference += integers
        upload = decode_upload(encode_upload(key.encrypt(integers, grid)), chunks, parameters)
        add_in_place(words, upload.words, parameters)
        seeds.append(upload.seeds)
    body = encode_sum(EncryptedSum(parameters, words, tuple(seeds)))
    decrypted = key.decrypt(decode_sum(body, chunks, len(survivors), parameters), grid)
    assert (decrypted == reference).all()
    decoded = decode_sum_of_updates(decrypted, parameter_count=length, slot_count=slot_count, grid=grid)
    weights = [sizes[index] for index in survivors]
    assert decoded.weight == sum(weights)
    clipped = updates[survivors] / max(norm, 1.0)
    mean = np.array(weights) @ clipped / sum(weights)
    # Each survivor rounds by half a step at most, in units of its weight in the roster.
    bound = len(survivors) / 2 * grid.step * sum(sizes) / sum(weights)
    assert np.abs(decoded.mean_update - mean).max() <= bound + 1e-12


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 10**6), min_size=1, max_size=60), slot_sum_max=st.integers(0, 10**5), preset=presets
)
def test_planned_headroom_holds_in_exact_arithmetic(sizes: list[int], slot_sum_max: int, preset: str) -> None:
    """The guarantee of `plan_grid`, recomputed with fractions from the inequalities of its proof."""
    parameters = PRESETS[preset]
    total = sum(sizes)
    if preset == "compact" and total + slot_sum_max > 10**7:
        return
    grid = plan_grid(parameters, sizes, update_norm_bound=0.7, slot_sum_max=slot_sum_max)
    step = Fraction(grid.encoded_step) * Fraction(parameters.scale)
    slots = (total + slot_sum_max) * step * 2 / parameters.ring_degree
    room = Fraction(grid.room) * (1 + Fraction(1, 10**14))
    noise = 64 * Fraction(3.24) * Fraction(np.sqrt(len(sizes)))
    assert room + slots + len(sizes) * step * Fraction(1, 2) * Fraction(1.4143) + noise <= Fraction(
        parameters.modulus, 2
    )
    for size in (max(sizes), min(sizes)):
        own = room * size / total + slots + step * Fraction(1, 2) * Fraction(1.4143)
        assert own <= 2 ** (parameters.modulus_bits - 2)


@settings(max_examples=40, deadline=None)
@given(preset=presets, chunks=st.integers(1, 5), seed=st.integers(0, 2**32 - 1))
def test_packing_and_unpacking_are_inverse(preset: str, chunks: int, seed: int) -> None:
    """Every word below q comes back as it was."""
    parameters = PRESETS[preset]
    words = np.random.default_rng(seed).integers(
        0, parameters.modulus, (chunks, parameters.ring_degree), dtype=np.uint64
    )
    assert (unpack_words(pack_words(words, parameters), chunks, parameters) == words).all()


@settings(max_examples=100, deadline=None)
@given(
    preset=presets,
    chunks=st.integers(-2, 4),
    hospitals=st.integers(-2, 4),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_hostile_bytes_are_either_a_valid_body_or_refused(
    *, preset: str, chunks: int, hospitals: int, seed: int, data: st.DataObject
) -> None:
    """Nothing but MalformedMessage comes out, and what is accepted is exactly what it encodes to."""
    parameters = PRESETS[preset]
    fitting = max(chunks, 0) * (parameters.chunk_bytes + SEED_BYTES * max(hospitals, 0))
    size = data.draw(st.sampled_from([fitting, max(fitting - 1, 0), fitting + 1, 0, 17]))
    body = np.random.default_rng(seed).bytes(size)
    if data.draw(st.booleans()):
        body = bytes(size)
    try:
        total = decode_sum(body, chunks, hospitals, parameters)
    except MalformedMessage:
        return
    assert encode_sum(total) == body


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_the_mean_does_not_depend_on_how_the_coordinator_orders_the_sum(preset: str) -> None:
    """Hospitals recompute sums byte for byte: addition modulo q must not depend on arrival."""
    parameters, key = PRESETS[preset], KEYS[preset]
    grid = plan_grid(parameters, [3, 4, 5], update_norm_bound=1.0, slot_sum_max=0)
    uploads = [key.encrypt(np.arange(2048) * factor, grid).words for factor in (1, -2, 3)]
    sums = []
    for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
        total = np.zeros_like(uploads[0])
        for index in order:
            add_in_place(total, uploads[index], parameters)
        sums.append(total.tobytes())
    assert len(set(sums)) == 1
