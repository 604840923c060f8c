"""The file that `--json` names: refused before the work where it cannot be written, written after it."""

from __future__ import annotations

import json
from pathlib import Path

from common.errors import OperatorError


def require_writable(path: Path | None) -> None:
    """Refuse a report's path before the work, not after it. Leaves nothing behind.

    Args:
        path: The report; None: none is wanted.

    Raises:
        OperatorError: If its folder does not exist, or the path is no file that can be written.
    """
    if path is None:
        return
    try:
        known = path.exists()
        if known and not path.is_dir() and not path.is_file():
            return  # a pipe or a device: to open it may wait for a reader
        # The only sure way to know: rights alone say nothing about a read-only disk.
        path.open("a").close()
        if not known:
            path.unlink()
    except OSError as error:
        raise _refusal(path, error) from error


def write_json(path: Path | None, content: dict[str, object] | list[dict[str, object]]) -> None:
    """Write a report.

    Args:
        path: Where to; None: none is wanted.
        content: What it says.

    Raises:
        OperatorError: If the file cannot be written.
    """
    if path is None:
        return
    try:
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise _refusal(path, error) from error


def _refusal(path: Path, error: OSError) -> OperatorError:
    return OperatorError(f"{path}: cannot be written ({error.strerror}); name a file in an existing folder")
