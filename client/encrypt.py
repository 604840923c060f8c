"""The hospitals' CKKS secret key: the only module that holds it, and the only one that runs TenSEAL.

SEAL parses nothing but bytes that this process built from words below q and seeds of exact length. Decrypted values
carry noise that gives the key away (Li and Micciancio, 2021, IACR ePrint 2020/1533), so only integers on the public
grid leave. The bindings hold the interpreter lock: each call handles one ciphertext, and other threads run in between.
"""

from __future__ import annotations

import struct
from typing import Any, NoReturn, Self

import numpy as np
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray
from tenseal import sealapi

from client import seal_bytes
from common.ckks import CkksParameters, EncryptedSum, EncryptedVector
from common.ckks_parameters import SECRET_KEY_MAGIC, SEED_BYTES
from common.errors import DecryptionError, KeyFileError, LocalProtocolError
from common.grid import Grid

# A value further than this from the grid is no honest sum: a quarter of a step is 8 standard deviations of the noise.
LARGEST_OFFSET_IN_STEPS = 0.25

_DERIVED_BYTES = 32


class SecretKey:
    """A CKKS secret key of one epoch, shared by the hospitals and by nobody else.

    Make one with `generate` or `from_bytes`. Its text form names the parameters only, and it refuses to be pickled.
    """

    __slots__ = (
        "_canonical",
        "_context",
        "_decryptor",
        "_encoder",
        "_encryptor",
        "_evaluator",
        "_parms_id",
        "parameters",
    )

    def __init__(self, canonical: bytes, parameters: CkksParameters) -> None:
        coefficients = _read_canonical(canonical, parameters)
        self.parameters = parameters
        self._canonical = canonical
        self._context = _context(parameters)
        self._parms_id = _parms_id(self._context)
        self._evaluator = sealapi.Evaluator(self._context)
        key = _seal_key(coefficients, self._context, parameters)
        self._encoder = sealapi.CKKSEncoder(self._context)
        self._encryptor = sealapi.Encryptor(self._context, key)
        self._decryptor = sealapi.Decryptor(self._context, key)

    @classmethod
    def generate(cls, parameters: CkksParameters) -> Self:
        """Make a fresh key from the operating system's entropy, through SEAL's generator."""
        context = _context(parameters)
        coefficients = _key_coefficients(sealapi.KeyGenerator(context).secret_key(), context, parameters)
        return cls(_write_canonical(coefficients, parameters), parameters)

    @classmethod
    def from_bytes(cls, data: bytes, parameters: CkksParameters) -> Self:
        """Read a key file; the inverse of `to_bytes`.

        Raises:
            KeyFileError: If the bytes are not the canonical form of a key for these parameters.
        """
        return cls(data, parameters)

    def to_bytes(self) -> bytes:
        """Canonical form: magic, SHA-256 of the parameters, then two bits per ternary coefficient."""
        return self._canonical

    def derive(self, label: bytes) -> bytes:
        """Derive 32 bytes for the purpose `label` by HKDF-SHA256 of the canonical key."""
        return HKDF(algorithm=SHA256(), length=_DERIVED_BYTES, salt=None, info=label).derive(self._canonical)

    def encrypt(self, integers: NDArray[np.int64], grid: Grid) -> EncryptedVector:
        """Encrypt integers on the grid with fresh seeds and fresh noise on every call.

        Args:
            integers: What `encode_steps` made, shape (chunks * N,).
            grid: The plan's grid.

        Raises:
            LocalProtocolError: If the shape or the grid is another, or a value is beyond the encoder's limit.
        """
        self._check_grid(grid)
        degree = self.parameters.ring_degree
        if integers.ndim != 1 or not integers.size or integers.size % degree or integers.dtype != np.int64:
            raise LocalProtocolError(
                f"integers of shape {integers.shape} and type {integers.dtype}; int64 in whole ciphertexts of {degree}"
            )
        chunks = integers.reshape(-1, degree)
        words = np.empty(chunks.shape, dtype=np.uint64)
        seeds: list[bytes] = []
        with seal_bytes.MemoryFile() as file:
            for row, chunk in zip(words, chunks, strict=True):
                row[:], seed = self._encrypt_chunk(np.multiply(chunk, grid.encoded_step, dtype=np.float64), file)
                seeds.append(seed)
        return EncryptedVector(self.parameters, words, b"".join(seeds))

    def decrypt(self, total: EncryptedSum, grid: Grid) -> NDArray[np.int64]:
        """Decrypt the sum of the survivors' vectors and round it to the grid.

        Returns:
            Integers on the grid, shape (chunks * N,).

        Raises:
            LocalProtocolError: If the parameters differ, or there are more survivors than hospitals.
            DecryptionError: If a value lies further than a quarter of a step from the grid; one text for all causes.
        """
        self._check_grid(grid)
        if total.parameters != self.parameters or len(total.seeds) > grid.roster_size:
            raise LocalProtocolError(
                f"a sum of {len(total.seeds)} hospitals under {total.parameters.name} parameters; this key decrypts "
                f"{self.parameters.name} sums of up to {grid.roster_size}"
            )
        integers = np.empty(total.words.shape, dtype=np.int64)
        farthest = 0.0
        with seal_bytes.MemoryFile() as file:
            for index, row in enumerate(integers):
                start = index * SEED_BYTES
                seeds = [one[start : start + SEED_BYTES] for one in total.seeds]
                steps = self._decrypt_chunk(total.words[index], seeds, file) / grid.encoded_step
                rounded = np.rint(steps)
                farthest = max(farthest, float(np.max(np.abs(steps - rounded))))
                row[:] = rounded
        if not farthest <= LARGEST_OFFSET_IN_STEPS:
            raise DecryptionError("an aggregate does not decrypt to values on the plan's grid; it is refused")
        return integers.reshape(-1)

    def __repr__(self) -> str:
        return f"SecretKey({self.parameters.name})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a SecretKey is not pickled; write to_bytes() into the vault")

    def _check_grid(self, grid: Grid) -> None:
        if grid.parameters != self.parameters:
            raise LocalProtocolError(
                f"a grid of {grid.parameters.name} parameters with a key of {self.parameters.name} parameters"
            )

    def _encrypt_chunk(
        self, values: NDArray[np.float64], file: seal_bytes.MemoryFile
    ) -> tuple[NDArray[np.uint64], bytes]:
        """Encrypt N real values, two neighbours per complex slot; the words of c0 and the seed of c1."""
        plaintext = sealapi.Plaintext()
        try:
            self._encoder.encode(values.view(np.complex128).tolist(), self.parameters.scale, plaintext)
        except ValueError as error:
            raise LocalProtocolError("an update beyond the encoder's limit; the grid must leave headroom") from error
        self._encryptor.encrypt_symmetric(plaintext).save(file.path)
        return seal_bytes.seeded_ciphertext_parts(file.read(), self.parameters.ring_degree)

    def _decrypt_chunk(
        self, words: NDArray[np.uint64], seeds: list[bytes], file: seal_bytes.MemoryFile
    ) -> NDArray[np.float64]:
        """Raw values of one ciphertext, shape (N,): they hold the key's noise and stay inside this class."""
        total = self._load(words, seeds[0], file)
        zeros = np.zeros_like(words)
        for seed in seeds[1:]:
            self._evaluator.add_inplace(total, self._load(zeros, seed, file))
        plaintext = sealapi.Plaintext()
        self._decryptor.decrypt(total, plaintext)
        return np.array(self._encoder.decode_complex(plaintext), dtype=np.complex128).view(np.float64)

    def _load(self, words: NDArray[np.uint64], seed: bytes, file: seal_bytes.MemoryFile) -> Any:  # noqa: ANN401 -- untyped bindings
        file.write(seal_bytes.seeded_ciphertext(words, seed, parms_id=self._parms_id, scale=self.parameters.scale))
        ciphertext = sealapi.Ciphertext()
        ciphertext.load(self._context, file.path)
        return ciphertext


def _context(parameters: CkksParameters) -> Any:  # noqa: ANN401 -- untyped bindings
    settings = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.CKKS)
    settings.set_poly_modulus_degree(parameters.ring_degree)
    settings.set_coeff_modulus([sealapi.Modulus(parameters.modulus)])
    context = sealapi.SEALContext(settings, True, sealapi.SEC_LEVEL_TYPE.TC128)
    if not context.parameters_set():
        raise LocalProtocolError(f"SEAL refuses the {parameters.name} parameters: {context.parameters_error_name()}")
    return context


def _parms_id(context: Any) -> bytes:  # noqa: ANN401 -- untyped bindings
    return struct.pack("<4Q", *context.first_parms_id())


def _key_coefficients(key: Any, context: Any, parameters: CkksParameters) -> NDArray[np.uint64]:  # noqa: ANN401 -- untyped bindings
    """Coefficients modulo q of a SEAL secret key, shape (N,): it is in NTT form, and only ciphertexts convert."""
    with seal_bytes.MemoryFile() as file:
        key.save(file.path)
        words = seal_bytes.secret_key_words(file.read(), parameters.ring_degree)
        file.write(seal_bytes.seeded_ciphertext(words, bytes(SEED_BYTES), parms_id=_parms_id(context), scale=1.0))
        carrier = sealapi.Ciphertext()
        carrier.load(context, file.path)
        sealapi.Evaluator(context).transform_from_ntt_inplace(carrier)
        carrier.save(file.path)
        coefficients, _ = seal_bytes.ciphertext_polynomials(file.read(), parameters.ring_degree)
    return coefficients


def _seal_key(coefficients: NDArray[np.uint64], context: Any, parameters: CkksParameters) -> Any:  # noqa: ANN401 -- untyped bindings
    """SEAL's secret key of these coefficients; the inverse of `_key_coefficients`."""
    with seal_bytes.MemoryFile() as file:
        file.write(seal_bytes.coefficient_ciphertext(coefficients, parms_id=_parms_id(context)))
        carrier = sealapi.Ciphertext()
        carrier.load(context, file.path)
        sealapi.Evaluator(context).transform_to_ntt_inplace(carrier)
        carrier.save(file.path)
        words, _ = seal_bytes.ciphertext_polynomials(file.read(), parameters.ring_degree)
        file.write(seal_bytes.secret_key(words, parms_id=_parms_id(context)))
        key = sealapi.SecretKey()
        key.load(context, file.path)
    return key


def _write_canonical(coefficients: NDArray[np.uint64], parameters: CkksParameters) -> bytes:
    """Two bits per coefficient, four to a byte from the low bits up: 0, 1, and 2 for -1."""
    codes = np.where(coefficients > 1, 2, coefficients).astype(np.uint8).reshape(-1, 4)
    packed = codes[:, 0] | codes[:, 1] << 2 | codes[:, 2] << 4 | codes[:, 3] << 6
    return SECRET_KEY_MAGIC + bytes.fromhex(parameters.digest()) + packed.tobytes()


def _read_canonical(data: bytes, parameters: CkksParameters) -> NDArray[np.uint64]:
    """Coefficients modulo q; the inverse of `_write_canonical`."""
    head = SECRET_KEY_MAGIC + bytes.fromhex(parameters.digest())
    if len(data) != len(head) + parameters.ring_degree // 4 or not data.startswith(SECRET_KEY_MAGIC):
        raise KeyFileError("not a CKKS secret key file of this version; restore it, or take part in a new epoch")
    if not data.startswith(head):
        raise KeyFileError(f"a CKKS secret key for other parameters than {parameters.name}; use the plan's epoch key")
    packed = np.frombuffer(data, dtype=np.uint8, offset=len(head))
    codes = (packed[:, np.newaxis] >> np.array([0, 2, 4, 6], dtype=np.uint8) & 3).reshape(-1)
    # A uniform ternary key has 2N/3 non-zero coefficients with a deviation of 0.5 sqrt(N), so N/8 (at N = 2048 twelve
    # deviations) never refuses an honest one; a file of zeros would encrypt nothing.
    nonzero = int(np.count_nonzero(codes))
    if codes.max() > 2 or abs(nonzero - 2 * parameters.ring_degree / 3) > parameters.ring_degree / 8:
        raise KeyFileError("a damaged CKKS secret key file; restore it, or take part in a new epoch")
    return np.where(codes == 2, parameters.modulus - 1, codes).astype(np.uint64)
