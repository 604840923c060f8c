"""Mask words from a secret: the streams that hide one hospital's ciphertext and cancel, or are removed, in the sum.

A secret (what two hospitals' mask keys agree on, or a self-mask seed) gives one key per attempt by HKDF-SHA256. Chunk k
of a stream is AES-256-CTR under that key from counter block k || 0; words at or above q are dropped, so that what is
left is uniform below q: a masked word says nothing about the word under it.

References:
    Bonawitz et al., 2017, Practical secure aggregation for privacy-preserving machine learning, section 4.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from common.canonical import canonical_bytes
from common.ckks_parameters import CkksParameters
from common.errors import LocalProtocolError
from common.packing import BLOCK_CHUNKS

MaskLabel = Literal["fedward/pair/1", "fedward/self/1"]
Block = tuple[NDArray[np.uint64], NDArray[Any]]
"""Rows of an upload's words and of the stream, of one shape (at most BLOCK_CHUNKS, N)."""

SECRET_BYTES = 32
KEY_BYTES = 32
# Words drawn beyond N, a whole number of AES blocks: of the presets' words one in 10^4 is dropped, so more are needed
# about never, and then they are drawn.
SPARE_WORDS = 16


def mask_key(  # noqa: PLR0913 -- every field that makes one stream differ from all others
    secret: bytes,
    *,
    label: MaskLabel,
    run: str,
    plan: str,
    epoch: int,
    round_number: int,
    attempt: int,
    low: int,
    high: int,
) -> bytes:
    """Key of one mask stream, 32 bytes; a new attempt gives a new one and needs no new secret.

    Args:
        secret: 32 bytes: what X25519 gives a pair, or a hospital's self-mask seed.
        label: Which of the two it is.
        run: Name of the run.
        plan: Hash of the plan, hex.
        epoch: Key epoch.
        round_number: The round.
        attempt: The attempt at it.
        low: Lower roster position of the pair; for a self mask the hospital's own.
        high: Higher roster position of the pair; for a self mask the hospital's own.

    Raises:
        LocalProtocolError: If the secret has another length, or the positions do not fit the label.
    """
    if len(secret) != SECRET_BYTES:
        raise LocalProtocolError(f"a mask secret of {len(secret)} bytes; it must have {SECRET_BYTES}")
    if not (0 <= low < high if label == "fedward/pair/1" else 0 <= low == high):
        raise LocalProtocolError(
            f"roster positions {low} and {high} for {label}; a pair is ordered, a self mask has one"
        )
    info = canonical_bytes([label, run, plan, epoch, round_number, attempt, low, high])
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(secret)


def add_mask(
    words: NDArray[np.uint64], key: bytes, parameters: CkksParameters, *, chunks: Sequence[int] | None = None
) -> None:
    """Add a stream to `words` modulo q, in place; `words` has shape (chunks, N), uint64, each < q, in SEAL's NTT order.

    A stream's words are uniform below q; those of a chunk depend on the key and the chunk's number alone.

    Args:
        words: Changed in place.
        key: The stream's.
        parameters: The CKKS parameters.
        chunks: Which chunk of the stream each row takes; None: row k takes chunk k.

    Raises:
        LocalProtocolError: If the key or the words have another shape.
    """
    # Where the sum is below q the subtraction wraps to a huge number, so the smaller one is the residue.
    _combine(_blocks(words, key, parameters, chunks), parameters, do=np.add, undo=np.subtract)


def subtract_mask(
    words: NDArray[np.uint64], key: bytes, parameters: CkksParameters, *, chunks: Sequence[int] | None = None
) -> None:
    """Subtract a stream from `words` modulo q, in place: the inverse of `add_mask`, which see."""
    # Where the mask is the larger one the difference has wrapped to a huge number, and adding q wraps it back.
    _combine(_blocks(words, key, parameters, chunks), parameters, do=np.subtract, undo=np.add)


def _combine(blocks: Iterable[Block], parameters: CkksParameters, *, do: np.ufunc, undo: np.ufunc) -> None:
    modulus = np.uint64(parameters.modulus)
    for block, mask in blocks:
        do(block, mask, out=block)
        np.minimum(block, undo(block, modulus), out=block)


def _blocks(
    words: NDArray[np.uint64], key: bytes, parameters: CkksParameters, chunks: Sequence[int] | None
) -> Iterator[Block]:
    """Per block of chunks: its rows of `words`, and the stream's words for them, which live until the next block."""
    degree = parameters.ring_degree
    if len(key) != KEY_BYTES or words.ndim != 2 or words.shape[1] != degree or words.dtype != np.uint64:
        raise LocalProtocolError(
            f"a mask key of {len(key)} bytes for words of shape {words.shape} and type {words.dtype}; "
            f"{KEY_BYTES} bytes and (chunks, {degree}) uint64 are needed"
        )
    numbers = range(len(words)) if chunks is None else chunks
    if len(numbers) != len(words):
        raise LocalProtocolError(f"{len(words)} rows of words for {len(numbers)} chunks of a mask; one for each")
    drawn = np.empty((min(BLOCK_CHUNKS, len(words)), degree + SPARE_WORDS), dtype=_word_type(parameters))
    rows = drawn.view(np.uint8)
    zeros = bytes(rows.shape[1])
    stream = _stream(key, 0)
    for start in range(0, len(words), BLOCK_CHUNKS):
        block = words[start : start + BLOCK_CHUNKS]
        block_numbers = numbers[start : start + BLOCK_CHUNKS]
        for index, number in enumerate(block_numbers):
            stream.reset_nonce(_counter(number))
            stream.update_into(zeros, rows[index].data)
        yield block, _reject(drawn[: len(block)], key, block_numbers, parameters)


def _reject(drawn: NDArray[Any], key: bytes, numbers: Sequence[int], parameters: CkksParameters) -> NDArray[Any]:
    """Drop the words at or above q from each row, in place; the first N that are left of each."""
    degree, modulus = parameters.ring_degree, parameters.modulus
    np.bitwise_and(drawn, (1 << parameters.modulus_bits) - 1, out=drawn)
    for index in np.flatnonzero(drawn[:, :degree].max(axis=1) >= modulus).tolist():
        kept = drawn[index][drawn[index] < modulus][:degree]
        drawn[index, :degree] = kept if len(kept) == degree else _long_draw(key, numbers[index], parameters)
    return drawn[:, :degree]


def _long_draw(key: bytes, chunk: int, parameters: CkksParameters) -> NDArray[Any]:
    """One chunk's words from as many draws as it takes."""
    degree, kind, stream = parameters.ring_degree, _word_type(parameters), _stream(key, chunk)
    kept = np.empty(0, dtype=kind)
    while len(kept) < degree:
        more = np.frombuffer(stream.update(bytes(degree * kind.itemsize)), dtype=kind)
        more = np.bitwise_and(more, (1 << parameters.modulus_bits) - 1)
        kept = np.concatenate([kept, more[more < parameters.modulus]])
    return kept[:degree]


def _stream(key: bytes, chunk: int) -> CipherContext:
    return Cipher(algorithms.AES256(key), modes.CTR(_counter(chunk))).encryptor()


def _counter(chunk: int) -> bytes:
    return chunk.to_bytes(8, "big") + bytes(8)


def _word_type(parameters: CkksParameters) -> np.dtype[Any]:
    return np.dtype("<u4" if parameters.modulus_bits <= 32 else "<u8")
