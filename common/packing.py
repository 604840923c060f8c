"""Ciphertext words to packed bytes and back: ceil(log2 q) bits per word instead of SEAL's 64.

Word k of a polynomial takes the bits k*b to k*b + b - 1 of a little-endian bit stream, b = ceil(log2 q).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.ckks_parameters import WORDS_PER_GROUP, CkksParameters

# Chunks handled at a time: their words stay in the processor's cache and no temporary grows with the model.
BLOCK_CHUNKS = 64


def pack_into(records: NDArray[np.uint8], words: NDArray[np.uint64], parameters: CkksParameters) -> None:
    """Write packed words into the head of each row.

    Args:
        records: Zeros, shape (chunks, at least `parameters.chunk_bytes`), contiguous; written in place.
        words: Shape (chunks, N), each < q.
        parameters: The CKKS parameters.
    """
    groups = words.reshape(len(words), -1, WORDS_PER_GROUP)
    for start in range(0, len(words), BLOCK_CHUNKS):
        rows = records[start : start + BLOCK_CHUNKS]
        for index in range(WORDS_PER_GROUP):
            window, shift = _window(rows, index, parameters)
            np.bitwise_or(window, groups[start : start + BLOCK_CHUNKS, :, index] << shift, out=window)


def unpack_from(records: NDArray[np.uint8], parameters: CkksParameters) -> NDArray[np.uint64]:
    """Read the packed words in the head of each row; the inverse of `pack_into`.

    Args:
        records: Shape (chunks, at least `parameters.chunk_bytes`), contiguous.
        parameters: The CKKS parameters.

    Returns:
        Words of shape (chunks, N), each below 2^b and not yet compared with q.
    """
    words = np.empty((len(records), parameters.ring_degree), dtype=np.uint64)
    groups = words.reshape(len(records), -1, WORDS_PER_GROUP)
    mask = np.uint64((1 << parameters.modulus_bits) - 1)
    for start in range(0, len(records), BLOCK_CHUNKS):
        for index in range(WORDS_PER_GROUP):
            window, shift = _window(records[start : start + BLOCK_CHUNKS], index, parameters)
            column = groups[start : start + BLOCK_CHUNKS, :, index]
            np.right_shift(window, shift, out=column)
            np.bitwise_and(column, mask, out=column)
    return words


def _window(rows: NDArray[np.uint8], index: int, parameters: CkksParameters) -> tuple[NDArray[np.uint64], np.uint64]:
    """View, in every group of a block, the eight bytes that hold word `index` of the group, and its shift in them.

    Returns:
        A view of `rows` of shape (rows, N/8), little-endian and unaligned, and the shift in bits. The window is moved
        back where it would reach past its group, so that no view ever leaves its own record.
    """
    bits = parameters.modulus_bits
    offset = min(bits * index // 8, bits - 8)
    shape = (len(rows), parameters.ring_degree // WORDS_PER_GROUP)
    window: NDArray[np.uint64] = np.ndarray(shape, "<u8", rows, offset, (rows.shape[1], bits))
    return window, np.uint64(bits * index - 8 * offset)
