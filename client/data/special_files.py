"""Refuses what stands in the place of a file and is none: reading a FIFO or a device may never end."""

from __future__ import annotations

from pathlib import Path

from common.errors import DataError


def refuse_special(path: Path, name: str) -> None:
    """Raise DataError if `path` leads to a FIFO, a device or a socket; nothing is opened.

    Args:
        path: The file; a link counts as what it leads to. One that is not there is for its reader to refuse.
        name: What messages call it.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise DataError(f"{name}: is a FIFO, a device or a socket, and no file; save the data as a file and name that")
