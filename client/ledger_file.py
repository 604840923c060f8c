"""The ledger's SQLite file: append-only, durable at each commit, held by one process."""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

from client.ledger_schema import ENTRIES, foreign_parts
from common.errors import FedwardError, LedgerError, SiteStorageError
from common.printable import printable

# What to do with a ledger, or what was made of one, that is not as it was written.
RESTORE = "put back ledger and state folder of the newest backup, or ask its hospital for a whole copy"
_FORMAT = 1
_MAGIC, _HEADER_BYTES = b"SQLite format 3\0", 20
_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_UNWRITABLE = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH)


def create_file(path: Path, *, source: str, public_key: str) -> None:
    """Make an empty ledger unless the file exists; it appears whole or not at all.

    Raises:
        LedgerError, SiteStorageError: If the folder cannot be written.
    """
    if path.exists():
        return
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(draft, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600))
        try:
            with closing(_connect(draft)) as connection:
                connection.executescript(f"BEGIN;{ENTRIES}PRAGMA user_version = {_FORMAT};COMMIT;")
                connection.execute("INSERT INTO ledger VALUES (?, ?)", (source, public_key))
            _publish(draft, path)
        finally:
            draft.unlink()
    except OSError as error:
        raise SiteStorageError(f"{path}: cannot be made ({error.strerror}); give the ledger a writable disk") from error
    except sqlite3.Error as error:
        raise explain(error, path) from error


def _publish(draft: Path, path: Path) -> None:
    try:
        os.link(draft, path)
    except FileExistsError:
        return  # another process made it meanwhile; the lock decides who may use it
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def open_file(path: Path, *, source: str, public_key: str) -> sqlite3.Connection:
    """Open an existing ledger for this process alone.

    Raises:
        LedgerError: If it is read-only, in WAL mode, held by another process, damaged, or of another source or site.
        SiteStorageError: If the disk refuses.
    """
    if not stat.S_IMODE(path.stat().st_mode) & stat.S_IWUSR:
        raise LedgerError(f"{path}: is read-only, so no charge can be written; make it writable for the site's user")
    _refuse_write_ahead_log(path)  # before SQLite, which would merge what it finds
    try:
        connection = _connect(path)
        try:
            _take(connection, path)
            identify(connection, path, source=source, public_key=public_key)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise explain(error, path) from error
    return connection


def refuse_wal(path: Path, data: bytes) -> None:
    """Refuse a ledger of which entries may stand in a `-wal` file: a copy of the ledger would lack them.

    Args:
        path: The ledger's file.
        data: What stands in it, at least its header; a file of another kind is left to `identify`.

    Raises:
        LedgerError: If somebody switched it to write-ahead logging, or such a file lies beside it.
    """
    header = data[:_HEADER_BYTES]
    # Versions of the file format for writers and readers: 1 is a journal of what was, 2 is write-ahead logging.
    if header.startswith(_MAGIC) and 2 in header[len(_MAGIC) + 2 :]:
        raise _in_wal_mode(path)
    _refuse_write_ahead_log(path)


def _in_wal_mode(path: Path) -> LedgerError:
    return LedgerError(
        f"{path}: was switched to SQLite's WAL mode, so a copy of it may lack charges; only mode DELETE is allowed: "
        "stop what uses it, and run PRAGMA journal_mode = DELETE on it with sqlite3"
    )


def _refuse_write_ahead_log(path: Path) -> None:
    real = path.resolve()
    if os.path.lexists(real.with_name(f"{real.name}-wal")):
        raise LedgerError(
            f"{path}: a file {real.name}-wal lies beside it, which no ledger has and SQLite would mix into it; move "
            "that file away, and have `fedward-client ledger verify` look"
        )


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    # EXTRA is FULL and a flush of the folder: without it a power cut can bring back the journal and undo a commit.
    connection.execute("PRAGMA synchronous = EXTRA")
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


def _take(connection: sqlite3.Connection, path: Path) -> None:
    """Hold the file until the connection closes, and prove that it can be written."""
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    # Asked of SQLite, not read from the file: where this process holds the ledger already, closing the file once would
    # end that lock (fcntl's locks belong to the process).
    if connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
        raise _in_wal_mode(path)
    connection.execute("BEGIN EXCLUSIVE")
    _require_format(connection, path)
    connection.execute(f"PRAGMA user_version = {_FORMAT}")
    connection.execute("COMMIT")


def _require_format(connection: sqlite3.Connection, path: Path) -> None:
    # Not closed by a raise: whoever opened the connection closes it, which undoes what it has begun.
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != _FORMAT:
        raise LedgerError(f"{path}: is no ledger of format {_FORMAT} but of {version}; {RESTORE}")


def identify(connection: sqlite3.Connection, path: Path, *, source: str | None, public_key: str) -> str:
    """Check that a ledger is whole, and whose it is.

    Args:
        connection: The open file.
        path: Its name, for messages.
        source: The source that it must have been begun with; None allows any.
        public_key: The identity that it must have been begun with, 64 hex digits.

    Returns:
        Its source.

    Raises:
        LedgerError: If the file is damaged or is no ledger, or one of another site or source.
    """
    try:
        _require_format(connection, path)
        damage = connection.execute("PRAGMA integrity_check").fetchone()[0]
        if damage != "ok":
            raise LedgerError(f"{path}: is damaged, so spending is unknown; {RESTORE}")
        foreign = foreign_parts(connection)
        if foreign:
            raise LedgerError(f"{path}: was altered, it has a '{printable(foreign[0])}' that no ledger has; {RESTORE}")
        rows = connection.execute("SELECT source, public_key FROM ledger").fetchall()
    except sqlite3.Error as error:
        raise explain(error, path) from error
    if len(rows) != 1:
        raise LedgerError(f"{path}: names {len(rows)} sites, one is allowed; {RESTORE}")
    named, key = str(rows[0][0]), str(rows[0][1])
    if key != public_key:
        raise LedgerError(
            f"{path}: was begun with the identity key {printable(key[:16])}…, not with {public_key[:16]}…; name this "
            "site's own ledger, or the key of the site that it belongs to"
        )
    if source is not None and named != source:
        raise LedgerError(
            f"{path}: is the ledger of source '{printable(named)}', the site file says '{source}'; one ledger per "
            "source: name the right one"
        )
    return named


def explain(error: sqlite3.Error, path: Path) -> FedwardError:
    """The sentence for what SQLite met."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _LOCKED:
        return LedgerError(f"{path}: is held by another process; stop the other site service of this source first")
    if code in _UNWRITABLE:
        return LedgerError(f"{path}: cannot be written, so no charge can be made; make it writable for the site's user")
    if code in _FULL:
        return SiteStorageError(f"{path}: the disk refuses ({error}); nothing is trained: free space and start again")
    return LedgerError(f"{path}: is damaged ({error}); {RESTORE}")
