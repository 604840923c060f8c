"""One ledger per patient: refuses a ledger whose images another ledger of this site counts already.

Else a new `privacy.source`, or a new ledger file, would give the same patients a fresh budget. Looked at are the
ledgers in the same folder, and those that this site's state folder remembers from earlier starts, wherever they were.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from client.ledger import Ledger
from client.ledger_marks import Marks, read_marks
from client.ledger_starts import Start, read_starts, write_start
from common.errors import HospitalError, LedgerError, SiteStorageError

_MAGIC = b"SQLite format 3\0"


@dataclass(frozen=True, slots=True)
class Place:
    """Which ledger a site is about to use.

    Attributes:
        path: The ledger's file.
        source: Its source.
        public_key: The site's identity, 64 hex digits.
        state: The site's state folder, which remembers ledgers.
        records: What messages call what is counted.
    """

    path: Path
    source: str
    public_key: str
    state: Path
    records: Literal["images", "rows"] = "images"


@dataclass(frozen=True, slots=True)
class _Other:
    """Another ledger: where, whose, the hashes of its entries, what it counts, and whether a process holds it now."""

    path: Path
    source: str
    public_key: str
    hashes: tuple[str, ...]
    marks: Marks | None
    held: bool = False


def claim_images(ledger: Ledger, images: Sequence[Marks], *, place: Place) -> None:
    """Have this ledger count these images, durably, unless another one counts some of them.

    Args:
        ledger: The open ledger.
        images: Marks of each image (`client.counted_images`).
        place: Where it lies.

    Raises:
        LedgerError: If another ledger counts one of the images or its unit, or may do so and cannot be read; or if this
            one is not the one that this source had at its last start.
        SiteStorageError: If the disk refuses.
    """
    marks: Marks = frozenset().union(*images)
    own = place.path.resolve()
    with _one_at_a_time(own.parent):
        if ledger.marks() is None and ledger.sequence():
            # Charged by an older version: what it counts must be known to the others even if it is refused here.
            ledger.count(marks)
        hashes = tuple(entry.hash for entry in ledger.entries())
        neighbours = [each for path in _candidates(own) if (each := _look(path, place.public_key)) is not None]
        for other in (*neighbours, *_remembered(place, hashes, ledger.marks() or frozenset())):
            _refuse_overlap(other, images, place=place, hashes=hashes)
        ledger.count(marks)
        write_start(
            place.state,
            Start(
                source=place.source,
                path=own,
                public_key=place.public_key,
                sequence=len(hashes),
                head=hashes[-1] if hashes else "",
                marks=ledger.marks() or frozenset(),
            ),
        )


def _refuse_overlap(other: _Other, images: Sequence[Marks], *, place: Place, hashes: tuple[str, ...]) -> None:
    if other.public_key != place.public_key:
        raise LedgerError(
            f"{other.path}: is the ledger of another identity key, so whether it counts images of "
            f"'{place.source}' is unknown; keep each site's ledgers in a folder of their own"
        )
    if other.source == place.source:
        if other.hashes == hashes[: len(other.hashes)]:
            return  # an older copy of this very ledger: it knows nothing that this one does not
        raise LedgerError(
            f"{other.path}: is a ledger of source '{place.source}' with charges that {place.path} lacks; one ledger "
            "per source is allowed: name the complete one, and move the other away"
        )
    if not other.hashes and (other.marks is None or not other.held):
        return  # nothing was spent; and before anything is, it will look at what is counted here
    if other.marks is None:
        raise LedgerError(
            f"{other.path}: was charged by an older version and does not say which images it counts; start the site "
            f"with its source '{other.source}' once, then this one"
        )
    shared = [image for image in images if not other.marks.isdisjoint(image)]
    if shared:
        # A single mark is that of the bytes, or of what the row says.
        nameless = place.records == "rows" and any(len(row) == 1 for row in shared)
        equal = "; equal rows of nobody look like one person: name a column of patients in the mappings of both sources"
        raise LedgerError(
            f"{len(shared)} of {len(images)} {place.records} are already counted by source '{other.source}' in "
            f"{other.path}; a second ledger would give them a fresh budget: use that source and ledger, or remove "
            f"those {place.records}{equal if nameless else ''}"
        )


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Two sites that start together must not both look before either has written."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise SiteStorageError(f"{folder}: cannot be read ({error.strerror}); correct its permissions") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            raise SiteStorageError(
                f"{folder}: cannot be locked ({error.strerror}); keep ledgers on a local disk"
            ) from error
        yield
    finally:
        os.close(descriptor)


def _candidates(own: Path) -> list[Path]:
    """Files beside a ledger that are ledgers by their first bytes or should be by their name; never the ledger itself.

    Opening and closing the own file would drop the locks that this process holds on it (POSIX).
    """
    found = []
    for path in sorted(own.parent.iterdir()):
        if not path.is_file() or path.samefile(own):
            continue
        try:
            with path.open("rb") as file:
                magic = file.read(len(_MAGIC))
        except OSError as error:
            raise _unknown(path, error.strerror or "") from error
        if magic == _MAGIC:
            found.append(path)
        elif path.suffix == own.suffix and own.suffix:
            raise _unknown(path, "it is damaged or no ledger")
    return found


def _unknown(path: Path, reason: str) -> LedgerError:
    return LedgerError(
        f"{path}: cannot be read ({reason}), so whether it counts images of this source is unknown; mend it or move "
        "it away"
    )


def _look(path: Path, public_key: str) -> _Other | None:
    """What a ledger's file says; None if it is another kind of database."""
    try:
        try:
            return _read(path, public_key, held=False)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            # A running site service holds it. It has written its marks under our lock, and only adds entries now.
            return _read(path, public_key, held=True)
    except (sqlite3.Error, HospitalError, TypeError, ValueError) as error:
        raise _unknown(path, str(error)) from error


def _read(path: Path, public_key: str, *, held: bool) -> _Other | None:
    # `immutable` reads past the lock of the process that holds the file.
    address = f"file:{quote(str(path.resolve()))}?mode=ro{'&immutable=1' if held else ''}"
    with closing(sqlite3.connect(address, uri=True, timeout=0, isolation_level=None)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        if not {"ledger", "entries"} <= tables:
            return None
        source, key = connection.execute("SELECT source, public_key FROM ledger").fetchone()
        hashes = tuple(value for (value,) in connection.execute("SELECT hash FROM entries ORDER BY sequence"))
        marks = read_marks(connection, path, source=source, public_key=key) if key == public_key else None
    return _Other(path, source, key, hashes, marks, held)


def _remembered(place: Place, hashes: tuple[str, ...], own: Marks) -> Iterator[_Other]:
    """Ledgers of earlier starts with this state folder: as they are now, or, where the file is gone, as they were.

    Raises:
        LedgerError: If this source's own ledger lacks an entry or an image that it had at its last start.
    """
    for start in read_starts(place.state):
        file, then = start.path, (start.head,) if start.sequence else ()
        if start.source != place.source:
            now = _look(file, place.public_key) if file.is_file() and not file.samefile(place.path) else None
            is_it = now is not None and (now.source, now.public_key) == (start.source, start.public_key)
            yield now if now and is_it else _Other(file, start.source, start.public_key, then, start.marks, held=True)
        elif not (start.is_continued_by(hashes) and start.marks <= own):
            raise LedgerError(
                f"{place.path}: lacks entries or images that the ledger of source '{place.source}' had at its last "
                f"start, in {file}; name that ledger, or put its newest copy back, with the state folder of the same "
                "backup"
            )
