"""A small disk of its own for a test, that can be filled to the last page."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Self

import pytest

FILLER = "filler"


class SmallDisk:
    """A tmpfs; use it as a context. Skips the test where this user cannot mount one.

    Args:
        folder: An empty folder, or one to make; what is below it lies on the disk.
        size_bytes: How much fits.
    """

    def __init__(self, folder: Path, *, size_bytes: int) -> None:
        self.folder, self._size_bytes = folder, size_bytes

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        words = ("mount", "-t", "tmpfs", "-o", f"size={self._size_bytes},mode=0700", "none", str(self.folder))
        done = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603 -- fixed program
        if done.returncode != 0:
            pytest.skip(f"needs a tmpfs of its own, which this user cannot mount: {done.stderr.strip()}")
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(("umount", "--lazy", str(self.folder)), check=True)  # noqa: S603, S607 -- fixed program

    def fill(self, *, leave_bytes: int) -> None:
        """Take all room but this, in whole pages."""
        state = os.statvfs(self.folder)
        size = max(0, state.f_bavail * state.f_frsize - leave_bytes)
        with (self.folder / FILLER).open("wb") as file:
            if size:
                os.posix_fallocate(file.fileno(), 0, size)

    def make_room(self) -> None:
        """Give the room back."""
        (self.folder / FILLER).unlink()
