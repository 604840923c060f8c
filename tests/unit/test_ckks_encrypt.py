"""Encryption at the hospital: golden bytes, independent oracles, and what never leaves the module."""

from __future__ import annotations

import base64
import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import tenseal
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray
from tenseal import sealapi

from client import encrypt, seal_bytes
from client.encrypt import SecretKey
from common.ckks import (
    PRESETS,
    SEED_BYTES,
    CkksParameters,
    EncryptedSum,
    EncryptedVector,
    add_in_place,
    decode_upload,
)
from common.errors import DecryptionError, KeyFileError, LocalProtocolError
from common.grid import Grid, plan_grid

BOTH = pytest.mark.parametrize("parameters", PRESETS.values(), ids=PRESETS)
COMPACT = PRESETS["compact"]
GOLDEN = json.loads((Path(__file__).parent / "ckks_golden.json").read_text())


def small_grid(parameters: CkksParameters) -> Grid:
    """The grid of the golden vectors."""
    return plan_grid(parameters, [120, 80, 50], update_norm_bound=1.0, slot_sum_max=0)


def golden_integers() -> NDArray[np.int64]:
    """What the golden uploads hold."""
    return (np.arange(2048, dtype=np.int64) * 7919) % 2001 - 1000


def total_of(uploads: list[EncryptedVector]) -> EncryptedSum:
    """What the coordinator makes of these uploads."""
    words = np.zeros_like(uploads[0].words)
    for upload in uploads:
        add_in_place(words, upload.words, upload.parameters)
    return EncryptedSum(uploads[0].parameters, words, tuple(upload.seeds for upload in uploads))


@BOTH
def test_golden_uploads_still_decrypt(parameters: CkksParameters) -> None:
    """TenSEAL 0.3.15 and 0.3.18 cannot read each other's bytes: another SEAL must fail here, not at a hospital."""
    stored = GOLDEN[parameters.name]
    key = SecretKey.from_bytes(base64.b64decode(stored["key"]), parameters)
    upload = decode_upload(base64.b64decode(stored["upload"]), 1, parameters)
    assert (key.decrypt(total_of([upload]), small_grid(parameters)) == golden_integers()).all()


@BOTH
def test_a_key_file_gives_the_same_key(parameters: CkksParameters) -> None:
    """Hospitals hash and compare the canonical form: it must be one form, and enough to decrypt."""
    key = SecretKey.generate(parameters)
    again = SecretKey.from_bytes(key.to_bytes(), parameters)
    assert again.to_bytes() == key.to_bytes()
    grid = small_grid(parameters)
    assert (again.decrypt(total_of([key.encrypt(golden_integers(), grid)]), grid) == golden_integers()).all()


@BOTH
def test_a_key_is_uniform_ternary(parameters: CkksParameters) -> None:
    """The security table holds for uniform ternary secrets only; 6 deviations around a third of each value."""
    packed = np.frombuffer(SecretKey.generate(parameters).to_bytes()[-512:], dtype=np.uint8)
    codes = (packed[:, np.newaxis] >> np.array([0, 2, 4, 6], dtype=np.uint8)) & 3
    counts = np.bincount(codes.reshape(-1), minlength=4)
    assert counts[3] == 0
    assert (np.abs(counts[:3] - 2048 / 3) < 6 * np.sqrt(2048 * 2 / 9)).all()


def test_damaged_key_files_are_refused() -> None:
    """A key file is read from disk: truncated, foreign, zeroed and flipped ones get one clear error each."""
    good = SecretKey.generate(COMPACT).to_bytes()
    damaged = [
        b"",
        good[:-1],
        good + b"\0",
        b"x" + good[1:],
        good[:-512] + bytes(512),
        good[:-512] + b"\x55" * 512,
        good[:-1] + b"\xff",
    ]
    for data in damaged:
        with pytest.raises(KeyFileError):
            SecretKey.from_bytes(data, COMPACT)
    with pytest.raises(KeyFileError, match="other parameters"):
        SecretKey.from_bytes(good, dataclasses.replace(COMPACT, scale=2.0**26))


def test_a_key_shows_itself_nowhere() -> None:
    """Logs and tracebacks print values by repr; a pickle would copy the key out of the vault."""
    key = SecretKey.generate(COMPACT)
    assert repr(key) == str(key) == "SecretKey(compact)"
    with pytest.raises(TypeError):
        pickle.dumps(key)
    assert not hasattr(key, "__dict__")


def test_derived_keys_are_hkdf_of_the_canonical_key() -> None:
    """State tags of all hospitals must agree, differ by purpose, and tell nothing about the key."""
    key = SecretKey.generate(COMPACT)
    expected = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"tag").derive(key.to_bytes())
    assert key.derive(b"tag") == SecretKey.from_bytes(key.to_bytes(), COMPACT).derive(b"tag") == expected
    assert key.derive(b"other") != expected
    assert SecretKey.generate(COMPACT).derive(b"tag") != expected


def test_every_encryption_uses_fresh_seeds() -> None:
    """A repeated seed would show the difference of two updates in clear."""
    key, grid = SecretKey.generate(COMPACT), small_grid(COMPACT)
    integers = np.tile(golden_integers(), 8)
    uploads = [key.encrypt(integers, grid) for _ in range(8)]
    seeds = {u.seeds[k : k + SEED_BYTES] for u in uploads for k in range(0, len(u.seeds), SEED_BYTES)}
    assert len(seeds) == 64
    assert len({row.tobytes() for upload in uploads for row in upload.words}) == 64


@BOTH
def test_seal_itself_adds_and_decrypts_to_the_same_integers(parameters: CkksParameters) -> None:
    """Oracle: ciphertexts saved by SEAL are loaded, added and decrypted by SEAL alone, without our codec."""
    grid, rounds = small_grid(parameters), np.random.default_rng(1)
    key = SecretKey.generate(parameters)
    total, uploads, reference = sealapi.Ciphertext(), [], np.zeros(2048, dtype=np.int64)
    evaluator, plaintext = sealapi.Evaluator(key._context), sealapi.Plaintext()
    with seal_bytes.MemoryFile() as file:
        for index in range(3):
            integers = rounds.integers(-(10**5), 10**5, 2048)
            reference += integers
            slots = (integers * grid.encoded_step).view(np.complex128)
            key._encoder.encode(slots.tolist(), parameters.scale, plaintext)
            key._encryptor.encrypt_symmetric(plaintext).save(file.path)
            words, seed = seal_bytes.seeded_ciphertext_parts(file.read(), 2048)
            uploads.append(EncryptedVector(parameters, words[np.newaxis], seed))
            native = sealapi.Ciphertext()
            native.load(key._context, file.path)
            if index == 0:
                total = native
            else:
                evaluator.add_inplace(total, native)
    key._decryptor.decrypt(total, plaintext)
    by_seal = np.array(key._encoder.decode_complex(plaintext)).view(np.float64) / grid.encoded_step
    assert (np.rint(by_seal) == reference).all()
    assert (key.decrypt(total_of(uploads), grid) == reference).all()


def test_tenseals_own_vectors_agree_with_the_encrypted_sum() -> None:
    """Oracle: TenSEAL's ckks_vector at N = 8192, which shares neither parameters nor codec, gives the same integers."""
    grid, rounds = small_grid(COMPACT), np.random.default_rng(2)
    vectors = [rounds.integers(-(10**5), 10**5, 2048) for _ in range(3)]
    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 40])
    context.global_scale = 2**40
    total = tenseal.ckks_vector(context, vectors[0] * grid.encoded_step)
    for vector in vectors[1:]:
        total += tenseal.ckks_vector(context, vector * grid.encoded_step)
    by_tenseal = np.rint(np.array(total.decrypt()) / grid.encoded_step).astype(np.int64)
    key = SecretKey.generate(COMPACT)
    ours = key.decrypt(total_of([key.encrypt(vector, grid) for vector in vectors]), grid)
    assert (ours == by_tenseal).all()


@BOTH
@pytest.mark.parametrize("change", ["word", "seed", "swap", "foreign", "missing"])
def test_an_altered_aggregate_is_refused_with_one_error(parameters: CkksParameters, change: str) -> None:
    """Flipped words, other seeds, another key: all end in the same text, which says nothing about the values."""
    grid, key = small_grid(parameters), SecretKey.generate(parameters)
    uploads = [key.encrypt(golden_integers(), grid), key.encrypt(golden_integers(), grid)]
    if change == "foreign":
        uploads[1] = SecretKey.generate(parameters).encrypt(golden_integers(), grid)
    total = total_of(uploads)
    words, seeds = total.words.copy(), list(total.seeds)
    if change == "word":
        words[0, 5] ^= np.uint64(1)
    if change == "seed":
        seeds[0] = bytes([seeds[0][0] ^ 1]) + seeds[0][1:]
    if change == "swap":
        seeds[1] = seeds[0]
    if change == "missing":
        seeds.pop()
    with pytest.raises(
        DecryptionError, match=r"^an aggregate does not decrypt to values on the plan's grid; it is refused$"
    ):
        key.decrypt(EncryptedSum(parameters, words, tuple(seeds)), grid)


def test_a_sum_outside_the_plan_is_our_own_fault() -> None:
    """More survivors than hospitals, other parameters, other shapes: our callers check them first."""
    grid, key = small_grid(COMPACT), SecretKey.generate(COMPACT)
    with pytest.raises(LocalProtocolError):
        key.decrypt(total_of([key.encrypt(golden_integers(), grid)] * 4), grid)
    with pytest.raises(LocalProtocolError):
        key.encrypt(golden_integers(), small_grid(PRESETS["precise"]))
    with pytest.raises(LocalProtocolError):
        SecretKey.generate(PRESETS["precise"]).decrypt(total_of([key.encrypt(golden_integers(), grid)]), grid)
    for bad in (golden_integers()[:-1], golden_integers()[np.newaxis], golden_integers()[:0]):
        with pytest.raises(LocalProtocolError):
            key.encrypt(bad, grid)
    with pytest.raises(LocalProtocolError):
        key.encrypt(golden_integers().astype(np.float64), grid)


def test_values_beyond_the_encoder_are_refused() -> None:
    """SEAL's encoder limit is behind the headroom formula; whoever leaves the plan meets it."""
    grid, key = small_grid(COMPACT), SecretKey.generate(COMPACT)
    with pytest.raises(LocalProtocolError, match="headroom"):
        key.encrypt(np.full(2048, 10**9, dtype=np.int64), grid)


def test_only_integers_and_bytes_leave_the_module() -> None:
    """What a hospital may send on is listed here: a new public method must be argued for."""
    public = {name for name in vars(SecretKey) if not name.startswith("_")}
    assert public == {"decrypt", "derive", "encrypt", "from_bytes", "generate", "parameters", "to_bytes"}
    grid, key = small_grid(COMPACT), SecretKey.generate(COMPACT)
    assert key.decrypt(total_of([key.encrypt(golden_integers(), grid)]), grid).dtype == np.int64
    assert {name for name in vars(encrypt) if name.startswith("decrypt")} == set()


def test_objects_of_another_seal_are_refused() -> None:
    """A changed layout must stop the hospital, never be read as words."""
    with seal_bytes.MemoryFile() as file:
        SecretKey.generate(COMPACT)._encryptor.encrypt_zero_symmetric().save(file.path)
        good = file.read()
    words, seed = seal_bytes.seeded_ciphertext_parts(good, 2048)
    assert (words.shape, len(seed)) == ((2048,), SEED_BYTES)
    for bad in (
        b"",
        good[:15],
        good[:-1],
        good + b"\0",
        good[:3] + b"\5" + good[4:],
        good[:16] + bytes(len(good) - 16),
    ):
        with pytest.raises(LocalProtocolError, match=r"tenseal==0\.3\.18"):
            seal_bytes.seeded_ciphertext_parts(bad, 2048)
    with pytest.raises(LocalProtocolError):
        seal_bytes.seeded_ciphertext_parts(good, 1024)
    with pytest.raises(LocalProtocolError):
        seal_bytes.secret_key_words(good, 2048)
