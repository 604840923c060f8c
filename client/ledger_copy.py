"""A look at a ledger that disturbs nobody: a copy of its file is verified, whoever holds the file meanwhile."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from client.ledger_chain import head_of, read_entries
from client.ledger_entry import LedgerEntry
from client.ledger_file import explain, identify, refuse_wal
from client.ledger_marks import Marks, read_marks
from common.errors import LedgerError

# The site service writes for milliseconds in each round.
_TRIES = 100
_PAUSE_S = 0.02


@dataclass(frozen=True, slots=True)
class LedgerCopy:
    """What stood in a ledger at one moment, verified.

    Attributes:
        path: The ledger's file.
        source: Its source.
        public_key: The identity that signed it, 64 hex digits.
        chain: All entries, oldest first.
        marks: Of the images and units that it counts; None if it keeps none.
    """

    path: Path
    source: str
    public_key: str
    chain: tuple[LedgerEntry, ...]
    marks: Marks | None

    def entries(self) -> tuple[LedgerEntry, ...]:
        """All entries, oldest first."""
        return self.chain

    def head(self) -> str:
        """Hash of the last entry, hex; of source and site if there is none."""
        return head_of(self.chain, source=self.source, public_key=self.public_key)


def copy_ledger(path: Path, *, public_key: str, source: str | None = None) -> LedgerCopy:
    """Read and verify a ledger without its lock and without changing it, also while a site service holds it.

    Args:
        path: SQLite file, or a copy of one.
        public_key: Whose it must be, 64 hex digits.
        source: The source that it must be of; None allows any.

    Raises:
        LedgerError: If there is none, or it is damaged, altered, in WAL mode, of another site or source, or changes all
            the time.
        OSError: If it cannot be read.
    """
    data, journal = agreed_look(lambda: _look(path.resolve()), path, pause_s=_PAUSE_S)
    refuse_wal(path, data)
    # SQLite would wait for the lock of whoever holds the file. Its own copy it may also repair: what a killed site
    # service has left half written is undone there by the journal, as at the service's next start.
    with tempfile.TemporaryDirectory(prefix="fedward-ledger-") as folder:
        copy = Path(folder) / "copy.sqlite"
        copy.write_bytes(data)
        if journal:
            _journal(copy).write_bytes(journal)
        try:
            with closing(sqlite3.connect(copy, isolation_level=None)) as connection:
                connection.execute("PRAGMA trusted_schema = OFF")
                named = identify(connection, path, source=source, public_key=public_key)
                entries = read_entries(connection, path, source=named, public_key=public_key)
                marks = read_marks(connection, path, source=named, public_key=public_key)
        except sqlite3.Error as error:
            raise explain(error, path) from error
    return LedgerCopy(path, named, public_key, tuple(entries), marks)


def agreed_look(look: Callable[[], tuple[bytes, bytes]], path: Path, *, pause_s: float) -> tuple[bytes, bytes]:
    """File and journal as they stood at one moment: as two looks in a row have seen them.

    Args:
        look: Reads both.
        path: The file's name, for messages.
        pause_s: Between two looks that differ, seconds.

    Raises:
        LedgerError: If no two looks agree.
    """
    seen = look()
    for _ in range(_TRIES):
        again = look()
        if again == seen:
            return seen
        seen = again
        time.sleep(pause_s)
    raise LedgerError(f"{path}: changes while it is read; try again when the site does not write to it")


def _look(path: Path) -> tuple[bytes, bytes]:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise LedgerError(
            f"{path}: is not there; the site makes its ledger at its first start, later it must never be gone: "
            "put its newest copy back"
        ) from error
    try:
        return data, _journal(path).read_bytes()
    except FileNotFoundError:
        return data, b""


def _journal(path: Path) -> Path:
    return path.with_name(f"{path.name}-journal")
