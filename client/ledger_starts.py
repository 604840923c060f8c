"""What a site's state folder remembers of its ledgers: how far each source's was, and whom it counted, at a start."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from client.durable import read_durable, write_durably
from client.ledger_marks import Marks
from common.errors import LedgerError, SiteStorageError

_FOLDER = "counted"


@dataclass(frozen=True, slots=True)
class Start:
    """A ledger as it was when the site service was last started with it.

    Attributes:
        source: Its source.
        path: Its file, absolute.
        public_key: The identity that signs it, 64 hex digits.
        sequence: Number of its entries.
        head: Hash of the last of them, hex; empty if there was none.
        marks: Whom it counted.
    """

    source: str
    path: Path
    public_key: str
    sequence: int
    head: str
    marks: Marks

    def is_continued_by(self, hashes: Sequence[str]) -> bool:
        """Whether a ledger whose entries have these hashes, oldest first, holds the entries of that start."""
        return not self.sequence or list(hashes[self.sequence - 1 : self.sequence]) == [self.head]


def read_starts(state: Path) -> Iterator[Start]:
    """The last start of each source, by the files' names.

    Raises:
        LedgerError: If a file is damaged.
        SiteStorageError: If the disk refuses.
    """
    for path in sorted((state / _FOLDER).glob("*.json")):
        try:
            noted = json.loads(read_durable(path) or b"")
            yield Start(
                source=str(noted["source"]),
                path=Path(noted["path"]),
                public_key=str(noted["public_key"]),
                sequence=int(noted["sequence"]),
                head=str(noted["head"]),
                marks=frozenset(bytes.fromhex(mark) for mark in noted["marks"]),
            )
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise LedgerError(
                f"{path}: is damaged, so it is unknown who was counted; put back ledger and state folder of the newest "
                "backup"
            ) from error


def write_start(state: Path, start: Start) -> None:
    """Remember a start, durably, in the place of its source's last one.

    Raises:
        SiteStorageError: If the disk refuses.
    """
    folder = state / _FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise SiteStorageError(f"{folder}: cannot be made ({error.strerror}); give the state a folder") from error
    noted = {
        "source": start.source,
        "path": str(start.path),
        "public_key": start.public_key,
        "sequence": start.sequence,
        "head": start.head,
        "marks": sorted(mark.hex() for mark in start.marks),
    }
    name = hashlib.sha256(start.source.encode()).hexdigest()[:16]
    write_durably(folder / f"{name}.json", json.dumps(noted).encode())
