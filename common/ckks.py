"""The CKKS wire codec: ciphertext words and seeds to bytes and back, and the coordinator's addition.

Bytes from the network never reach SEAL. A body is exactly `chunks` records; an upload's record is the packed words of
c0 and the 64-byte seed of c1, a sum's record is the packed words of the summed c0 and one seed per survivor in roster
order. Words are in SEAL's NTT order, where adding ciphertexts is adding words modulo q.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.ckks_parameters import PRESETS, SEED_BYTES, CkksParameters, check_security
from common.ckks_records import decode_records, decode_words, encode_records, view_records
from common.errors import LocalProtocolError
from common.packing import BLOCK_CHUNKS

__all__ = [
    "PRESETS",
    "SEED_BYTES",
    "CkksParameters",
    "EncryptedSum",
    "EncryptedVector",
    "PackedUpload",
    "add_in_place",
    "check_security",
    "chunks_for",
    "decode_sum",
    "decode_upload",
    "encode_sum",
    "encode_upload",
    "pack_words",
    "unpack_words",
    "upload_seeds",
]


@dataclass(frozen=True, slots=True, eq=False)
class EncryptedVector:
    """One hospital's encrypted vector.

    Args:
        parameters: The CKKS parameters.
        words: c0 of each ciphertext, shape (chunks, N), uint64, each < q, NTT form.
        seeds: The seeds of c1 one after the other, chunks * 64 bytes.
    """

    parameters: CkksParameters
    words: NDArray[np.uint64]
    seeds: bytes

    def __post_init__(self) -> None:
        _check_words(self.words, self.parameters)
        _check_seeds(self.seeds, len(self.words))


@dataclass(frozen=True, slots=True, eq=False)
class EncryptedSum:
    """The sum of the survivors' encrypted vectors.

    Args:
        parameters: The CKKS parameters.
        words: Sum of the survivors' c0 modulo q, shape (chunks, N), uint64, NTT form.
        seeds: Per survivor, in roster order, its chunks * 64 bytes of seeds; c1 is the sum of their expansions.
    """

    parameters: CkksParameters
    words: NDArray[np.uint64]
    seeds: tuple[bytes, ...]

    def __post_init__(self) -> None:
        _check_words(self.words, self.parameters)
        if not self.seeds:
            raise LocalProtocolError("an encrypted sum without seeds; it needs those of at least one survivor")
        for seeds in self.seeds:
            _check_seeds(seeds, len(self.words))


@dataclass(frozen=True, slots=True, eq=False)
class PackedUpload:
    """An upload's body as it came, of which every word is known to be below q; it takes half of its words' memory.

    Make one with `read`.

    Args:
        parameters: The CKKS parameters.
        chunks: Ciphertexts in it.
        body: As `encode_upload` wrote it.
    """

    parameters: CkksParameters
    chunks: int
    body: bytes | memoryview

    @classmethod
    def read(cls, data: bytes | memoryview, chunks: int, parameters: CkksParameters) -> PackedUpload:
        """Check the body of an upload, like `decode_upload`, a block of chunks at a time.

        Raises:
            MalformedMessage: If the length is not exactly right, or a word is not below q.
        """
        records = view_records(data, chunks, parameters.chunk_bytes + SEED_BYTES)
        for start in range(0, chunks, BLOCK_CHUNKS):
            decode_words(records[start : start + BLOCK_CHUNKS], parameters)
        return cls(parameters, chunks, data)

    @property
    def words(self) -> NDArray[np.uint64]:
        """c0 of each ciphertext, shape (chunks, N), uint64, each < q."""
        return decode_upload(self.body, self.chunks, self.parameters).words

    @property
    def seeds(self) -> bytes:
        """The seeds of c1 one after the other, chunks * 64 bytes."""
        return upload_seeds(self.body, self.chunks, self.parameters)


def upload_seeds(data: bytes | memoryview, chunks: int, parameters: CkksParameters) -> bytes:
    """The seeds in an upload's body, or in some whole records of one, one after the other.

    Raises:
        MalformedMessage: If the length is not exactly that of `chunks` records.
    """
    records = view_records(data, chunks, parameters.chunk_bytes + SEED_BYTES)
    return records[:, parameters.chunk_bytes :].tobytes()


def chunks_for(values: int, parameters: CkksParameters) -> int:
    """Ciphertexts that `values` real values take, at least one."""
    if values < 1:
        raise LocalProtocolError(f"{values} values to encrypt; at least 1 is needed")
    return -(-values // parameters.values_per_chunk)


def pack_words(words: NDArray[np.uint64], parameters: CkksParameters) -> bytes:
    """Pack words of shape (chunks, N), each < q, at ceil(log2 q) bits each.

    Raises:
        LocalProtocolError: If the shape or the type is another, or a word is not below q.
    """
    _check_words(words, parameters)
    return encode_records(words, (), parameters)


def unpack_words(data: bytes | memoryview, chunks: int, parameters: CkksParameters) -> NDArray[np.uint64]:
    """Unpack `chunks` polynomials; the inverse of `pack_words`.

    Returns:
        Words of shape (chunks, N), uint64, each < q.

    Raises:
        MalformedMessage: If the length is not exactly that of `chunks` polynomials, or a word is not below q.
    """
    return decode_words(view_records(data, chunks, parameters.chunk_bytes), parameters)


def encode_upload(vector: EncryptedVector) -> bytes:
    """Body of an upload: per chunk the packed words of c0, then the seed of c1."""
    return encode_records(vector.words, (vector.seeds,), vector.parameters)


def decode_upload(data: bytes | memoryview, chunks: int, parameters: CkksParameters) -> EncryptedVector:
    """Read the body of an upload; the inverse of `encode_upload`.

    Args:
        data: The body as it came from the network.
        chunks: Ciphertexts that the plan asks for, never a number that the sender claims.
        parameters: The plan's CKKS parameters.

    Raises:
        MalformedMessage: If the length is not exactly right, or a word is not below q.
    """
    words, seeds = decode_records(data, chunks, 1, parameters)
    return EncryptedVector(parameters, words, seeds[0])


def encode_sum(total: EncryptedSum) -> bytes:
    """Body of an aggregate: per chunk the packed words of c0, then one seed per survivor."""
    return encode_records(total.words, total.seeds, total.parameters)


def decode_sum(data: bytes | memoryview, chunks: int, survivors: int, parameters: CkksParameters) -> EncryptedSum:
    """Read the body of an aggregate of `survivors` hospitals; the inverse of `encode_sum`.

    Raises:
        MalformedMessage: If the length is not exactly right, or a word is not below q.
    """
    words, seeds = decode_records(data, chunks, survivors, parameters)
    return EncryptedSum(parameters, words, seeds)


def add_in_place(total_words: NDArray[np.uint64], words: NDArray[np.uint64], parameters: CkksParameters) -> None:
    """Add `words` to `total_words` modulo q; both of shape (chunks, N), uint64, each word < q.

    Raises:
        LocalProtocolError: If the shapes differ.
    """
    if total_words.shape != words.shape:
        raise LocalProtocolError(f"adding words of shape {words.shape} to a sum of shape {total_words.shape}")
    modulus = np.uint64(parameters.modulus)
    for start in range(0, len(words), BLOCK_CHUNKS):
        block = total_words[start : start + BLOCK_CHUNKS]
        block += words[start : start + BLOCK_CHUNKS]
        # Where the sum is below q the subtraction wraps to a huge number, so the smaller one is the residue.
        np.minimum(block, block - modulus, out=block)


def _check_words(words: NDArray[np.uint64], parameters: CkksParameters) -> None:
    if words.ndim != 2 or words.shape[1] != parameters.ring_degree or not len(words) or words.dtype != np.uint64:
        raise LocalProtocolError(
            f"ciphertext words of shape {words.shape} and type {words.dtype}; (chunks, {parameters.ring_degree}) uint64"
        )
    if int(words.max()) >= parameters.modulus:
        raise LocalProtocolError(f"a ciphertext word outside the ring; every word must be below {parameters.modulus}")


def _check_seeds(seeds: bytes, chunks: int) -> None:
    if len(seeds) != chunks * SEED_BYTES:
        raise LocalProtocolError(f"{len(seeds)} bytes of seeds; {chunks} ciphertexts need {chunks * SEED_BYTES}")
