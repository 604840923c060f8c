"""Public CKKS parameters: ring, modulus, scale, and the refusal of sets below 128-bit security.

Weights are applied before encryption, so the coordinator only adds: one prime is the whole modulus, and neither
relinearisation nor Galois keys exist. Both presets work in the ring of degree 2048; `precise` takes all the bits that
128-bit security leaves there, `compact` a little more than half of them and so half the bytes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from common.errors import PlanError

# Most bits of modulus per ring degree at 128-bit classical security for a uniform ternary secret: table 1 of the
# Homomorphic Encryption Standard (Albrecht et al., 2018), the row that SEAL calls tc128. A unit test compares them.
MOST_MODULUS_BITS_AT_128 = {1024: 27, 2048: 54, 4096: 109, 8192: 218, 16384: 438, 32768: 881}

SEED_BYTES = 64
"""Size of the seed that stands for c1 of a fresh symmetric ciphertext."""

SECRET_KEY_MAGIC = b"fedward-ckks-key/1\n"
"""First bytes of a secret key file: a hospital writes them, the coordinator refuses to start where it finds them."""

WORDS_PER_GROUP = 8
"""Words that are packed together: eight words of b bits are b whole bytes."""


@dataclass(frozen=True, slots=True)
class CkksParameters:
    """One CKKS parameter set; every field is public.

    Args:
        name: Name of the preset in the plan.
        ring_degree: N, a power of two; a ciphertext carries N real values in N/2 complex slots.
        modulus: q, a prime with q = 1 mod 2N.
        scale: Factor between an encoded value and its coefficients, a power of two.

    Raises:
        PlanError: If the set is below 128-bit security or outside what the codec packs.
    """

    name: str
    ring_degree: int
    modulus: int
    scale: float

    def __post_init__(self) -> None:
        check_security(self.ring_degree, self.modulus.bit_length())
        if (
            not WORDS_PER_GROUP <= self.modulus_bits <= 64 - WORDS_PER_GROUP
            or self.modulus % (2 * self.ring_degree) != 1
        ):
            raise PlanError(
                f"CKKS parameters {self.name}: modulus {self.modulus}; it must have 8 to 56 bits and be 1 modulo "
                f"{2 * self.ring_degree}; choose the preset compact or precise"
            )
        if not 1 <= self.scale <= 2.0 ** (self.modulus_bits - 2):
            raise PlanError(
                f"CKKS parameters {self.name}: scale {self.scale:g}; the encoder takes 1 to 2^{self.modulus_bits - 2}"
            )

    @property
    def modulus_bits(self) -> int:
        """Bits that one packed word takes: ceil(log2 q)."""
        return self.modulus.bit_length()

    @property
    def values_per_chunk(self) -> int:
        """Real values that one ciphertext carries: two per complex slot."""
        return self.ring_degree

    @property
    def chunk_bytes(self) -> int:
        """Bytes that the N packed words of one polynomial take."""
        return self.ring_degree * self.modulus_bits // 8

    def digest(self) -> str:
        """SHA-256 of the canonical form, hex: equal digests mean equal parameters."""
        fields = {
            "format": "fedward/ckks/1",
            "modulus": self.modulus,
            "name": self.name,
            "ring_degree": self.ring_degree,
            "scale": float(self.scale).hex(),
        }
        return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def check_security(ring_degree: int, modulus_bits: int) -> None:
    """Refuse a ring and modulus below 128-bit security.

    Raises:
        PlanError: If the degree is not in the standard's table, or the modulus is too long for it.
    """
    most = MOST_MODULUS_BITS_AT_128.get(ring_degree)
    if most is None:
        raise PlanError(
            f"CKKS ring degree {ring_degree}; the security standard lists "
            f"{', '.join(map(str, MOST_MODULUS_BITS_AT_128))}"
        )
    if modulus_bits > most:
        raise PlanError(
            f"CKKS modulus of {modulus_bits} bits at ring degree {ring_degree}; 128-bit security allows {most} bits; "
            "take a shorter modulus or a larger ring"
        )


# The primes are what SEAL 4.3's CoeffModulus::Create(2048, {bits}) returns. The scales are the largest that its encoder
# takes; on the public grid only scale * step counts, so a power of two costs nothing and keeps the arithmetic exact.
PRESETS: dict[str, CkksParameters] = {
    "compact": CkksParameters("compact", 2048, 536813569, 2.0**27),
    "precise": CkksParameters("precise", 2048, 18014398509404161, 2.0**52),
}
