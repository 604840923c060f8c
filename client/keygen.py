"""Makes a hospital's keys at home: identity, box and node key; only the card leaves."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import yaml

from client.hpke import box_public_hex
from client.vault import BOX, IDENTITY, NODE, Vault
from client.vault_lock import Unlock, make_key_file
from common.card import Card, sign_card
from common.config import load_settings
from common.errors import AlreadyExists, OperatorError
from common.identity import KEY_BYTES, Identity
from common.node_key import write_node_key, write_superexec_secret

VAULT, VAULT_KEY, GATEWAY = "vault", "vault.key", "gateway"


@dataclass(frozen=True, slots=True)
class NewSite:
    """What `make_site` has made."""

    card: Card
    card_path: Path


def card_name(hospital: str) -> str:
    """File name of a hospital's card."""
    return f"{hospital}.card.yaml"


def make_site(folder: Path, *, hospital: str, declared_units: int, passphrase: bytes | None) -> NewSite:
    """Make a site's folder with its keys, all of it or nothing.

    Args:
        folder: New or empty folder.
        hospital: The hospital's name in the roster to come.
        declared_units: Training units that it declares.
        passphrase: Opens the vault; None: a key file beside it does.

    Returns:
        The card, which goes to the organiser.

    Raises:
        AlreadyExists: If the folder is not empty: keys are never overwritten.
        KeyFileError: If the passphrase is too short.
        OperatorError: If the folder cannot be made.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AlreadyExists(f"{folder}: is there and not an empty folder; keys are never overwritten; name a new one")
    place = folder.resolve()  # what a link leads to; a link itself cannot be replaced by a folder
    if place == Path.cwd():
        raise OperatorError(f"{folder}: is the folder you are in, which cannot be replaced; name a new one in it")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    except OSError as error:
        raise OperatorError(f"{folder}: cannot be made ({error.strerror}); name another folder") from error
    try:
        card = _fill(staging, hospital=hospital, declared_units=declared_units, passphrase=passphrase)
        _move(staging, place)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return NewSite(card, folder / card_name(hospital))


def read_card(path: Path) -> Card:
    """Read a card and check its signature.

    Raises:
        ConfigError: If it is no card, or was not signed by its hospital.
    """
    card = load_settings(path, Card)
    card.check()
    return card


def _move(staging: Path, place: Path) -> None:
    try:
        staging.replace(place)
    except OSError as error:
        raise OperatorError(f"{place}: cannot be replaced ({error.strerror}); name a new folder") from error


def _fill(folder: Path, *, hospital: str, declared_units: int, passphrase: bytes | None) -> Card:
    unlock = make_key_file(folder / VAULT_KEY) if passphrase is None else Unlock("passphrase", passphrase)
    (folder / GATEWAY).mkdir(mode=0o750)
    seed, box_secret = secrets.token_bytes(KEY_BYTES), secrets.token_bytes(KEY_BYTES)
    node_file = folder / GATEWAY / "node.key"
    node = write_node_key(node_file)
    # Flower reads the node key from a file of the gateway's user; the vault's copy is what a backup restores it from.
    held = {IDENTITY: seed, BOX: box_secret, NODE: node_file.read_bytes()}
    Vault.create(folder / VAULT, hospital=hospital, unlock=unlock, held=held)
    write_superexec_secret(folder / GATEWAY / "superexec.secret")
    card = sign_card(
        Identity.from_seed(seed),
        name=hospital,
        box=box_public_hex(box_secret),
        node=node,
        declared_units=declared_units,
    )
    text = "# Public keys of a hospital: send this file to the organiser.\n" + yaml.safe_dump(
        card.model_dump(mode="json"), sort_keys=False
    )
    (folder / card_name(hospital)).write_text(text, encoding="utf-8")
    return card
