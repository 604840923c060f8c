"""Files that are whole after a crash, whenever it comes."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from client.file_access import FileAccess
from common.errors import SiteStorageError


def read_durable(path: Path) -> bytes | None:
    """What `write_durably` wrote, or None before.

    Raises:
        SiteStorageError: If the disk refuses.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise disk_refuses(path, error) from error


def write_durably(path: Path, data: bytes, *, mode: int | None = None) -> None:
    """Replace a file atomically, and return only when it is on the disk.

    Args:
        path: The file.
        data: All of it.
        mode: Of a file that is new, while one that is there keeps owner and mode; None: 0600, and this user's.

    Raises:
        SiteStorageError: If the disk refuses; the old file is untouched then.
    """
    # One process holds a site's folder (the ledger's lock), so what a killed one left is overwritten here.
    temporary = path.with_name(f".{path.name}.new")
    try:
        with open(temporary, "wb", opener=_private) as file:
            file.write(data)
            file.flush()
            if mode is not None:
                FileAccess.kept(path, mode=mode).give(file.fileno())
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise disk_refuses(path, error) from error


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def disk_refuses(path: Path, error: OSError) -> SiteStorageError:
    """The error for what the system says."""
    return SiteStorageError(
        f"{path}: {error.strerror}; nothing was sent; make room or mend the folder, then start the site again"
    )
