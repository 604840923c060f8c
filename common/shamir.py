"""Shamir sharing of a 32-byte secret, t of n, over GF(2^128); a share's index is the hospital's roster position + 1.

A secret is two halves of 16 bytes, each with a polynomial of its own, because pycryptodome splits 16 bytes. It
authenticates nothing: a wrong share gives a wrong secret, so a share is compared with its dealer's hash before it is
used, and what comes out with the dealer's commitment.

Combining is our own: the same t hospitals reveal shares of n secrets in a round, and pycryptodome finds the weights of
their positions again for each of them, which takes 40 times as long at n = 50.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from common.errors import LocalProtocolError, MalformedMessage

SECRET_BYTES = 32
HALF_BYTES = 16
MOST_PARTIES = 60
_BITS = 128
_POLYNOMIAL = (1 << _BITS) | 0b10000111  # x^128 + x^7 + x^2 + x + 1, pycryptodome's


def split_secret(secret: bytes, threshold: int, parties: int) -> tuple[bytes, ...]:
    """Split a secret so that any `threshold` shares give it and fewer say nothing about it.

    Args:
        secret: 32 bytes.
        threshold: t, from 2 to n.
        parties: n, at most 60.

    Returns:
        n shares of 32 bytes in roster order; the randomness is the operating system's.

    Raises:
        LocalProtocolError: If the secret has another length, or t and n do not fit.
    """
    # Only a site splits; the coordinator, which combines, needs no pycryptodome.
    from Crypto.Protocol.SecretSharing import Shamir  # noqa: PLC0415

    if len(secret) != SECRET_BYTES:
        raise LocalProtocolError(f"a secret of {len(secret)} bytes to share; it must have {SECRET_BYTES}")
    if not 2 <= threshold <= parties <= MOST_PARTIES:
        raise LocalProtocolError(f"{threshold} of {parties} shares; 2 <= t <= n <= {MOST_PARTIES} is needed")
    halves = (Shamir.split(threshold, parties, half, ssss=False) for half in (secret[:HALF_BYTES], secret[HALF_BYTES:]))
    return tuple(bytes(first) + bytes(second) for (_, first), (_, second) in zip(*halves, strict=True))


def combine_shares(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """The secret that the shares at the `threshold` lowest positions give; the inverse of `split_secret`.

    Args:
        shares: 32 bytes by roster position, from 0; more than `threshold` are allowed and not used.
        threshold: t of the split.

    Returns:
        32 bytes; another secret than the dealer's, if a share used is not the dealer's.

    Raises:
        LocalProtocolError: If there are fewer than `threshold` shares, or `threshold` is below 2.
        MalformedMessage: If a position is outside the roster's range or a share has another length.
    """
    if threshold < 2 or len(shares) < threshold:
        raise LocalProtocolError(f"{len(shares)} shares for a threshold of {threshold}; 2 <= t <= shares is needed")
    for position, share in shares.items():
        if not 0 <= position < MOST_PARTIES or len(share) != SECRET_BYTES:
            raise MalformedMessage(
                f"a share of {len(share)} bytes at position {position}; {SECRET_BYTES} bytes at a position from 0 to "
                f"{MOST_PARTIES - 1} are allowed"
            )
    positions = tuple(sorted(shares)[:threshold])
    first = second = 0
    for position, weight in zip(positions, _weights_at_zero(positions), strict=True):
        share = shares[position]
        first ^= _multiply(weight, int.from_bytes(share[:HALF_BYTES], "big"))
        second ^= _multiply(weight, int.from_bytes(share[HALF_BYTES:], "big"))
    return first.to_bytes(HALF_BYTES, "big") + second.to_bytes(HALF_BYTES, "big")


@lru_cache(maxsize=64)
def _weights_at_zero(positions: tuple[int, ...]) -> tuple[int, ...]:
    """Lagrange: f(0) = sum of weight_j f(x_j), weight_j = product over m != j of x_m / (x_j - x_m); - is XOR here."""
    weights = []
    for own in positions:
        numerator = denominator = 1
        for other in positions:
            if other != own:
                numerator = _multiply(other + 1, numerator)
                denominator = _multiply((own + 1) ^ (other + 1), denominator)
        weights.append(_multiply(numerator, _inverse(denominator)))
    return tuple(weights)


def _multiply(public: int, other: int) -> int:
    """Product in GF(2^128); which steps are taken depends on `public` alone, never on `other`, which may be secret."""
    product = 0
    while public:
        product ^= other * (public & 1)
        other <<= 1
        other ^= _POLYNOMIAL * (other >> _BITS)
        public >>= 1
    return product


def _inverse(element: int) -> int:
    """Inverse in GF(2^128) of a public element, not 0, by Euclid's algorithm on polynomials."""
    larger, smaller, factor, inverse = _POLYNOMIAL, element, 0, 1
    while smaller != 1:
        shift = larger.bit_length() - smaller.bit_length()
        if shift < 0:
            larger, smaller, factor, inverse, shift = smaller, larger, inverse, factor, -shift
        larger ^= smaller << shift
        factor ^= inverse << shift
    return inverse
