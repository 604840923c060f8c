"""Shamir sharing: any t shares give the secret, fewer leave every secret possible, another library agrees."""

from __future__ import annotations

import os
import random
from functools import cache
from itertools import combinations

import pytest
from Crypto.Protocol import SecretSharing
from Crypto.Protocol.SecretSharing import Shamir
from hypothesis import given, settings
from hypothesis import strategies as st

from common import shamir
from common.errors import LocalProtocolError, MalformedMessage
from common.shamir import combine_shares, split_secret

SECRET = bytes(range(32))
REDUCTION = 0x87  # x^128 = x^7 + x^2 + x + 1


@st.composite
def sharings(draw: st.DrawFn) -> tuple[bytes, int, tuple[bytes, ...]]:
    """A secret, t and the n shares, n from 2 to 12."""
    parties = draw(st.integers(2, 12))
    threshold = draw(st.integers(2, parties))
    secret = draw(st.binary(min_size=32, max_size=32))
    return secret, threshold, split_secret(secret, threshold, parties)


@given(sharings(), st.data())
def test_any_t_shares_give_the_secret(sharing: tuple[bytes, int, tuple[bytes, ...]], data: st.DataObject) -> None:
    """Whoever reveals, n - t hospitals may be absent."""
    secret, threshold, shares = sharing
    chosen = data.draw(st.sets(st.sampled_from(range(len(shares))), min_size=threshold))
    assert combine_shares({position: shares[position] for position in chosen}, threshold) == secret


@settings(deadline=None)
@given(sharings(), st.binary(min_size=32, max_size=32), st.data())
def test_fewer_than_t_shares_leave_every_secret_possible(
    sharing: tuple[bytes, int, tuple[bytes, ...]], candidate: bytes, data: st.DataObject
) -> None:
    """For t-1 shares and any candidate there is a share of another hospital with which the candidate comes out.

    One polynomial of degree t-1 fits the t-1 shares and the candidate; it is found here by Newton's divided
    differences, so each candidate is as likely as the secret.
    """
    _, threshold, shares = sharing
    *held, absent = data.draw(st.permutations(range(len(shares))))[:threshold]
    known = {position: shares[position] for position in held}
    points = [0, *(position + 1 for position in held)]
    halves = []
    for start in (0, 16):
        coefficients = newton(points, [number(one, start) for one in (candidate, *known.values())])
        halves.append(newton_at(absent + 1, points, coefficients).to_bytes(16, "big"))
    assert combine_shares(known | {absent: b"".join(halves)}, threshold) == candidate


def test_with_t_shares_only_the_secret_is_possible() -> None:
    """Control of the test above: the polynomial through t shares and another secret has a higher degree."""
    shares = split_secret(SECRET, 3, 5)
    points = [0, 1, 2, 3]
    held = [number(share, 0) for share in shares[:3]]
    assert newton(points, [number(SECRET, 0), *held])[3] == 0
    assert newton(points, [number(SECRET, 0) ^ 1, *held])[3] != 0


@pytest.mark.parametrize("parties", [3, 5, 10, 60])
def test_pycryptodome_combines_the_same(parties: int) -> None:
    """The library that split is the oracle for our combining, over sets with gaps too."""
    threshold = 2 * parties // 3 + 1
    shares = split_secret(SECRET, threshold, parties)
    chosen = sorted(random.Random(parties).sample(range(parties), threshold))  # noqa: S311 -- which to leave out
    halves = [
        Shamir.combine([(position + 1, shares[position][start : start + 16]) for position in chosen], ssss=False)
        for start in (0, 16)
    ]
    assert b"".join(halves) == SECRET == combine_shares({position: shares[position] for position in chosen}, threshold)


def test_a_fixed_sharing() -> None:
    """Shares dealt by one version are combined by another: a line through SECRET with a known slope."""
    slopes = (0xFF << 120 | 5, 3)
    shares = {}
    for position in (0, 3, 59):
        halves = [number(SECRET, 16 * half) ^ times(position + 1, slopes[half]) for half in (0, 1)]
        shares[position] = b"".join(half.to_bytes(16, "big") for half in halves)
    assert shares[0].hex() == "ff010203040506070809" + "0a0b0c0d0e0a" + "101112131415161718191a1b1c1d1e1c"
    for pair in combinations(shares, 2):
        assert combine_shares({position: shares[position] for position in pair}, 2) == SECRET


def test_a_wrong_share_gives_another_secret_and_no_error() -> None:
    """Why every share is compared with its dealer's hash: sharing itself authenticates nothing."""
    shares = dict(enumerate(split_secret(SECRET, 3, 5)))
    shares[1] = bytes([shares[1][0] ^ 1]) + shares[1][1:]
    assert combine_shares(shares, 3) != SECRET
    del shares[1]
    assert combine_shares(shares, 3) == SECRET


def test_two_sharings_of_one_secret_differ_in_every_share() -> None:
    """The randomness is fresh; with t = n no share repeats."""
    first, second = split_secret(SECRET, 5, 5), split_secret(SECRET, 5, 5)
    assert not set(first) & set(second)
    assert len(set(first)) == 5
    assert SECRET not in first


def test_the_randomness_is_the_operating_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    """t-1 coefficients of 16 bytes per half come from os.urandom, and nothing else decides the shares."""
    asked: list[int] = []

    def fixed(size: int) -> bytes:
        asked.append(size)
        return bytes(size)

    monkeypatch.setattr("Crypto.Protocol.SecretSharing.rng", fixed)
    # Without randomness every polynomial is constant: the control that these bytes are all there is.
    assert set(split_secret(SECRET, 4, 6)) == {SECRET}
    assert asked == [16] * 6
    monkeypatch.undo()
    assert len(set(split_secret(SECRET, 4, 6))) == 6
    assert vars(SecretSharing)["rng"] is os.urandom


@pytest.mark.parametrize(
    ("secret", "threshold", "parties"),
    [(SECRET[:16], 2, 3), (SECRET + b"x", 2, 3), (SECRET, 1, 3), (SECRET, 4, 3), (SECRET, 41, 61), (SECRET, 0, 0)],
)
def test_a_sharing_that_cannot_be_is_refused(secret: bytes, threshold: int, parties: int) -> None:
    """With t = 1 every share would be the secret."""
    with pytest.raises(LocalProtocolError, match=r"needed|must have"):
        split_secret(secret, threshold, parties)


def test_too_few_shares_are_refused() -> None:
    """They would give a secret that is none."""
    shares = dict(enumerate(split_secret(SECRET, 3, 5)[:2]))
    for threshold in (3, 1, 0):
        with pytest.raises(LocalProtocolError, match="shares for a threshold"):
            combine_shares(shares, threshold)


@pytest.mark.parametrize(
    "foreign",
    [{0: b""}, {0: bytes(31)}, {0: bytes(33)}, {-1: bytes(32)}, {60: bytes(32)}, {2**128: bytes(32)}],
    ids=str,
)
def test_foreign_shares_of_another_form_are_refused(foreign: dict[int, bytes]) -> None:
    """Position -1 has index 0: its share would be the secret itself."""
    shares = dict(enumerate(split_secret(SECRET, 2, 3)))
    with pytest.raises(MalformedMessage, match="a share of"):
        combine_shares(shares | foreign, 2)


@given(st.integers(1, 2**128 - 1))
def test_the_inverse_is_one(element: int) -> None:
    """An inverse that is wrong for a rare element would make a rare set of survivors fail."""
    inverse = shamir._inverse(element)
    assert 0 < inverse < 2**128
    assert times(element, inverse) == 1 == shamir._multiply(element, inverse)


def number(data: bytes, start: int) -> int:
    """16 bytes as a field element."""
    return int.from_bytes(data[start : start + 16], "big")


def times(left: int, right: int) -> int:
    """Product in GF(2^128), by the school method and one long reduction: not the module's way."""
    product = 0
    for bit in range(128):
        if right >> bit & 1:
            product ^= left << bit
    for bit in range(255, 127, -1):
        if product >> bit & 1:
            product ^= (1 << bit) ^ (REDUCTION << (bit - 128))
    return product


@cache
def invert(element: int) -> int:
    """element^(2^128 - 2), by Fermat."""
    result, power = 1, element
    for _ in range(127):
        power = times(power, power)
        result = times(result, power)
    return result


def newton(points: list[int], values: list[int]) -> list[int]:
    """Divided differences: the coefficients of the polynomial through the points in Newton's form."""
    coefficients = list(values)
    for level in range(1, len(points)):
        for index in range(len(points) - 1, level - 1, -1):
            difference = coefficients[index] ^ coefficients[index - 1]
            coefficients[index] = times(difference, invert(points[index] ^ points[index - level]))
    return coefficients


def newton_at(point: int, points: list[int], coefficients: list[int]) -> int:
    """The value of a polynomial in Newton's form."""
    value = 0
    for own, coefficient in zip(reversed(points), reversed(coefficients), strict=True):
        value = times(value, point ^ own) ^ coefficient
    return value
