"""The key recovery of Li and Micciancio succeeds on raw decryptions and fails on everything that hospitals release."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tenseal import sealapi

from client import seal_bytes
from client.encode import decode_sum_of_updates, encode_update
from client.encrypt import SecretKey, _context, _parms_id, _read_canonical, _seal_key
from common.ckks import PRESETS, SEED_BYTES, EncryptedSum, add_in_place
from common.grid import Grid, plan_grid

COMPACT = PRESETS["compact"]
SIZES = [120, 80, 50, 40, 10]
GRID = plan_grid(COMPACT, SIZES, update_norm_bound=1.0, slot_sum_max=3000)
DIMENSION, SLOT_COUNT = 2000, 3


class Attacker:
    """Knows the parameters, the public sum and what hospitals release; never the key."""

    def __init__(self) -> None:
        self.context = _context(COMPACT)
        self.encoder = sealapi.CKKSEncoder(self.context)

    def guess(self, total: EncryptedSum, values: NDArray[np.float64]) -> NDArray[np.uint64]:
        """Solve c0 + c1 s = encode(values) for s: in NTT form word by word modulo q.

        References: Li and Micciancio, 2021, IACR ePrint 2020/1533, section 1.
        """
        plaintext, q = sealapi.Plaintext(), np.uint64(COMPACT.modulus)
        self.encoder.encode(values.view(np.complex128).tolist(), COMPACT.scale, plaintext)
        c1 = np.zeros_like(total.words)
        for seeds in total.seeds:
            add_in_place(c1, self.expand(seeds[:SEED_BYTES])[np.newaxis], COMPACT)
        inverse = np.array([pow(int(word), -1, COMPACT.modulus) for word in c1[0]], dtype=np.uint64)
        guess: NDArray[np.uint64] = (saved_words(plaintext) + q - total.words[0]) % q * inverse % q
        return guess

    def expand(self, seed: bytes) -> NDArray[np.uint64]:
        """c1 of a seed; SEAL expands it without the key."""
        zeros = np.zeros(COMPACT.ring_degree, dtype=np.uint64)
        ciphertext = sealapi.Ciphertext()
        with seal_bytes.MemoryFile() as file:
            file.write(seal_bytes.seeded_ciphertext(zeros, seed, parms_id=_parms_id(self.context), scale=COMPACT.scale))
            ciphertext.load(self.context, file.path)
            ciphertext.save(file.path)
            return seal_bytes.ciphertext_polynomials(file.read(), COMPACT.ring_degree)[1]


def saved_words(item: Any) -> NDArray[np.uint64]:  # noqa: ANN401 -- untyped bindings
    """Words of a plaintext or a secret key: SEAL saves both in one layout."""
    with seal_bytes.MemoryFile() as file:
        item.save(file.path)
        return seal_bytes.secret_key_words(file.read(), COMPACT.ring_degree)


def true_words(key: SecretKey) -> NDArray[np.uint64]:
    """The key that the attacker is after, in NTT form."""
    return saved_words(_seal_key(_read_canonical(key.to_bytes(), COMPACT), _context(COMPACT), COMPACT))


def aggregate(key: SecretKey, seed: int) -> EncryptedSum:
    """One round of five hospitals with random updates."""
    generator = np.random.default_rng(seed)
    words, seeds = np.zeros((1, COMPACT.ring_degree), dtype=np.uint64), []
    for size in SIZES:
        slots = generator.integers(0, 100, SLOT_COUNT)
        integers = encode_update(generator.standard_normal(DIMENSION), declared_size=size, slots=slots, grid=GRID)
        upload = key.encrypt(integers, GRID)
        add_in_place(words, upload.words, COMPACT)
        seeds.append(upload.seeds)
    return EncryptedSum(COMPACT, words, tuple(seeds))


def raw_values(key: SecretKey, total: EncryptedSum) -> NDArray[np.float64]:
    """Float values with the key's noise, as `ts.ckks_vector.decrypt` would give them away."""
    with seal_bytes.MemoryFile() as file:
        return key._decrypt_chunk(total.words[0], [seeds[:SEED_BYTES] for seeds in total.seeds], file)


def released_values(key: SecretKey, total: EncryptedSum, grid: Grid) -> list[NDArray[np.float64]]:
    """All that leaves the decryption: the integers, and what an attacker can make of the mean, weight and slots."""
    integers = key.decrypt(total, grid)
    decoded = decode_sum_of_updates(integers, parameter_count=DIMENSION, slot_count=SLOT_COUNT, grid=grid)
    rebuilt = np.zeros(COMPACT.ring_degree)
    rebuilt[:DIMENSION] = decoded.mean_update / grid.step * (decoded.weight / grid.roster_total)
    rebuilt[DIMENSION : DIMENSION + 1 + SLOT_COUNT] = [decoded.weight, *decoded.slots]
    return [np.multiply(integers, grid.encoded_step, dtype=np.float64), rebuilt * grid.encoded_step]


@pytest.fixture(scope="module")
def attacker() -> Attacker:
    """One attacker for all rounds."""
    return Attacker()


def test_raw_decryptions_give_the_whole_key_away(attacker: Attacker) -> None:
    """Control: the attack works, 8 of 8; so a test in which it fails means something."""
    for seed in range(8):
        key = SecretKey.generate(COMPACT)
        total = aggregate(key, seed)
        assert (attacker.guess(total, raw_values(key, total)) == true_words(key)).all()


def test_what_hospitals_release_does_not_give_the_key_away(attacker: Attacker) -> None:
    """64 aggregates of one epoch: not the key, and no more of its words than chance gives."""
    key = SecretKey.generate(COMPACT)
    truth, hits, words = true_words(key), 0, 0
    for seed in range(64):
        total = aggregate(key, seed)
        for values in released_values(key, total, GRID):
            guess = attacker.guess(total, values)
            assert (guess != truth).any()
            hits += int(np.count_nonzero(guess == truth))
            words += truth.size
    # A random word modulo q is right once in 5e8: 262,144 words give none.
    assert hits <= words * 1e-4


def test_a_grid_finer_than_the_noise_would_give_the_key_away(attacker: Attacker) -> None:
    """Control of the step: integers on a grid far below the noise hold the noise, and the attack succeeds on them."""
    key = SecretKey.generate(COMPACT)
    total = aggregate(key, 1)
    fine_step = GRID.encoded_step / 2**20
    values = np.rint(raw_values(key, total) / fine_step) * fine_step
    assert (attacker.guess(total, values) == true_words(key)).all()
