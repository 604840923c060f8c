"""The survivors' sum without its masks, a block of ciphertexts at a time: no array grows with the model.

The coordinator makes the sum with it, and each hospital recomputes it with the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from common.ckks import add_in_place, decode_upload
from common.ckks_parameters import SEED_BYTES, CkksParameters
from common.masks import Unmask
from common.packing import BLOCK_CHUNKS

Records = Callable[[int, int], bytes | memoryview]
"""The bytes from one offset of an upload's body to another."""


def unmasked_blocks(
    uploads: Sequence[Records], chunks: int, *, parameters: CkksParameters, masks: Unmask
) -> Iterator[tuple[int, NDArray[np.uint64], tuple[bytes, ...]]]:
    """Add up uploads and take the masks off.

    Args:
        uploads: Reads each survivor's upload, in roster order.
        chunks: Ciphertexts of an upload.
        parameters: The CKKS parameters.
        masks: What is left in the sum.

    Yields:
        Per block: which chunk is its first, the sum's words modulo q of shape (at most 64, N), uint64, which live until
        the next block, and each upload's seeds.

    Raises:
        MalformedMessage: If an upload holds a word outside the ring, or is too short.
    """
    size = parameters.chunk_bytes + SEED_BYTES
    for start in range(0, chunks, BLOCK_CHUNKS):
        count = min(BLOCK_CHUNKS, chunks - start)
        words, seeds = np.zeros((count, parameters.ring_degree), dtype=np.uint64), []
        for read in uploads:
            vector = decode_upload(read(start * size, (start + count) * size), count, parameters)
            add_in_place(words, vector.words, parameters)
            seeds.append(vector.seeds)
        masks.apply(words, parameters, first_chunk=start)
        yield start, words, tuple(seeds)
