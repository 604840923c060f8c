"""What a data source has spent of its privacy, over all runs: charged before data is read, never refunded."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

from client.ledger_cap import Cap, Spending, epsilons_after, spending
from client.ledger_chain import head_of, read_entries
from client.ledger_entry import Charge, Kind, LedgerEntry
from client.ledger_file import create_file, explain, open_file
from client.ledger_marks import Marks, append_marks, read_marks
from common.errors import LedgerError
from common.identity import Identity

_CLOCK_SLACK_S = 300.0


class Ledger:
    """The privacy ledger of one data source of one site; held by one process at a time.

    Guarantees:
        A charge that was returned is on the disk. Epsilon of each account over all entries stays within the cap.
        A (run, round, kind) is charged once.
    """

    def __init__(  # noqa: PLR0913 -- keyword-only
        self,
        path: Path,
        *,
        hospital: str,
        source: str,
        identity: Identity,
        cap: Cap,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open the ledger, or begin it where no file is, and verify it.

        Args:
            path: SQLite file.
            hospital: Name in messages.
            source: Name of the data source; must be the one that the file was begun with.
            identity: The site's key; signs each entry.
            cap: The site's own limit.
            clock: Seconds since 1970.

        Raises:
            LedgerError: If the file is damaged, altered, read-only, held by another process, or not this site's.
            SiteStorageError: If the disk refuses.
        """
        self._path, self._hospital, self._source, self._identity = path, hospital, source, identity
        self._cap, self._clock = cap, clock
        self._lock = threading.Lock()
        self._broken = False
        create_file(path, source=source, public_key=identity.public_hex)
        self._connection = open_file(path, source=source, public_key=identity.public_hex)
        try:
            self._file = _file_at(path)
            self._entries = read_entries(self._connection, path, source=source, public_key=identity.public_hex)
            self._marks = read_marks(self._connection, path, source=source, public_key=identity.public_hex)
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def charge(self, asked: Charge) -> LedgerEntry:
        """Charge, durably, before the data is read; the same charge again is found, not paid twice.

        Returns:
            The entry: new, or the one that stands for this (run, round, kind).

        Raises:
            BudgetExceeded: If the account would pass the cap. Nothing is written.
            LedgerError: If this (run, round, kind) stands with other parameters, or the clock runs backwards.
            SiteStorageError: If the disk refuses; nothing may be trained.
        """
        with self._lock:
            self._require_sound()
            standing = self._find(asked.key)
            if standing is not None:
                return self._same(standing, asked)
            entry = self._next(asked).sealed(self._identity)
            self._append(entry)
            return entry

    def is_charged(self, *, run: str, round_number: int, kind: Kind) -> bool:
        """Whether a charge stands for this (run, round, kind)."""
        return self._find((run, round_number, kind)) is not None

    def spent(self, delta: float) -> float:
        """Epsilon spent at `delta`: the larger of the two accounts, which is what is reported."""
        return self.spending(delta).epsilon

    def spending(self, delta: float) -> Spending:
        """Epsilon of both accounts at `delta`, over all entries."""
        return spending(self._charges(), delta)

    def entries(self) -> tuple[LedgerEntry, ...]:
        """All entries, oldest first."""
        return tuple(self._entries)

    def sequence(self) -> int:
        """Number of entries."""
        return len(self._entries)

    def head(self) -> str:
        """Hash of the last entry, hex; of source and site if there is none."""
        return head_of(self._entries, source=self._source, public_key=self._identity.public_hex)

    def marks(self) -> Marks | None:
        """The marks of all images and units that this ledger has ever counted; None for one that kept none yet."""
        return self._marks

    def count(self, marks: Marks) -> None:
        """Count images and units, durably, before anything of them is charged; marks that stand are not written again.

        Raises:
            LedgerError: If a write failed before.
            SiteStorageError: If the disk refuses; nothing may be trained.
        """
        with self._lock:
            self._require_sound()
            new = marks - (self._marks or frozenset())
            if new or self._marks is None:
                append_marks(self._connection, self._path, new, source=self._source, identity=self._identity)
            self._marks = marks | (self._marks or frozenset())

    def check(self, charge: Charge) -> None:
        """Raise BudgetExceeded where `charge` would; nothing is charged."""
        if self._find(charge.key) is None:
            epsilons_after(self._charges(), charge, cap=self._cap, hospital=self._hospital)

    def _find(self, key: tuple[str, int, str]) -> LedgerEntry | None:
        return next((entry for entry in self._entries if entry.charge.key == key), None)

    def _charges(self) -> list[Charge]:
        return [entry.charge for entry in self._entries]

    def _same(self, entry: LedgerEntry, charge: Charge) -> LedgerEntry:
        if entry.charge != charge:
            raise LedgerError(
                f"{self._hospital}: {charge.kind} of round {charge.round_number} of run {charge.run} is charged "
                "already with other parameters; the same ones are allowed again; start a new run"
            )
        return entry

    def _next(self, charge: Charge) -> LedgerEntry:
        epsilon, alone = epsilons_after(self._charges(), charge, cap=self._cap, hospital=self._hospital)
        now, last = self._clock(), self._entries[-1].time if self._entries else 0.0
        if now < last - _CLOCK_SLACK_S:
            raise LedgerError(
                f"{self._hospital}: the clock is {last - now:.0f} s behind the ledger's last entry; "
                f"{_CLOCK_SLACK_S:.0f} s are allowed; set the clock right, nothing is trained until then"
            )
        # Recorded epsilons never fall, also if another version of the accountant counted the entries before.
        standing = [e for e in self._entries if e.charge.account == charge.account and e.delta == self._cap.delta]
        before = standing[-1:]
        return LedgerEntry(
            sequence=len(self._entries) + 1,
            source=self._source,
            charge=charge,
            epsilon=max([epsilon, *(entry.epsilon for entry in before)]),
            epsilon_alone=max([alone, *(entry.epsilon_alone for entry in before)]),
            delta=self._cap.delta,
            time=max(now, last),
            previous=self.head(),
        )

    def _append(self, entry: LedgerEntry) -> None:
        try:
            # One statement is one transaction: it is on the disk when `execute` returns, or it is not there at all.
            self._connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)", entry.row)
        except sqlite3.Error as error:
            # After a failed write only a new process, which reads the disk again, can know what stands there.
            self._broken = True
            raise explain(error, self._path) from error
        self._entries.append(entry)

    def _require_sound(self) -> None:
        if self._broken:
            raise LedgerError(
                f"{self._path}: a write failed before, so nothing more is charged or trained; "
                "mend the disk and start the site service again"
            )
        if _file_at(self._path) != self._file:
            # The open file has no name any more: what is written to it would be gone at the next start.
            raise LedgerError(
                f"{self._path}: was replaced or removed while the site service uses it, so nothing more is charged or "
                "trained; put back the newest ledger and start the site service again"
            )


def _file_at(path: Path) -> tuple[int, int] | None:
    """Which file has this name now, followed through links; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
