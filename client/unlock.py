"""Where the secret comes from that opens a site's vault: its key file, a file with the passphrase, or the keyboard."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import typer

from client.vault import lock_kind
from client.vault_lock import KEY_BYTES, Unlock, read_key_file
from common.errors import KeyFileError
from common.identity import read_secret

# The supervisor hands the opened vault's key to the site service through a file that exists in memory only: not in
# the arguments, which every user can read, and not in the environment, which the service's own children would inherit.
UNLOCK_DESCRIPTOR = "FEDWARD_UNLOCK_FD"


def find_unlock(vault: Path, *, key_file: Path | None, passphrase_file: Path | None) -> Unlock:
    """What opens a vault, asked for at the keyboard if no file has it.

    Args:
        vault: The vault's file.
        key_file: `vault_key` of the site file.
        passphrase_file: A file with the passphrase in its first line, mode 0600.

    Raises:
        KeyFileError: If a file cannot be used, or nobody is at the keyboard.
    """
    inherited = os.environ.get(UNLOCK_DESCRIPTOR)
    if inherited is not None:
        return Unlock("derived", os.pread(int(inherited), KEY_BYTES, 0))
    if key_file is not None:
        return read_key_file(key_file)
    if passphrase_file is not None:
        return Unlock("passphrase", read_passphrase(passphrase_file))
    if lock_kind(vault) == "key-file":
        raise KeyFileError(f"{vault}: a key file opens it; name it as 'vault_key' in the site file")
    if not sys.stdin.isatty():
        raise KeyFileError(
            f"{vault}: has a passphrase and nobody is at the keyboard; give --passphrase-file, or make sites that "
            "start by themselves with a key file"
        )
    return Unlock("passphrase", str(typer.prompt("Passphrase of the vault", hide_input=True)).encode())


def read_passphrase(path: Path) -> bytes:
    """First line of a file that only its owner may read.

    Raises:
        KeyFileError: If the file is missing, open to others, or empty.
    """
    lines = read_secret(path).splitlines()
    if not lines or not lines[0]:
        raise KeyFileError(f"{path}: its first line is empty; write the passphrase there")
    return lines[0]


def in_memory(unlock: Unlock) -> int:
    """Put an opened vault's key into a file in memory; returns its descriptor, for a child process to inherit."""
    descriptor = os.memfd_create("fedward-unlock")
    os.write(descriptor, unlock.secret)
    return descriptor
