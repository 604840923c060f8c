"""What a ledger's SQLite file consists of, and that it consists of nothing else."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import cache

ENTRIES = """
CREATE TABLE ledger (source TEXT NOT NULL, public_key TEXT NOT NULL) STRICT;
CREATE TABLE entries (
    sequence INTEGER PRIMARY KEY,
    run TEXT NOT NULL,
    round INTEGER NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,
    hash TEXT NOT NULL,
    signature TEXT NOT NULL,
    UNIQUE (run, round, kind)
) STRICT;
CREATE TRIGGER ledger_update BEFORE UPDATE ON ledger BEGIN SELECT RAISE(ABORT, 'append-only'); END;
CREATE TRIGGER ledger_delete BEFORE DELETE ON ledger BEGIN SELECT RAISE(ABORT, 'append-only'); END;
CREATE TRIGGER entries_update BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'append-only'); END;
CREATE TRIGGER entries_delete BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'append-only'); END;
"""
# Files of older versions gain it with the first marks (`client.ledger_marks`).
COUNTED = (
    "CREATE TABLE IF NOT EXISTS counted (batch INTEGER PRIMARY KEY, marks BLOB NOT NULL, signature TEXT NOT NULL)",
    *(
        f"CREATE TRIGGER IF NOT EXISTS counted_{verb} BEFORE {verb} ON counted"
        " BEGIN SELECT RAISE(ABORT, 'append-only'); END"
        for verb in ("UPDATE", "DELETE")
    ),
)


def foreign_parts(connection: sqlite3.Connection) -> tuple[str, ...]:
    """Names of tables, triggers, views and indexes that no version of fedward has made, or not like this.

    A trigger can make an entry that was written vanish: hashes and signatures tell of what stands there only. Triggers
    that are missing are not told: what they keep from happening, hashes and signatures find.

    Raises:
        sqlite3.Error: If the file cannot be read.
    """
    seen = connection.execute("SELECT name, sql FROM sqlite_schema ORDER BY name").fetchall()
    known = _made()
    return tuple(str(name) for name, sql in seen if known.get(name, "") != sql)


@cache
def _made() -> dict[str, str | None]:
    """What SQLite itself says of the parts, by name; None for an index that it makes of a constraint."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(";".join((ENTRIES, *COUNTED)))
        return dict(connection.execute("SELECT name, sql FROM sqlite_schema").fetchall())
