"""A folder that appears whole or not at all, and never over something."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from common.errors import AlreadyExists, OperatorError


def make_room(target: Path) -> None:
    """Refuse a place for a new folder before the work that would fill it; makes its parents.

    Raises:
        AlreadyExists: If anything is there but an empty folder.
        OperatorError: If the folder around it is none, or cannot be made.
    """
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise AlreadyExists(f"{target} exists and is not empty; choose another folder, or delete it first")
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refusal(target, error) from error


@contextlib.contextmanager
def whole_folder(target: Path, *, mode: int) -> Iterator[Path]:
    """Fill a folder under another name beside `target`; it gets its name at the end, and goes if anything fails.

    Args:
        target: Folder to make; may exist if it is empty.
        mode: Its permissions.

    Raises:
        AlreadyExists: If anything is at `target` but an empty folder.
        OperatorError: If the disk refuses; nothing is left behind but `target`'s parents.
    """
    make_room(target)
    try:
        staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-", suffix=".partial"))
        try:
            yield staging
            staging.chmod(mode)
            staging.rename(target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)  # gone already after the rename
    except OSError as error:
        raise _refusal(target, error) from error


def _refusal(target: Path, error: OSError) -> OperatorError:
    return OperatorError(f"{target} cannot be written ({error.strerror}); choose another folder, or free disk space")
