"""Whom a ledger counts: marks (`client.counted_images`), appended to its file and signed, never taken back."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Collection
from pathlib import Path

from client.ledger_chain import genesis
from client.ledger_file import RESTORE, explain
from client.ledger_schema import COUNTED
from common.errors import BadSignature, LedgerError
from common.identity import Identity, verify

MARK_BYTES = 16

Marks = frozenset[bytes]


def read_marks(connection: sqlite3.Connection, path: Path, *, source: str, public_key: str) -> Marks | None:
    """The marks of a ledger's file, or None where it has no table of them yet.

    Args:
        connection: The open file.
        path: Its name, for messages.
        source: The ledger's source.
        public_key: The identity that signed it, 64 hex digits.

    Raises:
        LedgerError: If the file is damaged, or a batch is not signed by that identity in its place.
    """
    batches = _read_batches(connection, path)
    if batches is None:
        return None
    found: set[bytes] = set()
    previous = genesis(source, public_key)
    for number, (batch, marks, signature) in enumerate(batches, start=1):
        try:
            verify(public_key, bytes.fromhex(signature), _signed(number, marks, previous))
        except (BadSignature, ValueError) as error:
            raise LedgerError(f"{path}: batch {number} of its images is not signed by this site; {RESTORE}") from error
        if batch != number or len(marks) % MARK_BYTES:
            raise LedgerError(
                f"{path}: batch {number} of its images is out of its place, so the file was altered; {RESTORE}"
            )
        found.update(marks[start : start + MARK_BYTES] for start in range(0, len(marks), MARK_BYTES))
        previous = signature
    return frozenset(found)


def append_marks(
    connection: sqlite3.Connection, path: Path, marks: Collection[bytes], *, source: str, identity: Identity
) -> None:
    """Add a batch of marks; it is on the disk when this returns. An older file gains the table.

    Raises:
        LedgerError, SiteStorageError: If the disk refuses; nothing is added then.
    """
    batches = _read_batches(connection, path) or []
    previous = batches[-1][2] if batches else genesis(source, identity.public_hex)
    blob = b"".join(sorted(marks))
    signature = identity.sign(_signed(len(batches) + 1, blob, previous)).hex()
    try:
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in COUNTED:
                connection.execute(statement)
            connection.execute("INSERT INTO counted VALUES (?, ?, ?)", (len(batches) + 1, blob, signature))
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:  # SQLite itself rolls back after some errors
                connection.execute("ROLLBACK")
            raise
    except sqlite3.Error as error:
        raise explain(error, path) from error


def _read_batches(connection: sqlite3.Connection, path: Path) -> list[tuple[int, bytes, str]] | None:
    try:
        if not connection.execute("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'counted'").fetchone():
            return None
        return connection.execute("SELECT batch, marks, signature FROM counted ORDER BY batch").fetchall()
    except sqlite3.Error as error:
        raise explain(error, path) from error


def _signed(number: int, marks: bytes, previous: str) -> bytes:
    return b"fedward/counted-batch/1" + hashlib.sha256(f"{number}/{previous}/".encode() + marks).digest()
