"""The coordinator's SQLite file: fully synchronous, one writer at a time, and errors that say what to do."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from common.errors import StoreError
from common.masked_sum import Records

FILE_NAME = "store.db"
BUSY_TIMEOUT_S = 30.0
# Changed whenever older files cannot be read any more.
VERSION = 2


class Database:
    """Opens or makes the file in a folder, with the tables that its subclass needs."""

    def __init__(self, folder: Path, *, schema: str) -> None:
        """Open the file.

        Raises:
            StoreError: If the disk refuses, or the file is of another version.
        """
        self.path = folder / FILE_NAME
        with self._reporting():
            self._connection = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
            self._connection.execute("PRAGMA synchronous=FULL")
            self._check_version()
            self._connection.executescript(schema)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _check_version(self) -> None:
        (seen,) = self._connection.execute("PRAGMA user_version").fetchone()
        if seen == 0 and not self._connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
            self._connection.execute(f"PRAGMA user_version={VERSION}")
        elif seen != VERSION:
            raise StoreError(
                f"{self.path}: was written by another version of fedward (seen {seen}, {VERSION} is allowed); finish "
                "its runs with that version, then give the coordinator a new folder"
            )

    @contextlib.contextmanager
    def _opened_blob(self, table: str, column: str, row: int) -> Iterator[Records]:
        """One large value, read piece by piece."""
        with self._reporting(), self._connection.blobopen(table, column, row, readonly=True) as blob:
            yield lambda start, stop: bytes(blob[start:stop])

    def _write_blob(self, table: str, column: str, row: int | None, pieces: Iterable[bytes | memoryview]) -> None:
        """Fill a value that was inserted as `zeroblob`: bound to a statement, it would be in memory three times."""
        if row is None:
            raise StoreError(f"{self.path}: a row was not inserted; restore the file")
        with self._connection.blobopen(table, column, row) as blob:
            for piece in pieces:
                blob.write(piece)

    def _rows(self, query: str, parameters: tuple[str | int, ...]) -> list[tuple[Any, ...]]:
        with self._reporting():
            return self._connection.execute(query, parameters).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._reporting():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                # SQLite has rolled back by itself after a full disk.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(
                f"{self.path}: the store refuses ({error}); free disk space or restore the file"
            ) from error
