"""Key recovery of Li and Micciancio: decrypted values hold the key's noise, and with it the whole secret key.

Whoever sees the exact float values that a ciphertext (c0, c1) decrypts to solves c0 + c1 s = encode(values) for s. So
hospitals release integers on a public grid only. The attack must succeed on raw values, else its failure on released
ones would mean nothing.

References: Li and Micciancio, 2021, IACR ePrint 2020/1533, section 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tenseal import sealapi

from client import seal_bytes
from client.encode import decode_sum_of_updates, encode_steps, weigh
from client.encrypt import SecretKey, _context, _parms_id, _read_canonical, _seal_key
from common.ckks import PRESETS, SEED_BYTES, EncryptedSum, add_in_place
from common.grid import Grid, plan_grid
from scripts.attack_result import AttackResult, Say

COMPACT = PRESETS["compact"]
SIZES = (120, 80, 50, 40, 10)
GRID = plan_grid(COMPACT, SIZES, update_norm_bound=1.0, slot_sum_max=3000)
DIMENSION, SLOT_COUNT = 2000, 3
RAW_AGGREGATES = 8
# A random word modulo q is right once in 5e8.
MOST_RIGHT_WORDS = 1e-4


class KeyThief:
    """Knows the parameters, the public sum and some values; never the key."""

    def __init__(self) -> None:
        self._seal_context = _context(COMPACT)
        self._encoder = sealapi.CKKSEncoder(self._seal_context)

    def guess(self, total: EncryptedSum, values: NDArray[np.float64]) -> NDArray[np.uint64]:
        """Solve c0 + c1 s = encode(values) for s: in NTT form word by word modulo q.

        Args:
            total: A sum of one ciphertext.
            values: What it is believed to decrypt to, shape (N,).

        Returns:
            The key's words if the values are exact, shape (N,).
        """
        q = np.uint64(COMPACT.modulus)
        c1 = np.zeros_like(total.words)
        for seeds in total.seeds:
            add_in_place(c1, self._expand(seeds[:SEED_BYTES])[np.newaxis], COMPACT)
        inverse = np.array([pow(int(word), -1, COMPACT.modulus) for word in c1[0]], dtype=np.uint64)
        guess: NDArray[np.uint64] = (self.encode(values) + q - total.words[0]) % q * inverse % q
        return guess

    def encode(self, values: NDArray[np.float64]) -> NDArray[np.uint64]:
        """Words of a plaintext, shape (N,): anybody can make them, and add them to a c0."""
        plaintext = sealapi.Plaintext()
        self._encoder.encode(values.view(np.complex128).tolist(), COMPACT.scale, plaintext)
        return _saved_words(plaintext)

    def _expand(self, seed: bytes) -> NDArray[np.uint64]:
        """c1 of a seed; SEAL expands it without the key."""
        zeros = np.zeros(COMPACT.ring_degree, dtype=np.uint64)
        ciphertext = sealapi.Ciphertext()
        with seal_bytes.MemoryFile() as file:
            parms_id = _parms_id(self._seal_context)
            file.write(seal_bytes.seeded_ciphertext(zeros, seed, parms_id=parms_id, scale=COMPACT.scale))
            ciphertext.load(self._seal_context, file.path)
            ciphertext.save(file.path)
            return seal_bytes.ciphertext_polynomials(file.read(), COMPACT.ring_degree)[1]


def _saved_words(item: Any) -> NDArray[np.uint64]:  # noqa: ANN401 -- untyped bindings
    """Words of a plaintext or a secret key: SEAL saves both in one layout."""
    with seal_bytes.MemoryFile() as file:
        item.save(file.path)
        return seal_bytes.secret_key_words(file.read(), COMPACT.ring_degree)


def true_words(key: SecretKey) -> NDArray[np.uint64]:
    """The key that the thief is after, in NTT form."""
    return _saved_words(_seal_key(_read_canonical(key.to_bytes(), COMPACT), _context(COMPACT), COMPACT))


def random_aggregate(key: SecretKey, seed: int) -> EncryptedSum:
    """One round of five hospitals with random updates, its masks off."""
    generator = np.random.default_rng(seed)
    words, seeds = np.zeros((1, COMPACT.ring_degree), dtype=np.uint64), []
    for size in SIZES:
        slots = generator.integers(0, 100, SLOT_COUNT)
        integers = encode_steps(
            weigh(generator.standard_normal(DIMENSION), declared_size=size, grid=GRID),
            declared_size=size,
            slots=slots,
            grid=GRID,
        )
        upload = key.encrypt(integers, GRID)
        add_in_place(words, upload.words, COMPACT)
        seeds.append(upload.seeds)
    return EncryptedSum(COMPACT, words, tuple(seeds))


def raw_values(key: SecretKey, total: EncryptedSum, *, chunk: int = 0) -> NDArray[np.float64]:
    """Float values of one ciphertext with the key's noise, as `ts.ckks_vector.decrypt` would give them away."""
    start = chunk * SEED_BYTES
    seeds = [one[start : start + SEED_BYTES] for one in total.seeds]
    with seal_bytes.MemoryFile() as file:
        return key._decrypt_chunk(total.words[chunk], seeds, file)  # noqa: SLF001 -- what no hospital releases


def released_values(key: SecretKey, total: EncryptedSum, grid: Grid) -> list[NDArray[np.float64]]:
    """All that leaves the decryption: the integers, and what a thief can make of the mean, weight and slots."""
    integers = key.decrypt(total, grid)
    decoded = decode_sum_of_updates(integers, parameter_count=DIMENSION, slot_count=SLOT_COUNT, grid=grid)
    rebuilt = np.zeros(COMPACT.ring_degree)
    rebuilt[:DIMENSION] = decoded.mean_update / grid.step * (decoded.weight / grid.roster_total)
    rebuilt[DIMENSION : DIMENSION + 1 + SLOT_COUNT] = [decoded.weight, *decoded.slots]
    return [np.multiply(integers, grid.encoded_step, dtype=np.float64), rebuilt * grid.encoded_step]


def recovered_from_raw(aggregates: int) -> int:
    """How many of so many fresh keys their raw values give away."""
    thief, found = KeyThief(), 0
    for seed in range(aggregates):
        key = SecretKey.generate(COMPACT)
        total = random_aggregate(key, seed)
        found += int((thief.guess(total, raw_values(key, total)) == true_words(key)).all())
    return found


def recovered_from_released(seeds: Sequence[int]) -> tuple[int, float]:
    """Attack aggregates of one epoch by what hospitals release.

    Returns:
        How many gave the key away, and the share of the key's words that were right.
    """
    thief, key = KeyThief(), SecretKey.generate(COMPACT)
    truth, found, hits, words = true_words(key), 0, 0, 0
    for seed in seeds:
        total = random_aggregate(key, seed)
        guesses = [thief.guess(total, values) == truth for values in released_values(key, total, GRID)]
        found += int(any(right.all() for right in guesses))
        hits += sum(int(np.count_nonzero(right)) for right in guesses)
        words += sum(right.size for right in guesses)
    return found, hits / words


def recovers_from_finer_grid(seed: int) -> bool:
    """Whether integers on a grid far below the noise give the key away: the step is what protects it."""
    thief, key = KeyThief(), SecretKey.generate(COMPACT)
    total = random_aggregate(key, seed)
    fine_step = GRID.encoded_step / 2**20
    values = np.rint(raw_values(key, total) / fine_step) * fine_step
    return bool((thief.guess(total, values) == true_words(key)).all())


def attack_key_recovery(*, seed: int, count: int, say: Say) -> list[AttackResult]:
    """Try to compute the epoch's key from `count` aggregates.

    Args:
        seed: Of the updates; keys and encryption are random anyway.
        count: Aggregates.
        say: Takes a line of progress.
    """
    say(f"key-recovery: {RAW_AGGREGATES} keys from raw decryptions, then {count} aggregates as hospitals release them")
    raw = recovered_from_raw(RAW_AGGREGATES)
    found, right = recovered_from_released(range(seed, seed + count))
    finer = recovers_from_finer_grid(seed)
    return [
        AttackResult(
            attack="key-recovery",
            figure=found,
            control=raw,
            passed=found == 0 and raw == RAW_AGGREGATES and right <= MOST_RIGHT_WORDS and finer,
            claim=f"keys recovered from what hospitals release: 0; control, from raw values: {RAW_AGGREGATES}",
            details={
                "aggregates": count,
                "raw_aggregates": RAW_AGGREGATES,
                "share_of_key_words_right": right,
                "recovered_from_a_finer_grid": finer,
            },
        )
    ]
