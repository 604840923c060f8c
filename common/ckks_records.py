"""Records of the CKKS wire codec: a body is one after the other, each with a ciphertext's words and its seeds.

What `common.ckks` reads and writes with them says what the words are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.ckks_parameters import SEED_BYTES, CkksParameters
from common.errors import MalformedMessage
from common.packing import pack_into, unpack_from


def encode_records(words: NDArray[np.uint64], seeds: tuple[bytes, ...], parameters: CkksParameters) -> bytes:
    """Records that hold the packed words of a chunk each, and its part of every sender's seeds.

    Args:
        words: Shape (chunks, N), uint64, each < q.
        seeds: Per sender, its chunks * 64 bytes of seeds.
        parameters: The CKKS parameters.
    """
    records = np.zeros((len(words), parameters.chunk_bytes + SEED_BYTES * len(seeds)), dtype=np.uint8)
    pack_into(records, words, parameters)
    for index, one in enumerate(seeds):
        start = parameters.chunk_bytes + SEED_BYTES * index
        records[:, start : start + SEED_BYTES] = np.frombuffer(one, dtype=np.uint8).reshape(-1, SEED_BYTES)
    return records.tobytes()


def decode_records(
    data: bytes | memoryview, chunks: int, senders: int, parameters: CkksParameters
) -> tuple[NDArray[np.uint64], tuple[bytes, ...]]:
    """Read words and seeds of so many senders; the inverse of `encode_records`.

    Raises:
        MalformedMessage: If the length is not exactly right, a word is not below q, or there is no sender.
    """
    if senders < 1:
        raise MalformedMessage(f"an aggregate of {senders} hospitals; it needs at least 1")
    records = view_records(data, chunks, parameters.chunk_bytes + SEED_BYTES * senders)
    words = decode_words(records, parameters)
    starts = range(parameters.chunk_bytes, records.shape[1], SEED_BYTES)
    return words, tuple(records[:, start : start + SEED_BYTES].tobytes() for start in starts)


def decode_words(records: NDArray[np.uint8], parameters: CkksParameters) -> NDArray[np.uint64]:
    """The words at the start of each record, shape (chunks, N), uint64.

    Raises:
        MalformedMessage: If one is not below q.
    """
    words = unpack_from(records, parameters)
    if int(words.max()) >= parameters.modulus:
        raise MalformedMessage(f"a ciphertext word outside the ring; every word must be below {parameters.modulus}")
    return words


def view_records(data: bytes | memoryview, chunks: int, record_bytes: int) -> NDArray[np.uint8]:
    """View `data` as (chunks, record_bytes) bytes; the length is compared before anything is allocated.

    Raises:
        MalformedMessage: If the length is not exactly that of `chunks` records, or there is none.
    """
    size_bytes = data.nbytes if isinstance(data, memoryview) else len(data)
    if chunks < 1 or size_bytes != chunks * record_bytes:
        raise MalformedMessage(
            f"an encrypted body of {size_bytes} bytes; {chunks} ciphertexts take exactly {chunks * record_bytes}"
        )
    return np.frombuffer(data, dtype=np.uint8).reshape(chunks, record_bytes)
