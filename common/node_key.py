"""What a hospital's gateway needs to prove itself to Flower: a node key, and the secret of its SuperExec."""

from __future__ import annotations

import secrets
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from common.identity import write_secret

SUPEREXEC_SECRET_BYTES = 32


def write_node_key(path: Path) -> str:
    """Write a SuperNode's private key, EC P-384 in OpenSSH form, mode 0600.

    Returns:
        The public key in OpenSSH form, without a comment.

    Raises:
        KeyFileError: If the file is there or cannot be written.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    write_secret(path, private)
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return public.decode("ascii")


def write_superexec_secret(path: Path) -> None:
    """Write the secret that a SuperExec shares with its SuperLink or SuperNode: 32 random bytes, mode 0600.

    Raises:
        KeyFileError: If the file is there or cannot be written.
    """
    write_secret(path, secrets.token_bytes(SUPEREXEC_SECRET_BYTES))
