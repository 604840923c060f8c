"""The vault: what opens it, what does not, and that nothing is lost when the disk refuses."""

from __future__ import annotations

import resource
import signal
from pathlib import Path

import pytest

from client.vault import Vault, lock_kind
from client.vault_lock import Unlock, make_key_file, read_key_file
from common.errors import AlreadyExists, KeyFileError, SiteStorageError

PASSPHRASE = Unlock("passphrase", b"four quite plain words")
SECRETS = {"identity": b"i" * 32, "ckks": bytes(range(256))}


def make(folder: Path, unlock: Unlock = PASSPHRASE) -> Path:
    """A vault of hospital-1."""
    path = folder / "vault"
    Vault.create(path, hospital="hospital-1", unlock=unlock, held=SECRETS)
    return path


def test_a_passphrase_opens_what_it_sealed_and_nothing_is_in_clear(tmp_path: Path) -> None:
    """A passphrase opens what it sealed and nothing is in clear."""
    path = make(tmp_path)
    vault = Vault.open(path, hospital="hospital-1", unlock=PASSPHRASE)
    assert {name: vault.get(name) for name in SECRETS} == SECRETS
    assert SECRETS["identity"] not in path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    assert lock_kind(path) == "passphrase"
    assert "words" not in repr(PASSPHRASE)


def test_a_key_file_opens_it_and_so_does_the_key_it_gave(tmp_path: Path) -> None:
    """A key file opens it and so does the key it gave."""
    unlock = make_key_file(tmp_path / "vault.key")
    path = make(tmp_path, unlock)
    vault = Vault.open(path, hospital="hospital-1", unlock=read_key_file(tmp_path / "vault.key"))
    again = Vault.open(path, hospital="hospital-1", unlock=vault.unlock)
    assert again.require("identity") == SECRETS["identity"]
    assert lock_kind(path) == "key-file"


@pytest.mark.parametrize(
    ("unlock", "words"),
    [
        (Unlock("passphrase", b"four quite plain word"), "the passphrase does not open it"),
        (Unlock("key-file", bytes(32)), "leave 'vault_key' out"),
    ],
)
def test_another_passphrase_or_a_key_file_does_not(tmp_path: Path, unlock: Unlock, words: str) -> None:
    """Another passphrase or a key file does not."""
    path = make(tmp_path)
    with pytest.raises(KeyFileError, match=words):
        Vault.open(path, hospital="hospital-1", unlock=unlock)


def test_a_passphrase_does_not_open_a_vault_with_a_key_file(tmp_path: Path) -> None:
    """A passphrase does not open a vault with a key file."""
    path = make(tmp_path, make_key_file(tmp_path / "vault.key"))
    with pytest.raises(KeyFileError, match="name it as 'vault_key'"):
        Vault.open(path, hospital="hospital-1", unlock=PASSPHRASE)


def test_another_hospitals_vault_is_named(tmp_path: Path) -> None:
    """Another hospitals vault is named."""
    path = make(tmp_path)
    with pytest.raises(KeyFileError, match="is the vault of hospital-1, not of hospital-2"):
        Vault.open(path, hospital="hospital-2", unlock=PASSPHRASE)


def test_any_changed_bit_is_noticed(tmp_path: Path) -> None:
    """Any changed bit is noticed."""
    path = make(tmp_path)
    whole = path.read_bytes()
    # The header too: its hospital and its lock are authenticated. A changed Argon2 parameter may be out of bounds.
    for position in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[position] ^= 1
        path.write_bytes(bytes(changed))
        with pytest.raises(KeyFileError):
            Vault.open(path, hospital="hospital-1", unlock=PASSPHRASE)


@pytest.mark.parametrize("size", [0, 5, 12, 100])
def test_a_vault_that_is_cut_short_is_refused(tmp_path: Path, size: int) -> None:
    """A vault that is cut short is refused."""
    path = make(tmp_path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(KeyFileError, match="cut short"):
        Vault.open(path, hospital="hospital-1", unlock=PASSPHRASE)


def test_a_vault_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """A vault that others can read is refused."""
    path = make(tmp_path)
    path.chmod(0o640)
    with pytest.raises(KeyFileError, match="mode is 0640"):
        Vault.open(path, hospital="hospital-1", unlock=PASSPHRASE)


def test_secrets_are_added_and_never_replaced(tmp_path: Path) -> None:
    """Secrets are added and never replaced."""
    path = make(tmp_path)
    vault = Vault.open(path, hospital="hospital-1", unlock=PASSPHRASE)
    vault.put("new", b"secret")
    vault.put("new", b"secret")
    with pytest.raises(AlreadyExists, match="holds another 'new'"):
        vault.put("new", b"other")
    assert Vault.open(path, hospital="hospital-1", unlock=PASSPHRASE).get("new") == b"secret"
    with pytest.raises(AlreadyExists, match="never overwritten"):
        make(tmp_path)


def test_a_full_disk_leaves_the_vault_as_it_was(tmp_path: Path) -> None:
    """A full disk leaves the vault as it was."""
    path = make(tmp_path)
    vault = Vault.open(path, hospital="hospital-1", unlock=PASSPHRASE)
    before = path.read_bytes()
    old_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    old_handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, old_limit[1]))
    try:
        with pytest.raises(SiteStorageError):
            vault.put("large", bytes(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old_limit)
        signal.signal(signal.SIGXFSZ, old_handler)
    assert path.read_bytes() == before
    assert vault.get("large") is None


def test_a_short_passphrase_is_refused(tmp_path: Path) -> None:
    """A short passphrase is refused."""
    with pytest.raises(KeyFileError, match="at least 12"):
        make(tmp_path, Unlock("passphrase", b"short"))
    assert not (tmp_path / "vault").exists()
