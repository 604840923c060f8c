"""The codecs that `fedward bench codec` compares: each encrypts an update, adds uploads and decrypts the sum."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import tenseal
from numpy.typing import NDArray

from client.encode import decode_sum_of_updates, encode_steps, weigh
from client.encrypt import SecretKey
from common.ckks import (
    PRESETS,
    EncryptedSum,
    add_in_place,
    chunks_for,
    decode_sum,
    decode_upload,
    encode_sum,
    encode_upload,
)
from common.grid import plan_grid

UPDATE_NORM_BOUND = 1.0
NO_SLOTS = np.zeros(0, dtype=np.int64)


class Codec(Protocol):
    """One round of a codec: hospitals encrypt, the coordinator adds, a hospital decrypts."""

    def encrypt(self, update: NDArray[np.float64], declared_size: int) -> bytes:
        """The upload of one hospital; `update` has the shape (d,)."""

    def add(self, upload: bytes) -> None:
        """Read one upload and add it to the sum."""

    def download(self) -> bytes:
        """The sum as the hospitals get it; ends the round."""

    def decrypt(self, download: bytes) -> NDArray[np.float64]:
        """The weighted mean of the updates, shape (d,)."""


class GridCodec:
    """fedward's own codec with one of its presets."""

    def __init__(self, preset: str, parameters: int, declared_sizes: Sequence[int]) -> None:
        self._ckks = PRESETS[preset]
        self._grid = plan_grid(self._ckks, declared_sizes, update_norm_bound=UPDATE_NORM_BOUND, slot_sum_max=0)
        self._key = SecretKey.generate(self._ckks)
        self._parameters = parameters
        self._chunks = chunks_for(parameters + 1, self._ckks)
        self._start_round()

    def _start_round(self) -> None:
        self._words = np.zeros((self._chunks, self._ckks.ring_degree), dtype=np.uint64)
        self._seeds: list[bytes] = []

    def encrypt(self, update: NDArray[np.float64], declared_size: int) -> bytes:
        """Weight, round to the grid, encrypt and pack."""
        steps = weigh(update, declared_size=declared_size, grid=self._grid)
        integers = encode_steps(steps, declared_size=declared_size, slots=NO_SLOTS, grid=self._grid)
        return encode_upload(self._key.encrypt(integers, self._grid))

    def add(self, upload: bytes) -> None:
        """Unpack, validate every word and add."""
        vector = decode_upload(upload, self._chunks, self._ckks)
        add_in_place(self._words, vector.words, self._ckks)
        self._seeds.append(vector.seeds)

    def download(self) -> bytes:
        """The sum and every survivor's seeds."""
        body = encode_sum(EncryptedSum(self._ckks, self._words, tuple(self._seeds)))
        self._start_round()
        return body

    def decrypt(self, download: bytes) -> NDArray[np.float64]:
        """Unpack, decrypt, round to the grid and divide by the weight slot."""
        total = decode_sum(download, self._chunks, self._grid.roster_size, self._ckks)
        integers = self._key.decrypt(total, self._grid)
        return decode_sum_of_updates(
            integers, parameter_count=self._parameters, slot_count=0, grid=self._grid
        ).mean_update


class TensealCodec:
    """`ts.ckks_vector` at N = 8192, [60, 40, 40], scale 2^40: NVFlare's default, all parameters in one tensor.

    The coordinator multiplies the sum by the inverse total weight, as NVFlare does; that drops one prime.
    """

    def __init__(self, declared_sizes: Sequence[int]) -> None:
        self._context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 40])
        self._context.global_scale = 2**40
        self._public = self._context.copy()
        self._public.make_context_public()
        self._total_weight = sum(declared_sizes)
        self._sum: Any = None

    def encrypt(self, update: NDArray[np.float64], declared_size: int) -> bytes:
        """Weight, encrypt and serialise."""
        with silent_stdout():
            return bytes(tenseal.ckks_vector(self._context, update * declared_size).serialize())

    def add(self, upload: bytes) -> None:
        """Deserialise and add."""
        with silent_stdout():
            vector = tenseal.ckks_vector_from(self._public, upload)
            self._sum = vector if self._sum is None else self._sum + vector

    def download(self) -> bytes:
        """The sum times the inverse total weight, rescaled."""
        with silent_stdout():
            body = bytes((self._sum * (1 / self._total_weight)).serialize())
        self._sum = None
        return body

    def decrypt(self, download: bytes) -> NDArray[np.float64]:
        """Deserialise and decrypt to raw floats: there is no grid here."""
        with silent_stdout():
            return np.array(tenseal.ckks_vector_from(self._context, download).decrypt())


class Float32Codec:
    """Plain float32 without any protection: what the bytes are compared with."""

    def __init__(self, parameters: int, declared_sizes: Sequence[int]) -> None:
        self._total_weight = sum(declared_sizes)
        self._sum = np.zeros(parameters, dtype=np.float32)

    def encrypt(self, update: NDArray[np.float64], declared_size: int) -> bytes:
        """Weight and write as float32."""
        return (update * (declared_size / self._total_weight)).astype("<f4").tobytes()

    def add(self, upload: bytes) -> None:
        """Read and add."""
        self._sum += np.frombuffer(upload, dtype="<f4")

    def download(self) -> bytes:
        """The sum as float32."""
        body = self._sum.astype("<f4").tobytes()
        self._sum[:] = 0
        return body

    def decrypt(self, download: bytes) -> NDArray[np.float64]:
        """Read."""
        return np.frombuffer(download, dtype="<f4").astype(np.float64)


ROW_NAMES = ("compact", "precise", "tenseal-8192", "float32")


def make_codec(name: str, parameters: int, declared_sizes: Sequence[int]) -> Codec:
    """The codec of the row `name`, one of `ROW_NAMES`."""
    if name in PRESETS:
        return GridCodec(name, parameters, declared_sizes)
    if name == "tenseal-8192":
        return TensealCodec(declared_sizes)
    return Float32Codec(parameters, declared_sizes)


def declared_sizes(hospitals: int) -> list[int]:
    """Unequal sizes, so that weights matter."""
    return [100 + 10 * index for index in range(hospitals)]


def gaussian_updates(parameters: int, hospitals: int) -> NDArray[np.float64]:
    """Independent Gaussian updates at the norm bound, shape (hospitals, parameters)."""
    updates = np.random.default_rng(0).standard_normal((hospitals, parameters))
    for index in range(hospitals):
        updates[index] *= UPDATE_NORM_BOUND / np.linalg.norm(updates[index])
    return updates


@contextlib.contextmanager
def silent_stdout() -> Iterator[None]:
    """Keep TenSEAL's warnings, which it prints from C++, out of the standard output."""
    sys.stdout.flush()
    kept = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
