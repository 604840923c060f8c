"""Ed25519 identities: who signed a message body. Keys are made at home and never leave it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from common.errors import BadSignature, KeyFileError

SIGNATURE_BYTES = 64
VAULT_MAGIC = b"FWVLT/1\n"
"""First bytes of a hospital's vault (client.vault); the coordinator looks for them and refuses to start beside one."""

KEY_BYTES = 32


class Identity:
    """A private key that signs, and never shows itself."""

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        self._private_key = private_key

    @classmethod
    def generate(cls) -> Identity:
        """A new identity from the operating system's CSPRNG."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes) -> Identity:
        """The identity of 32 random bytes, which whoever holds them must keep secret."""
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def load(cls, path: Path) -> Identity:
        """Read a key written by `save`.

        Raises:
            KeyFileError: If the file is missing, readable by others, or not a key.
        """
        return cls(Ed25519PrivateKey.from_private_bytes(read_secret(path, size_bytes=KEY_BYTES)))

    def save(self, path: Path) -> None:
        """Write the key, mode 0600, to a file that must not exist yet."""
        write_secret(path, self._private_key.private_bytes_raw())

    @property
    def public_hex(self) -> str:
        """The public key as 64 hex digits, as the roster holds it."""
        return self._private_key.public_key().public_bytes_raw().hex()

    def sign(self, message: bytes) -> bytes:
        """Signature of `message`, 64 bytes."""
        return self._private_key.sign(message)


def verify(public_hex: str, signature: bytes, message: bytes) -> None:
    """Check a signature.

    Raises:
        BadSignature: If it is not one of `message` by that key.
    """
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_hex)).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise BadSignature(
            f"a signature does not verify under the key {public_hex[:16]}…; refuse the message"
        ) from error


def write_secret(path: Path, secret: bytes) -> None:
    """Write `secret` with mode 0600 to a new file and flush it to the disk.

    Raises:
        KeyFileError: If the file exists or cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secret)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be written ({error.strerror}); keys are never overwritten") from error


def read_secret(path: Path, *, size_bytes: int | None = None) -> bytes:
    """Read a secret that only its owner may read.

    Raises:
        KeyFileError: If the file is missing, open to group or others, or has another size.
    """
    try:
        mode = path.stat().st_mode
        secret = path.read_bytes()
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be read ({error.strerror}); name this site's own key file") from error
    if stat.S_IMODE(mode) & 0o077:
        raise KeyFileError(f"{path}: mode is {stat.S_IMODE(mode):04o}, 0600 is allowed; run chmod 600 on it")
    if size_bytes is not None and len(secret) != size_bytes:
        raise KeyFileError(f"{path}: holds {len(secret)} bytes, a key has {size_bytes}; name the right file")
    return secret
