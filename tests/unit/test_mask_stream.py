"""Mask streams: fixed vectors, an independent implementation, and uniform words below q."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from Crypto.Cipher import AES
from Crypto.Hash import SHA256
from Crypto.Protocol.KDF import HKDF
from numpy.typing import NDArray

from common.ckks_parameters import PRESETS, CkksParameters
from common.errors import LocalProtocolError
from common.mask_stream import add_mask, mask_key, subtract_mask
from common.packing import BLOCK_CHUNKS

SECRET = bytes(range(32))
PAIR: dict[str, Any] = {
    "label": "fedward/pair/1",
    "run": "skin9",
    "plan": "ab" * 32,
    "epoch": 2,
    "round_number": 7,
    "attempt": 1,
    "low": 0,
    "high": 3,
}
SELF = PAIR | {"label": "fedward/self/1", "low": 3, "high": 3}
KEY = mask_key(SECRET, **PAIR)

# Made by `slow_words` below, which shares no code and no library with the module.
GOLDEN = {
    "compact": (
        [164549997, 406677330, 194929999, 338590324],
        "507d67ff372e0cf091aa49667e87475d0e16be34c59f8fe0bf58faa1edd677ed",
    ),
    "precise": (
        [17283577239491949, 13082491516511567, 1646476059809541, 15010224301697506],
        "1a1787694e26da1ad9f0de12542ef91f02422fa6b6fd5ccef00dc4d0898d81d1",
    ),
}

# Just above a power of two, so that a stream drops almost every second word.
WASTEFUL = [
    CkksParameters("wasteful-short", 2048, 268460033, 2.0**20),
    CkksParameters("wasteful-long", 2048, 1099511795713, 2.0**20),
]


def mask_words(key: bytes, chunks: int, parameters: CkksParameters) -> NDArray[np.uint64]:
    """The first chunks of a stream."""
    words = np.zeros((chunks, parameters.ring_degree), dtype=np.uint64)
    add_mask(words, key, parameters)
    return words


def slow_words(key: bytes, chunk: int, parameters: CkksParameters) -> list[int]:
    """One chunk by the design's text, a word at a time, with the other library."""
    block_cipher = AES.new(key, AES.MODE_ECB)
    bits = len(bin(parameters.modulus - 1)) - 2
    size = 4 if bits <= 32 else 8
    words: list[int] = []
    for counter in range(10**6):
        block = block_cipher.encrypt(chunk.to_bytes(8, "big") + counter.to_bytes(8, "big"))
        for start in range(0, 16, size):
            word = int.from_bytes(block[start : start + size], "little") % 2**bits
            if word < parameters.modulus:
                words.append(word)
        if len(words) >= parameters.ring_degree:
            break
    return words[: parameters.ring_degree]


def digest(words: np.ndarray[Any, np.dtype[np.uint64]]) -> str:
    """SHA-256 of the words, 8 bytes each, little-endian."""
    return hashlib.sha256(words.astype("<u8").tobytes()).hexdigest()


@pytest.mark.parametrize("fields", [PAIR, SELF], ids=["pair", "self"])
def test_the_key_is_hkdf_over_every_field(fields: dict[str, Any]) -> None:
    """The other library's HKDF and a JSON array written by hand give the same key."""
    info = '["{label}","{run}","{plan}",{epoch},{round_number},{attempt},{low},{high}]'.format(**fields)
    assert mask_key(SECRET, **fields) == HKDF(SECRET, 32, b"", SHA256, context=info.encode())


@pytest.mark.parametrize(
    "change",
    [
        {"run": "skin8"},
        {"plan": "ac" * 32},
        {"epoch": 3},
        {"round_number": 8},
        {"attempt": 2},
        {"low": 1},
        {"high": 4},
        {"label": "fedward/self/1", "high": 0},
        {"run": 'skin9","x'},
    ],
    ids=str,
)
def test_another_field_is_another_key(change: dict[str, Any]) -> None:
    """A stream used twice would show the difference of two updates."""
    assert mask_key(SECRET, **(PAIR | change)) != KEY


def test_an_attempts_key_says_nothing_about_the_next() -> None:
    """Attempts share the secret; only HKDF separates them."""
    compact = PRESETS["compact"]
    words = [mask_words(mask_key(SECRET, **(PAIR | {"attempt": attempt})), 1, compact) for attempt in (0, 1)]
    assert np.count_nonzero(words[0] == words[1]) <= 1


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_fixed_vectors(name: str) -> None:
    """Hospitals and coordinator of different versions must draw the same masks."""
    words = mask_words(KEY, 3, PRESETS[name])
    first, fixed = GOLDEN[name]
    assert (words[0, :4].tolist(), digest(words)) == (first, fixed)


@pytest.mark.parametrize("parameters", [*PRESETS.values(), *WASTEFUL], ids=lambda one: one.name)
def test_an_independent_implementation_draws_the_same_words(parameters: CkksParameters) -> None:
    """Chunks beyond one block, chunks with a dropped word, and parameters that drop half of the words."""
    chunks = BLOCK_CHUNKS + 3
    words = mask_words(KEY, chunks, parameters)
    checked = [0, 1, BLOCK_CHUNKS - 1, BLOCK_CHUNKS, chunks - 1, *_dropping(parameters, chunks)[:3]]
    for chunk in checked:
        assert words[chunk].tolist() == slow_words(KEY, chunk, parameters)


def test_chunks_that_drop_a_word_are_among_those_compared() -> None:
    """Control of the test above: with the compact preset about one chunk in five drops a word."""
    assert len(_dropping(PRESETS["compact"], BLOCK_CHUNKS + 3)) >= 3


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_chunk_does_not_depend_on_the_number_of_chunks(name: str) -> None:
    """A hospital may recompute some chunks only."""
    words = mask_words(KEY, BLOCK_CHUNKS + 2, PRESETS[name])
    for chunks in (1, 2, BLOCK_CHUNKS, BLOCK_CHUNKS + 1):
        assert np.array_equal(mask_words(KEY, chunks, PRESETS[name]), words[:chunks])
    assert len({row.tobytes() for row in words}) == len(words)


@pytest.mark.parametrize("parameters", [*PRESETS.values(), *WASTEFUL], ids=lambda one: one.name)
def test_words_are_uniform_below_q(parameters: CkksParameters) -> None:
    """Chi-square over 256 equal parts of [0, q) and over the low byte; 255 degrees of freedom, 1e-6 at each end."""
    words = mask_words(KEY, 100, parameters)
    assert int(words.max()) < parameters.modulus
    assert 150 < chi_square(words.astype(np.float64) / parameters.modulus * 256) < 380
    assert 150 < chi_square(words % np.uint64(256)) < 380


def test_words_that_were_reduced_and_not_dropped_are_seen() -> None:
    """Control: of 29 random bits, reduction modulo 3/4 of 2^29 doubles the small words, and the statistic shows it."""
    modulus = 402681857
    words = mask_words(KEY, 100, PRESETS["compact"])
    kept = words[words < modulus]
    assert 150 < chi_square(kept.astype(np.float64) / modulus * 256) < 380
    assert chi_square((words % np.uint64(modulus)).astype(np.float64) / modulus * 256) > 10_000


@pytest.mark.parametrize("parameters", [*PRESETS.values(), *WASTEFUL], ids=lambda one: one.name)
def test_adding_and_subtracting_are_sums_modulo_q(parameters: CkksParameters) -> None:
    """Against Python's integers, at the ends of the range too; subtracting undoes adding."""
    chunks = BLOCK_CHUNKS + 1
    mask = mask_words(KEY, chunks, parameters)
    words = np.random.default_rng(5).integers(0, parameters.modulus, mask.shape, dtype=np.uint64)
    words[0], words[1] = 0, parameters.modulus - 1
    words[2], words[3] = mask[2], np.uint64(parameters.modulus) - np.maximum(mask[3], np.uint64(1))
    before = words.copy()
    add_mask(words, KEY, parameters)
    wide = before.astype(object) + mask.astype(object)
    assert np.array_equal(words.astype(object), wide % parameters.modulus)
    subtract_mask(words, KEY, parameters)
    assert np.array_equal(words, before)
    subtract_mask(words, KEY, parameters)
    narrow = before.astype(object) - mask.astype(object)
    assert np.array_equal(words.astype(object), narrow % parameters.modulus)


@pytest.mark.parametrize(
    "change",
    [{"low": 3, "high": 0}, {"low": 3, "high": 3}, {"low": -1}, {"label": "fedward/self/1"}],
    ids=str,
)
def test_positions_that_do_not_fit_the_label_are_refused(change: dict[str, Any]) -> None:
    """Both ends of a pair must name it in one order."""
    with pytest.raises(LocalProtocolError, match="roster positions"):
        mask_key(SECRET, **(PAIR | change))


def test_a_short_secret_a_short_key_and_other_words_are_refused() -> None:
    """Half a secret would be half a mask."""
    compact = PRESETS["compact"]
    with pytest.raises(LocalProtocolError, match="16 bytes"):
        mask_key(SECRET[:16], **PAIR)
    with pytest.raises(LocalProtocolError, match="16 bytes"):
        mask_words(KEY[:16], 1, compact)
    for words in (np.zeros((2, 1024), np.uint64), np.zeros(2048, np.uint64), np.zeros((2, 2048), np.int64)):
        with pytest.raises(LocalProtocolError, match="shape"):
            add_mask(words, KEY, compact)  # type: ignore[arg-type]


def chi_square(parts: np.ndarray[Any, np.dtype[Any]]) -> float:
    """Pearson's statistic of integers in 0..255 against equal frequencies."""
    counts = np.bincount(parts.astype(np.int64).ravel(), minlength=256)
    expected = counts.sum() / 256
    return float(((counts - expected) ** 2).sum() / expected)


def _dropping(parameters: CkksParameters, chunks: int) -> list[int]:
    """Chunks whose first N drawn words hold one at or above q."""
    bits = parameters.modulus_bits
    size = 4 if bits <= 32 else 8
    found = []
    for chunk in range(chunks):
        cipher = AES.new(KEY, AES.MODE_CTR, nonce=chunk.to_bytes(8, "big"), initial_value=0)
        drawn = np.frombuffer(cipher.encrypt(bytes(size * parameters.ring_degree)), dtype=f"<u{size}")
        if int((drawn & drawn.dtype.type(2**bits - 1)).max()) >= parameters.modulus:
            found.append(chunk)
    return found


@pytest.mark.parametrize("parameters", [*PRESETS.values(), *WASTEFUL], ids=lambda one: str(one.name))
def test_any_chunks_of_a_stream_are_those_of_the_whole(parameters: CkksParameters) -> None:
    """Hospitals recompute some chunks of a sum: their masks are the rows of the whole stream, across blocks."""
    whole = mask_words(KEY, 2 * BLOCK_CHUNKS + 3, parameters)
    chunks = [0, 3, BLOCK_CHUNKS - 1, *range(BLOCK_CHUNKS, 2 * BLOCK_CHUNKS, 2), 2 * BLOCK_CHUNKS + 2]
    words = np.zeros((len(chunks), parameters.ring_degree), dtype=np.uint64)
    add_mask(words, KEY, parameters, chunks=chunks)
    assert np.array_equal(words, whole[chunks])
    subtract_mask(words, KEY, parameters, chunks=chunks)
    assert not words.any()


def test_rows_without_a_chunk_are_refused() -> None:
    """One chunk of the stream for each row."""
    words = np.zeros((2, 2048), dtype=np.uint64)
    with pytest.raises(LocalProtocolError):
        add_mask(words, KEY, PRESETS["compact"], chunks=[1])
