"""The wire codec: exact bytes, exact lengths, no words outside the ring, no memory for a false claim."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from common.ckks import (
    PRESETS,
    SEED_BYTES,
    CkksParameters,
    EncryptedSum,
    EncryptedVector,
    add_in_place,
    chunks_for,
    decode_sum,
    decode_upload,
    encode_sum,
    encode_upload,
    pack_words,
    unpack_words,
)
from common.errors import LocalProtocolError, MalformedMessage

COMPACT = PRESETS["compact"]
BOTH = pytest.mark.parametrize("parameters", PRESETS.values(), ids=PRESETS)


def random_vector(chunks: int, parameters: CkksParameters) -> EncryptedVector:
    """Uniform words and seeds: what a ciphertext looks like to whoever has no key."""
    generator = np.random.default_rng(chunks)
    words = generator.integers(0, parameters.modulus, (chunks, parameters.ring_degree), dtype=np.uint64)
    return EncryptedVector(parameters, words, generator.bytes(chunks * SEED_BYTES))


@BOTH
def test_packed_words_are_one_little_endian_bit_stream(parameters: CkksParameters) -> None:
    """Python's big integers are an independent packer: another implementation can read the format from its words."""
    words = random_vector(2, parameters).words
    bits = parameters.modulus_bits
    expected = b"".join(
        sum(int(word) << (bits * k) for k, word in enumerate(row)).to_bytes(parameters.chunk_bytes, "little")
        for row in words
    )
    assert pack_words(words, parameters) == expected


@BOTH
@pytest.mark.parametrize("chunks", [1, 63, 64, 65, 130])
def test_uploads_and_sums_come_back_whole_at_every_block_boundary(parameters: CkksParameters, chunks: int) -> None:
    """The codec works in blocks of 64 chunks; none may be lost or mixed up at a seam."""
    vector = random_vector(chunks, parameters)
    back = decode_upload(memoryview(encode_upload(vector)), chunks, parameters)
    assert (back.words == vector.words).all()
    assert back.seeds == vector.seeds
    total = EncryptedSum(parameters, vector.words, (vector.seeds, vector.seeds[::-1], vector.seeds))
    again = decode_sum(encode_sum(total), chunks, 3, parameters)
    assert (again.words == total.words).all()
    assert again.seeds == total.seeds


@BOTH
def test_extreme_words_survive(parameters: CkksParameters) -> None:
    """All bits set next to no bits set shows words that run into their neighbours."""
    words = np.full((1, parameters.ring_degree), parameters.modulus - 1, dtype=np.uint64)
    words[0, ::3] = 0
    assert (unpack_words(pack_words(words, parameters), 1, parameters) == words).all()


@BOTH
def test_the_coordinators_addition_is_addition_modulo_q(parameters: CkksParameters) -> None:
    """Adding ciphertexts is adding words modulo q, also where a sum wraps."""
    vectors = [random_vector(chunks, parameters).words[:70] for chunks in (70, 71, 72)]
    total = np.zeros_like(vectors[0])
    for words in vectors:
        add_in_place(total, words, parameters)
    assert (total == sum(vectors, np.zeros_like(total)) % np.uint64(parameters.modulus)).all()


@pytest.mark.parametrize("change", [lambda body: body[:-1], lambda body: body + b"\0", lambda _: b"", lambda b: b * 2])
def test_an_upload_of_another_length_is_refused(change: Callable[[bytes], bytes]) -> None:
    """Truncated, too long, empty and doubled bodies are no uploads."""
    body = encode_upload(random_vector(2, COMPACT))
    with pytest.raises(MalformedMessage, match="exactly"):
        decode_upload(change(body), 2, COMPACT)


@BOTH
@pytest.mark.parametrize("position", [0, 7, 1000, 2047])
def test_an_upload_with_a_word_that_is_not_below_q_is_refused(parameters: CkksParameters, position: int) -> None:
    """Q itself is the smallest such word; the control one below it passes."""
    words = random_vector(3, parameters).words
    for value, refused in ((parameters.modulus, True), (parameters.modulus - 1, False)):
        stream = sum(
            (value if k == position else int(word)) << (parameters.modulus_bits * k) for k, word in enumerate(words[1])
        )
        body = pack_words(words[:1], parameters) + stream.to_bytes(parameters.chunk_bytes, "little")
        if refused:
            with pytest.raises(MalformedMessage, match="outside the ring"):
                unpack_words(body, 2, parameters)
        else:
            assert unpack_words(body, 2, parameters)[1, position] == value


@pytest.mark.parametrize("chunks", [0, -1, 10**6, 10**18])
def test_a_false_claim_of_chunks_costs_no_memory(chunks: int) -> None:
    """The length is compared with the claim before anything of the claimed size exists."""
    body = encode_upload(random_vector(1, COMPACT))
    tracemalloc.start()
    for decode in (
        lambda: decode_upload(body, chunks, COMPACT),
        lambda: decode_sum(body, 1, chunks, COMPACT),
        lambda: decode_sum(body, chunks, 5, COMPACT),
        lambda: unpack_words(body, chunks, COMPACT),
    ):
        with pytest.raises(MalformedMessage):
            decode()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


def test_the_bytes_that_crash_tenseal_are_refused_like_any_others() -> None:
    """Handed to TenSEAL 0.3.18 this message ends the process on add, or wipes the other contributions."""
    with pytest.raises(MalformedMessage):
        decode_upload(bytes.fromhex("0a088010801080108010"), 1, COMPACT)


def test_a_sum_of_no_hospitals_is_refused() -> None:
    """Without a seed there is no second polynomial to decrypt with."""
    vector = random_vector(1, COMPACT)
    with pytest.raises(MalformedMessage):
        decode_sum(pack_words(vector.words, COMPACT), 1, 0, COMPACT)
    with pytest.raises(LocalProtocolError):
        EncryptedSum(COMPACT, vector.words, ())


@pytest.mark.parametrize(("values", "bytes_per_value"), [(100_000, 3.8), (1_000_000, 3.8), (11_200_000, 3.8)])
def test_a_compact_upload_takes_fewer_bytes_than_float32(values: int, bytes_per_value: float) -> None:
    """The design's bound: encryption must not cost bandwidth."""
    size_bytes = chunks_for(values, COMPACT) * (COMPACT.chunk_bytes + SEED_BYTES)
    assert size_bytes <= bytes_per_value * values


@pytest.mark.parametrize("values", [1, 2047, 2048, 2049, 11_529])
def test_a_small_upload_is_padded_by_less_than_one_ciphertext(values: int) -> None:
    """A small head pays for part of one ciphertext, whatever the number of its tensors."""
    vector = random_vector(chunks_for(values, COMPACT), COMPACT)
    record_bytes = COMPACT.chunk_bytes + SEED_BYTES
    assert len(encode_upload(vector)) < record_bytes * (values / COMPACT.values_per_chunk + 1)


def wrong_words() -> list[NDArray[np.generic]]:
    """Arrays that our own code must never pass."""
    return [
        np.zeros((0, 2048), np.uint64),
        np.zeros((1, 2047), np.uint64),
        np.zeros(2048, np.uint64),
        np.zeros((1, 2048), np.int64),
        np.full((1, 2048), COMPACT.modulus, np.uint64),
    ]


@pytest.mark.parametrize("case", range(5))
def test_words_of_another_shape_type_or_range_are_our_own_fault(case: int) -> None:
    """What our own code builds wrongly must not look like a peer's fault."""
    with pytest.raises(LocalProtocolError):
        EncryptedVector(COMPACT, wrong_words()[case].view(), b"\0" * SEED_BYTES)  # type: ignore[arg-type]


def test_seeds_of_another_length_are_our_own_fault() -> None:
    """The same for seeds, for sums and for empty vectors."""
    words = random_vector(2, COMPACT).words
    with pytest.raises(LocalProtocolError):
        EncryptedVector(COMPACT, words, b"\0" * SEED_BYTES)
    with pytest.raises(LocalProtocolError):
        EncryptedSum(COMPACT, words, (b"\0" * SEED_BYTES * 2, b"\0" * SEED_BYTES))
    with pytest.raises(LocalProtocolError):
        add_in_place(words, words[:1], COMPACT)
    with pytest.raises(LocalProtocolError):
        chunks_for(0, COMPACT)
