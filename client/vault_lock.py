"""What opens a vault: a passphrase (Argon2id) or a key file (32 random bytes)."""

from __future__ import annotations

import secrets
from abc import abstractmethod
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from common.errors import KeyFileError
from common.identity import read_secret, write_secret

KEY_BYTES = 32
SALT_BYTES = 16
SHORTEST_PASSPHRASE = 12
# RFC 9106, section 4, second recommended option: 3 passes over 64 MiB in 4 lanes, about 0.15 s here.
PASSES, LANES, MEMORY_KIB = 3, 4, 1 << 16

Salt = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]{22}==$")]


@dataclass(frozen=True, slots=True)
class Unlock:
    """A secret that opens a vault: what was typed, what a key file holds, or the key that either gave before."""

    kind: Literal["passphrase", "key-file", "derived"]
    secret: bytes = field(repr=False)


class _LockModel(BaseModel):
    """A lock as the vault's head holds it: which secret opens it, and the public numbers that turn that into a key."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    kind: str
    salt: Salt
    noun: ClassVar[str]
    advice: ClassVar[str]

    def key(self, unlock: Unlock) -> bytes:
        """The AES key, 32 bytes.

        Raises:
            KeyFileError: If it is another kind of secret than the one that opens this vault.
        """
        if unlock.kind == "derived":
            return unlock.secret
        if unlock.kind != self.kind:
            raise KeyFileError(f"seen a {unlock.kind}; {self.advice}")
        return self._derive(unlock.secret)

    @abstractmethod
    def _derive(self, secret: bytes) -> bytes:
        """The AES key from a secret of this kind."""


class PassphraseLock(_LockModel):
    """Argon2id with the parameters that the vault was made with; bounded, since the file may be hostile."""

    kind: Literal["passphrase"] = "passphrase"
    passes: int = Field(default=PASSES, ge=1, le=16)
    lanes: int = Field(default=LANES, ge=1, le=16)
    memory_kib: int = Field(default=MEMORY_KIB, ge=8 * 16, le=1 << 20)
    noun: ClassVar[str] = "passphrase"
    advice: ClassVar[str] = "the vault has a passphrase; leave 'vault_key' out of the site file"

    def _derive(self, secret: bytes) -> bytes:
        return Argon2id(
            salt=b64decode(self.salt),
            length=KEY_BYTES,
            iterations=self.passes,
            lanes=self.lanes,
            memory_cost=self.memory_kib,
        ).derive(secret)


class KeyFileLock(_LockModel):
    """HKDF of the key file's 32 random bytes."""

    kind: Literal["key-file"] = "key-file"
    noun: ClassVar[str] = "key file"
    advice: ClassVar[str] = "the vault has a key file; name it as 'vault_key' in the site file"

    def _derive(self, secret: bytes) -> bytes:
        salt = b64decode(self.salt)
        return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=b"fedward/vault/1").derive(secret)


Lock = PassphraseLock | KeyFileLock


def new_lock(unlock: Unlock) -> Lock:
    """A lock with a fresh salt for a new vault.

    Raises:
        KeyFileError: If the passphrase is too short.
    """
    salt = b64encode(secrets.token_bytes(SALT_BYTES)).decode()
    if unlock.kind == "key-file":
        return KeyFileLock(salt=salt)
    if len(unlock.secret) < SHORTEST_PASSPHRASE:
        raise KeyFileError(
            f"a passphrase of {len(unlock.secret)} bytes; at least {SHORTEST_PASSPHRASE} are allowed; take some words"
        )
    return PassphraseLock(salt=salt)


def make_key_file(path: Path) -> Unlock:
    """Write 32 random bytes, mode 0600, to a new file.

    Raises:
        KeyFileError: If the file is there or cannot be written.
    """
    write_secret(path, secrets.token_bytes(KEY_BYTES))
    return read_key_file(path)


def read_key_file(path: Path) -> Unlock:
    """Read a key file.

    Raises:
        KeyFileError: If it is missing, open to others, or of another size.
    """
    return Unlock("key-file", read_secret(path, size_bytes=KEY_BYTES))
