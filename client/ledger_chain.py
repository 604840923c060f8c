"""Reading a ledger: every entry in its place in the hash chain, signed, and with the spending that it must record."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from client.ledger_cap import epsilons
from client.ledger_entry import LedgerEntry, Row, parse_entry, paying
from client.ledger_file import RESTORE, explain
from common.canonical import sha256_hex
from common.errors import LedgerError


class Chain(Protocol):
    """A ledger that is open, or a copy of one."""

    def entries(self) -> tuple[LedgerEntry, ...]:
        """All entries, oldest first."""

    def head(self) -> str:
        """Hash of the last entry, hex; of source and site if there is none."""


def genesis(source: str, public_key: str) -> str:
    """What the first entry's `previous` is: it ties the chain to one source of one site."""
    return sha256_hex(b"fedward/ledger-genesis/1", source.encode(), public_key.encode())


def head_of(entries: Sequence[LedgerEntry], *, source: str, public_key: str) -> str:
    """Hash of the last entry, hex; of source and site if there is none."""
    return entries[-1].hash if entries else genesis(source, public_key)


def head_at(entries: Sequence[LedgerEntry], sequence: int) -> str | None:
    """Hash of the entry with that number, from 1, hex; None if there is no such entry."""
    return entries[sequence - 1].hash if 0 < sequence <= len(entries) else None


def read_entries(connection: sqlite3.Connection, path: Path, *, source: str, public_key: str) -> list[LedgerEntry]:
    """All entries, oldest first, verified.

    Args:
        connection: The open file.
        path: Its name, for messages.
        source: Name of the data source.
        public_key: The site's identity, 64 hex digits.

    Raises:
        LedgerError: If hash, signature, order or spending of an entry is wrong, or the file is damaged.
    """
    try:
        rows = connection.execute(
            "SELECT sequence, run, round, kind, body, hash, signature FROM entries ORDER BY sequence"
        ).fetchall()
    except sqlite3.Error as error:
        raise explain(error, path) from error
    return check_chain(rows, path, source=source, public_key=public_key)


def check_chain(rows: Iterable[Row], path: Path, *, source: str, public_key: str) -> list[LedgerEntry]:
    """The entries of these rows, oldest first, verified; the rest as for `read_entries`."""
    entries: list[LedgerEntry] = []
    previous = genesis(source, public_key)
    for number, (sequence, run, round_number, kind, body, digest, signature) in enumerate(rows, start=1):
        entry = parse_entry(body, digest, signature=signature, public_key=public_key)
        in_order = sequence == entry.sequence == number and entry.previous == previous
        if not in_order or (run, round_number, kind) != entry.charge.key or entry.source != source:
            raise LedgerError(f"{path}: entry {number} is out of its place in the chain, so it was altered; {RESTORE}")
        entries.append(entry)
        previous = entry.hash
    _check_spending(entries, path)
    return entries


def _check_spending(entries: list[LedgerEntry], path: Path) -> None:
    """Recorded epsilons never fall while delta stays, time never falls, and the last ones are what accounting gives."""
    last: dict[str, LedgerEntry] = {}
    newest = 0.0
    for entry in entries:
        before = last.get(entry.charge.account)
        falls = before is not None and before.delta == entry.delta and _is_less(entry, before)
        if falls or entry.epsilon_alone < entry.epsilon or entry.time < newest:
            raise LedgerError(
                f"{path}: entry {entry.sequence} records less than what stood before, so it was altered; {RESTORE}"
            )
        last[entry.charge.account], newest = entry, entry.time
    for entry in last.values():
        charges = [earlier.charge for earlier in entries[: entry.sequence]]
        epsilon, alone = epsilons(paying(charges, entry.charge.account), entry.delta)
        # Another version of the accountant may differ in the third digit; what is enforced is always computed anew.
        if entry.epsilon < epsilon * 0.99 or entry.epsilon_alone < alone * 0.99:
            raise LedgerError(f"{path}: entry {entry.sequence} records less epsilon than its events cost; {RESTORE}")


def _is_less(entry: LedgerEntry, before: LedgerEntry) -> bool:
    return entry.epsilon < before.epsilon or entry.epsilon_alone < before.epsilon_alone
