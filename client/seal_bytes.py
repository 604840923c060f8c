"""The byte layout of SEAL 4.3 objects as TenSEAL 0.3.18 ships them, and the memory file through which it reads them.

TenSEAL's bindings load and save by path only and always compress with zstd. What is read here was written by SEAL in
this process; what is written here is built from verified words and seeds. Integers are little-endian::

    object      magic 0xA15E u16 | header size 16 u8 | version 4, 3 | compression u8 | reserved u16 | size u64 | payload
    ciphertext  parms_id 32 | is_ntt u8 | polynomials u64 | N u64 | primes u64 | scale f64 | correction u64
                | array object | seed object where c1 is seeded
    array       count u64 | words u64
    seed        generator u8 (1: Blake2xb) | seed 64
    secret key  parms_id 32 | count u64 | scale f64 | array object
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import struct
from functools import cache
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from common.ckks_parameters import SEED_BYTES
from common.errors import LocalProtocolError

_HEADER = struct.Struct("<HBBBBHQ")
_CIPHERTEXT = struct.Struct("<32sBQQQdQ")
_SECRET_KEY = struct.Struct("<32sQd")
_MAGIC = 0xA15E
_VERSION = (4, 3)
_UNCOMPRESSED = 0
_ZSTD = 2
_BLAKE2XB = b"\x01"


class MemoryFile:
    """A file that never touches a disk: SEAL's bindings take a path and nothing else."""

    def __init__(self) -> None:
        self._descriptor = os.memfd_create("seal", os.MFD_CLOEXEC)
        self.path = f"/proc/self/fd/{self._descriptor}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def read(self) -> bytes:
        """All bytes that were written last."""
        return os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)

    def write(self, data: bytes) -> None:
        """Replace the content by `data`."""
        os.ftruncate(self._descriptor, len(data))
        os.pwrite(self._descriptor, data, 0)


def secret_key_words(data: bytes, ring_degree: int) -> NDArray[np.uint64]:
    """Words of a saved secret key, shape (N,), uint64, NTT form.

    Raises:
        LocalProtocolError: If the layout is not SEAL 4.3's.
    """
    payload = _open_object(data, _SECRET_KEY.size + _array_bytes(ring_degree))
    return _read_array(payload[_SECRET_KEY.size :], ring_degree)


def seeded_ciphertext_parts(data: bytes, ring_degree: int) -> tuple[NDArray[np.uint64], bytes]:
    """Words of c0, shape (N,), uint64, NTT form, and the seed of c1 of a saved fresh symmetric ciphertext.

    Raises:
        LocalProtocolError: If the layout is not SEAL 4.3's or the ciphertext is not seeded.
    """
    array_end = _CIPHERTEXT.size + _array_bytes(ring_degree)
    seed_start = array_end + _HEADER.size + len(_BLAKE2XB)
    payload = _open_object(data, seed_start + SEED_BYTES)
    _, is_ntt, polynomials, degree, primes, _, _ = _CIPHERTEXT.unpack_from(payload)
    seeded = payload[seed_start - len(_BLAKE2XB) : seed_start] == _BLAKE2XB
    if (is_ntt, polynomials, degree, primes, seeded) != (1, 2, ring_degree, 1, True):
        raise _unknown_layout()
    return _read_array(payload[_CIPHERTEXT.size : array_end], ring_degree), payload[seed_start:]


def ciphertext_polynomials(data: bytes, ring_degree: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Words of c0 and c1 of a saved expanded ciphertext, each of shape (N,), uint64.

    Raises:
        LocalProtocolError: If the layout is not SEAL 4.3's.
    """
    payload = _open_object(data, _CIPHERTEXT.size + _array_bytes(2 * ring_degree))
    words = _read_array(payload[_CIPHERTEXT.size :], 2 * ring_degree)
    return words[:ring_degree], words[ring_degree:]


def seeded_ciphertext(words: NDArray[np.uint64], seed: bytes, *, parms_id: bytes, scale: float) -> bytes:
    """Bytes that SEAL loads as the ciphertext of c0 = `words` (shape (N,), NTT form) and c1 = expansion of `seed`."""
    head = _CIPHERTEXT.pack(parms_id, 1, 2, len(words), 1, scale, 1)
    return _object(head + _array(words) + _object(_BLAKE2XB + seed))


def coefficient_ciphertext(coefficients: NDArray[np.uint64], *, parms_id: bytes) -> bytes:
    """Bytes that SEAL loads as a ciphertext in coefficient form; `coefficients`, shape (N,), serve as c0 and as c1."""
    head = _CIPHERTEXT.pack(parms_id, 0, 2, len(coefficients), 1, 1.0, 1)
    return _object(head + _array(np.tile(coefficients, 2)))


def secret_key(words: NDArray[np.uint64], *, parms_id: bytes) -> bytes:
    """Bytes that SEAL loads as a secret key; `words` has the shape (N,), NTT form."""
    return _object(_SECRET_KEY.pack(parms_id, len(words), 1.0) + _array(words))


def _object(payload: bytes) -> bytes:
    return _HEADER.pack(_MAGIC, _HEADER.size, *_VERSION, _UNCOMPRESSED, 0, _HEADER.size + len(payload)) + payload


def _array(words: NDArray[np.uint64]) -> bytes:
    return _object(struct.pack("<Q", words.size) + words.astype("<u8", copy=False).tobytes())


def _array_bytes(count: int) -> int:
    return _HEADER.size + 8 + 8 * count


def _read_array(data: bytes, count: int) -> NDArray[np.uint64]:
    if struct.unpack_from("<Q", data, _HEADER.size) != (count,):
        raise _unknown_layout()
    return np.frombuffer(data, dtype="<u8", offset=_HEADER.size + 8, count=count).astype(np.uint64, copy=False)


def _open_object(data: bytes, payload_bytes: int) -> bytes:
    """Check the header of an object that SEAL saved and expand its payload of exactly `payload_bytes`."""
    if len(data) < _HEADER.size:
        raise _unknown_layout()
    magic, header_bytes, major, minor, compression, _, size_bytes = _HEADER.unpack_from(data)
    known = (_MAGIC, _HEADER.size, *_VERSION, _ZSTD, len(data))
    if (magic, header_bytes, major, minor, compression, size_bytes) != known:
        raise _unknown_layout()
    payload = ctypes.create_string_buffer(payload_bytes)
    # zstd reports an error as a size that no buffer has.
    if _zstd_decompress()(payload, payload_bytes, data[_HEADER.size :], len(data) - _HEADER.size) != payload_bytes:
        raise _unknown_layout()
    return payload.raw


@cache
def _zstd_decompress() -> ctypes._NamedFuncPointer:
    """The zstd that SEAL was linked with: TenSEAL exports it, and its bindings cannot save uncompressed."""
    found = importlib.util.find_spec("_sealapi_cpp")
    if found is None or found.origin is None:
        raise LocalProtocolError("TenSEAL is not installed; install fedward[site]")
    function = ctypes.CDLL(found.origin).ZSTD_decompress
    function.restype = ctypes.c_size_t
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t]
    return function


def _unknown_layout() -> LocalProtocolError:
    return LocalProtocolError("TenSEAL wrote an object in another layout than SEAL 4.3's; install tenseal==0.3.18")
