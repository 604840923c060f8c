"""What one cell of text means: a number, or one of a site's codes. Refusals name the place and never the cell."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Generic, Literal, TypeVar

from common.errors import DataError

Decimal = Literal[".", ","]
Meaning = TypeVar("Meaning", bound=str)

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_NOT_FINITE = re.compile(r"[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
_GROUPED = re.compile(r"[+-]?\d{1,3}(?:[.,' \u00a0\u2009\u202f]\d{3})+(?:[.,]\d+)?", re.ASCII)
_MOST_DIGITS = 400
_SHOWN = 20


def number(cell: str, where: str, *, decimal: Decimal) -> float:
    """The number that a cell holds.

    Args:
        cell: Its text.
        where: File, line and column, for messages.
        decimal: The decimal mark. Under a comma a point is refused: it could stand between thousands.

    Raises:
        DataError: If it is no finite decimal number.
    """
    text = cell
    if decimal == ",":
        text = cell.replace(",", ".", 1) if "." not in cell else ""
    found = plain_number(text)
    if found is not None and math.isfinite(found):
        return found
    raise DataError(f"{where}: {_complaint(cell, decimal)}")


def plain_number(text: str) -> float | None:
    """The decimal number that a text is, if it is one; it may be too large for a float, and then is infinite."""
    return float(text) if len(text) <= _MOST_DIGITS and _NUMBER.fullmatch(text) else None


class Codes(Generic[Meaning]):
    """What a site's codes mean. They are told apart as text; where both are numbers, `1.0` is the code `1`."""

    def __init__(self, codes: Mapping[str, Meaning], key: str) -> None:
        """Take the codes that stand under a key of the mapping."""
        self._key, self._meanings = key, dict(codes)
        numeric: dict[float, set[Meaning]] = {}
        for code, meaning in codes.items():
            if (value := plain_number(code)) is not None:
                numeric.setdefault(value, set()).add(meaning)
        # `01` and `1` may be two codes: then only the text tells.
        self._numeric = {value: meanings.pop() for value, meanings in numeric.items() if len(meanings) == 1}

    def __contains__(self, cell: str) -> bool:
        return self._find(cell) is not None

    def meaning(self, cell: str, where: str) -> Meaning:
        """What a cell means.

        Raises:
            DataError: If no code is it; names those that are listed.
        """
        found = self._find(cell)
        if found is None:
            listed = ", ".join(list(self._meanings)[:_SHOWN]) + (", ..." if len(self._meanings) > _SHOWN else "")
            if plain_number(cell) is not None and all(plain_number(code) is None for code in self._meanings):
                raise DataError(
                    f"{where}: holds a number, and '{self._key}' of the mapping lists none (it lists {listed}); "
                    "no plan learns to predict a number, so write each row's class or word into a column, and map that"
                )
            raise DataError(
                f"{where}: holds a code that '{self._key}' of the mapping does not list (it lists {listed}); add the "
                "code there, or correct the cell"
            )
        return found

    def _find(self, cell: str) -> Meaning | None:
        found = self._meanings.get(cell)
        if found is None and self._numeric and (value := plain_number(cell)) is not None:
            found = self._numeric.get(value)
        return found


def _complaint(cell: str, decimal: Decimal) -> str:
    if _NOT_FINITE.fullmatch(cell) or (plain_number(cell) is not None and decimal == "."):
        return "is not a finite number; correct it, or list its word under `missing` in the mapping"
    if _GROUPED.fullmatch(cell):
        return (
            "looks like a number with thousands separators, or with another decimal mark than the mapping's "
            f"`decimal` ('{decimal}'); write numbers without separators, or correct `decimal`"
        )
    if decimal == "," and "." in cell:
        return "holds a point, but the mapping's `decimal` is ','; correct one of them"
    if decimal == "." and plain_number(cell.replace(",", ".", 1)) is not None:
        return "holds a comma, but the mapping's `decimal` is '.'; correct one of them"
    return "is not a number; correct it, or list its word under `missing` in the mapping"
