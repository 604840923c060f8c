"""Words for true and false in index files."""

from __future__ import annotations

from common.errors import DataError

_TRUE = frozenset({"true", "1", "yes"})
_FALSE = frozenset({"false", "0", "no"})


def truth(text: str, *, place: str) -> bool | None:
    """What a cell of `keep_clean` says; None where it is blank.

    Raises:
        DataError: If it says neither; names `place`.
    """
    word = text.strip().lower()
    if not word:
        return None
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise DataError(f"{place}: keep_clean is neither true nor false; write True, False, or leave it blank")
