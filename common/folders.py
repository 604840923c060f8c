"""The folders that a configuration file names: made and tried before any work, so that a wrong one costs no work."""

from __future__ import annotations

import os
from pathlib import Path

from common.errors import ConfigError


def make_folder(path: Path, *, key: str) -> None:
    """Make a folder for its owner alone unless it exists, and check that files can be made in it.

    Args:
        path: Where.
        key: The key of the configuration file that names it.

    Raises:
        ConfigError: If it cannot be made or written.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{key}: {path}: cannot be made ({error.strerror}); name a folder of your own") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigError(f"{key}: {path}: cannot be written by this user; name a folder of your own")
