"""Where a Unix socket lies: in its own folder, or, if that path is too long for the kernel, in the temporary folder."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from pathlib import Path

MAX_SOCKET_BYTES = 100
"""Longest path of a Unix socket; the kernel takes 107, and some programs add a suffix."""

FALLBACK_PREFIX = "fedward-socket-"


def socket_path(folder: Path, name: str) -> Path:
    """A path for socket `name` of `folder` that the kernel accepts, if there is one.

    The same arguments give the same path.
    """
    path = folder.resolve() / name
    if len(str(path).encode()) <= MAX_SOCKET_BYTES:
        return path
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    short = [folder / f"{FALLBACK_PREFIX}{digest}" / name for folder in _temporary_folders()]
    return next((path for path in short if len(str(path).encode()) <= MAX_SOCKET_BYTES), path)


def remove_socket(path: Path) -> None:
    """Remove a socket that nobody listens on any more, and its folder where `socket_path` had to invent one."""
    path.unlink(missing_ok=True)
    if path.parent.parent in _temporary_folders() and path.parent.name.startswith(FALLBACK_PREFIX):
        with contextlib.suppress(OSError):  # somebody else's file lies in it
            path.parent.rmdir()


def _temporary_folders() -> tuple[Path, ...]:
    return Path(tempfile.gettempdir()), Path("/tmp")  # noqa: S108 -- a folder of our own is made in it
