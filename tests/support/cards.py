"""Rows of a roster for plans whose hospitals have no files."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from client.hpke import box_public_hex
from common.card import Card, sign_card
from common.identity import Identity
from common.node_key import write_node_key


def make_card(name: str, identity: Identity | None = None, *, declared_units: int = 100) -> Card:
    """A signed card with fresh keys, whose private halves are thrown away unless given."""
    with tempfile.TemporaryDirectory() as folder:
        node = write_node_key(Path(folder) / "node.key")
    box = box_public_hex(secrets.token_bytes(32))
    return sign_card(identity or Identity.generate(), name=name, box=box, node=node, declared_units=declared_units)


def make_rows(names: Iterable[str], *, declared_units: int = 100) -> list[dict[str, Any]]:
    """Rows as they stand in a plan's YAML."""
    return [make_card(name, declared_units=declared_units).model_dump(mode="json") for name in names]
