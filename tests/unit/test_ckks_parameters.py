"""The public CKKS parameters are SEAL's own primes, and nothing below 128-bit security is accepted."""

from __future__ import annotations

import pytest
from tenseal import sealapi

from common.ckks import PRESETS, CkksParameters, check_security
from common.ckks_parameters import MOST_MODULUS_BITS_AT_128
from common.errors import PlanError


@pytest.mark.parametrize(("preset", "bits"), [("compact", 29), ("precise", 54)])
def test_a_presets_modulus_is_the_prime_that_seal_would_take(preset: str, bits: int) -> None:
    """Coordinators have no SEAL: the constant must be what the hospitals' SEAL computes with."""
    parameters = PRESETS[preset]
    (prime,) = sealapi.CoeffModulus.Create(parameters.ring_degree, [bits])
    assert prime.value() == parameters.modulus
    assert parameters.modulus_bits == bits


@pytest.mark.parametrize("degree", sorted(MOST_MODULUS_BITS_AT_128))
def test_the_security_table_is_seals_128_bit_row(degree: int) -> None:
    """An independent copy of the standard's table agrees with ours."""
    level = sealapi.SEC_LEVEL_TYPE.TC128
    assert sealapi.CoeffModulus.MaxBitCount(degree, level) == MOST_MODULUS_BITS_AT_128[degree]


@pytest.mark.parametrize(("degree", "bits"), [(2048, 55), (1024, 28), (4096, 110), (512, 10), (3000, 20)])
def test_parameters_below_128_bit_security_are_refused(degree: int, bits: int) -> None:
    """One bit beyond the table is refused, and so is a ring that the table does not list."""
    with pytest.raises(PlanError):
        check_security(degree, bits)


def test_a_modulus_that_does_not_fit_the_ring_is_refused_when_the_set_is_made() -> None:
    """An unsound set cannot even exist as a value."""
    good = PRESETS["compact"]
    with pytest.raises(PlanError, match="128-bit"):
        CkksParameters("short", 1024, good.modulus, good.scale)
    with pytest.raises(PlanError, match="modulo"):
        CkksParameters("odd", 2048, good.modulus - 2, good.scale)
    with pytest.raises(PlanError, match="scale"):
        CkksParameters("coarse", 2048, good.modulus, 2.0**28)


def test_the_digests_are_what_earlier_versions_signed() -> None:
    """The digest is in every manifest and every key file: a change of it is a change of the protocol."""
    assert PRESETS["compact"].digest() == "87be5a0561035a82dcd078302f00e1b249c2f3656f2f9a897793bbb75bb843a8"
    assert PRESETS["precise"].digest() == "6509f0dc619a7a15c0e03978231e247b686c6fe03bd398557a8c8478c1a67514"


def test_a_chunk_takes_the_bytes_that_its_bits_need() -> None:
    """Sizes on the wire follow from the bits of q, not from SEAL's 64-bit words."""
    assert [PRESETS[name].chunk_bytes for name in ("compact", "precise")] == [7424, 13824]
    assert [PRESETS[name].values_per_chunk for name in ("compact", "precise")] == [2048, 2048]
