"""The vault: a site's secrets in one file, sealed with AES-256-GCM under a passphrase or a key file.

The file is ``magic (8) | header length (u32) | header | nonce (12) | sealed``; the header is canonical JSON that names
the hospital and the lock, and is authenticated with the secrets.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
import struct
from base64 import b64decode, b64encode
from collections.abc import Collection
from pathlib import Path
from typing import Literal, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from client.durable import write_durably
from client.vault_lock import KeyFileLock, PassphraseLock, Unlock, new_lock
from common.canonical import canonical_bytes
from common.card import HospitalName
from common.errors import AlreadyExists, KeyFileError
from common.identity import VAULT_MAGIC

IDENTITY, BOX, NODE = "identity", "box", "node"
"""Names of the secrets that keygen makes: seeds of the Ed25519 and X25519 keys, and the node key's file."""

NONCE_BYTES = 12
MAX_HEADER_BYTES = 4096
MAX_VAULT_BYTES = 64 << 20
_PREFIX = struct.Struct(">8sI")


class _Header(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    hospital: HospitalName
    lock: PassphraseLock | KeyFileLock = Field(discriminator="kind")


class Vault:
    """An open vault. Secrets are read by name; each change replaces the whole file, or nothing of it.

    Make one with `create` or `open`. Two processes must not change one vault at once: `keygen` makes it, then the site
    service alone writes to it.
    """

    def __init__(self, path: Path, header: _Header, *, key: bytes, held: dict[str, bytes]) -> None:
        self._path, self._header, self._key, self._held = path, header, key, held

    @classmethod
    def create(cls, path: Path, *, hospital: str, unlock: Unlock, held: dict[str, bytes]) -> Self:
        """Seal secrets into a new file, mode 0600.

        Args:
            path: A file that does not exist yet.
            hospital: Whose it is; no other hospital's site opens it.
            unlock: Passphrase or content of a key file.
            held: Secrets by name.

        Raises:
            AlreadyExists: If the file is there.
            SiteStorageError: If the disk refuses.
        """
        if path.exists():
            raise AlreadyExists(f"{path}: exists; a vault is never overwritten; name a new folder")
        lock = new_lock(unlock)
        vault = cls(path, _Header(hospital=hospital, lock=lock), key=lock.key(unlock), held=dict(held))
        vault._save()
        return vault

    @classmethod
    def open(cls, path: Path, *, hospital: str, unlock: Unlock) -> Self:
        """Open a vault.

        Raises:
            KeyFileError: If the file is missing, open to others, damaged or another hospital's, or the passphrase or
                key file does not open it.
        """
        data = _read(path)
        header, header_end = _parse_header(data, path)
        if header.hospital != hospital:
            raise KeyFileError(f"{path}: is the vault of {header.hospital}, not of {hospital}; name this site's own")
        key = header.lock.key(unlock)
        nonce, sealed = data[header_end : header_end + NONCE_BYTES], data[header_end + NONCE_BYTES :]
        try:
            content = AESGCM(key).decrypt(nonce, sealed, data[:header_end])
        except (InvalidTag, ValueError) as error:
            raise KeyFileError(
                f"{path}: the {header.lock.noun} does not open it, or the file was changed; "
                f"give the {header.lock.noun} that was used at keygen, or restore the vault from a backup"
            ) from error
        held = {name: b64decode(text) for name, text in json.loads(content).items()}
        return cls(path, header, key=key, held=held)

    @property
    def unlock(self) -> Unlock:
        """What opens this vault again without its passphrase; hand it to a process of this site only."""
        return Unlock("derived", self._key)

    def get(self, name: str) -> bytes | None:
        """A secret, or None."""
        return self._held.get(name)

    def require(self, name: str) -> bytes:
        """A secret.

        Raises:
            KeyFileError: If the vault has none of that name.
        """
        secret = self.get(name)
        if secret is None:
            raise KeyFileError(f"{self._path}: holds no '{name}'; restore the vault from a backup")
        return secret

    def names(self) -> tuple[str, ...]:
        """Names of all secrets."""
        return tuple(self._held)

    def remove(self, names: Collection[str]) -> None:
        """Forget secrets, and flush that to the disk before returning.

        Raises:
            SiteStorageError: If the disk refuses; the file is as it was.
        """
        held = {name: secret for name, secret in self._held.items() if name not in names}
        if len(held) == len(self._held):
            return
        before, self._held = self._held, held
        try:
            self._save()
        except BaseException:
            self._held = before
            raise

    def put(self, name: str, secret: bytes) -> None:
        """Add a secret and flush it to the disk before returning; one that is there stays as it is.

        Raises:
            AlreadyExists: If the vault holds another secret of that name.
            SiteStorageError: If the disk refuses; the file is as it was.
        """
        held = self._held.get(name)
        if held == secret:
            return
        if held is not None:
            raise AlreadyExists(f"{self._path}: holds another '{name}'; keys are never overwritten")
        self._held[name] = secret
        try:
            self._save()
        except BaseException:
            del self._held[name]
            raise

    def __repr__(self) -> str:
        return f"Vault({self._header.hospital}, {len(self._held)} secrets)"

    def _save(self) -> None:
        header = canonical_bytes(self._header.model_dump(mode="json"))
        head = _PREFIX.pack(VAULT_MAGIC, len(header)) + header
        content = canonical_bytes({name: b64encode(secret).decode() for name, secret in self._held.items()})
        # A random nonce per write: a vault is written a few dozen times in its life, 2^32 is the limit.
        nonce = secrets.token_bytes(NONCE_BYTES)
        write_durably(self._path, head + nonce + AESGCM(self._key).encrypt(nonce, content, head))


def lock_kind(path: Path) -> Literal["passphrase", "key-file"]:
    """What opens a vault.

    Raises:
        KeyFileError: If the file is missing, open to others, or no vault.
    """
    return _parse_header(_read(path), path)[0].lock.kind


def vault_hospital(path: Path) -> str:
    """Whose vault it is, as its head says; opening it proves that.

    Raises:
        KeyFileError: If the file is missing, open to others, or no vault.
    """
    return _parse_header(_read(path), path)[0].hospital


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(MAX_VAULT_BYTES)
    except OSError as error:
        raise KeyFileError(
            f"{path}: cannot be read ({error.strerror}); name this site's vault, which `fedward-client keygen` makes"
        ) from error
    if stat.S_IMODE(mode) & 0o077:
        raise KeyFileError(f"{path}: mode is {stat.S_IMODE(mode):04o}, 0600 is allowed; run chmod 600 on it")
    return data


def _parse_header(data: bytes, path: Path) -> tuple[_Header, int]:
    refusal = KeyFileError(f"{path}: is no vault of this version, or is cut short; restore it from a backup")
    if len(data) < _PREFIX.size:
        raise refusal
    magic, length = _PREFIX.unpack_from(data)
    end = _PREFIX.size + length
    if magic != VAULT_MAGIC or length > MAX_HEADER_BYTES or len(data) < end + NONCE_BYTES:
        raise refusal
    try:
        return _Header.model_validate_json(data[_PREFIX.size : end]), end
    except ValidationError as error:
        raise refusal from error
