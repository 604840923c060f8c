"""Counts of things in sentences for people."""

from __future__ import annotations


def counted(number: int, one: str, several: str = "") -> str:
    """The number with its noun: `1 round`, `2 rounds`, `0 entries`.

    Args:
        number: How many.
        one: The noun for one.
        several: The noun for any other number, where it is not `one` with an s.
    """
    return f"{number} {one if number == 1 else several or one + 's'}"
