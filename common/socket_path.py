"""Where a Unix socket lies: in its own folder, or, if that path is too long for the kernel, in the temporary folder."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

MAX_SOCKET_BYTES = 100
"""Longest path of a Unix socket; the kernel takes 107, and some programs add a suffix."""


def socket_path(folder: Path, name: str) -> Path:
    """A path for socket `name` of `folder` that the kernel accepts; the same arguments give the same path."""
    path = folder.resolve() / name
    if len(str(path).encode()) <= MAX_SOCKET_BYTES:
        return path
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"fedward-{digest}" / name
