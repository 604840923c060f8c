"""Refuses to run the coordinator where it could read what it must not."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from common.ckks_parameters import SECRET_KEY_MAGIC
from common.errors import ConfigError, DeploymentError, SecretKeyOnServer
from common.identity import VAULT_MAGIC

KEY_FILE_NAMES = ("ckks.key", "vault", "vault.key")
SECRET_MAGIC = (SECRET_KEY_MAGIC, VAULT_MAGIC)
MOST_FILES = 20_000
LEARNING_PACKAGES = ("torch", "opacus", "tenseal")


def refuse_secret_key(*folders: Path) -> None:
    """Look for a CKKS secret key or a hospital's vault by name and by content, in these folders and all below.

    Args:
        folders: The coordinator's folder and that of its configuration file; missing ones are skipped.

    Raises:
        SecretKeyOnServer: If there is one.
        ConfigError: If the folders hold too many files to look at: the coordinator wants folders of its own.
    """
    count = 0
    for folder in folders:
        for path in _files(folder):
            count += 1
            if count > MOST_FILES:
                raise ConfigError(
                    f"{folder}: more than {MOST_FILES} files, too many to look for a secret key; "
                    "give the coordinator a folder of its own"
                )
            if path.name in KEY_FILE_NAMES or _starts_like_a_key(path):
                raise SecretKeyOnServer(
                    f"{path}: a CKKS secret key or a hospital's vault, which only hospitals may hold; "
                    "take it away and start a new key epoch, for whoever runs the coordinator may have read it"
                )


def refuse_learning_code() -> None:
    """Check that this process has loaded no code that trains or decrypts.

    Raises:
        DeploymentError: If it has.
    """
    loaded = [name for name in LEARNING_PACKAGES if name in sys.modules]
    if loaded:
        raise DeploymentError(f"the coordinator has loaded {', '.join(loaded)}; install it without the extra 'site'")


def _files(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names)


def _starts_like_a_key(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(max(map(len, SECRET_MAGIC))).startswith(SECRET_MAGIC)
    except (FileNotFoundError, PermissionError):
        # Flower's temporary files come and go; what this user cannot open, the coordinator cannot read either.
        return False
