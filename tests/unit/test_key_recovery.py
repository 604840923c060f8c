"""The key recovery of Li and Micciancio succeeds on raw decryptions and fails on everything that hospitals release."""

from __future__ import annotations

from scripts.attack_key_recovery import (
    MOST_RIGHT_WORDS,
    attack_key_recovery,
    recovered_from_raw,
    recovered_from_released,
    recovers_from_finer_grid,
)


def test_raw_decryptions_give_the_whole_key_away() -> None:
    """Control: the attack works, 8 of 8; so a test in which it fails means something."""
    assert recovered_from_raw(8) == 8


def test_what_hospitals_release_does_not_give_the_key_away() -> None:
    """64 aggregates of one epoch: not the key, and no more of its words than chance gives."""
    found, right = recovered_from_released(range(64))
    assert found == 0
    assert right <= MOST_RIGHT_WORDS


def test_a_grid_finer_than_the_noise_would_give_the_key_away() -> None:
    """Control of the step: integers on a grid far below the noise hold the noise, and the attack succeeds on them."""
    assert recovers_from_finer_grid(1)


def test_the_command_reports_both() -> None:
    """Figure and control stand beside each other."""
    (result,) = attack_key_recovery(seed=5, count=2, say=lambda _: None)
    assert (result.figure, result.control, result.passed) == (0, 8, True)
