"""Who is held out for evaluation: fixed by the unit's own id."""

from __future__ import annotations

import pytest

from client.data import held_out
from common.errors import LocalProtocolError


def test_about_the_asked_share_is_held_out() -> None:
    """The share is met up to chance: 10,000 draws at .2 have a standard deviation of 40."""
    chosen = sum(held_out(f"lesion:{n}", salt="s", fraction=0.2) for n in range(10_000))
    assert abs(chosen - 2000) < 200


def test_the_choice_depends_on_the_salt() -> None:
    """Two plans hold out different patients."""
    units = [f"lesion:{n}" for n in range(200)]
    first = [held_out(unit, salt="a", fraction=0.5) for unit in units]
    assert first != [held_out(unit, salt="b", fraction=0.5) for unit in units]
    assert first == [held_out(unit, salt="a", fraction=0.5) for unit in units]


def test_a_larger_share_contains_the_smaller_one() -> None:
    """The hash is compared with the fraction: nobody moves back into training when more are held out."""
    units = [f"lesion:{n}" for n in range(500)]
    small = {unit for unit in units if held_out(unit, salt="s", fraction=0.1)}
    large = {unit for unit in units if held_out(unit, salt="s", fraction=0.3)}
    assert small < large


def test_the_value_is_hmac_sha256() -> None:
    """A known answer: `printf lesion:1 | openssl dgst -sha256 -hmac salt` begins fd47b5af: .98937 of the range."""
    assert held_out("lesion:1", salt="salt", fraction=0.9894)
    assert not held_out("lesion:1", salt="salt", fraction=0.9893)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_a_senseless_share_is_refused(fraction: float) -> None:
    """Everybody held out, or less than nobody."""
    with pytest.raises(LocalProtocolError, match="outside"):
        held_out("lesion:1", salt="s", fraction=fraction)
