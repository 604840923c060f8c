"""The coordinator's durable store: runs, encrypted aggregates, what each hospital did."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from common.errors import ConfigError, StoreError
from common.messages import AggregateEntry, Kind
from common.wire import header_bytes
from server.aggregate import Aggregate
from server.bodies import StoredBody, pieces_of
from server.key_store import KEY_SCHEMA, KeyStore

RunState = Literal["running", "finished", "stopped"]
OutcomeKind = Literal["contributed", "observed", "answered", "failed", "late", "diverged", "catching-up", "absent"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    run TEXT PRIMARY KEY, plan_digest TEXT NOT NULL, plan TEXT NOT NULL, started REAL NOT NULL,
    state TEXT NOT NULL, reason TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS exchanges (
    run TEXT NOT NULL REFERENCES runs(run), round INTEGER NOT NULL, attempt INTEGER NOT NULL, kind TEXT NOT NULL,
    seconds REAL NOT NULL, outcomes TEXT NOT NULL, entry TEXT, body BLOB, PRIMARY KEY (run, round, attempt, kind));
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one hospital did in one exchange.

    Args:
        hospital: Its name.
        outcome: contributed: its upload is in the sum; observed: it answered without one; answered: it sent its
            advert or shares; failed: it, its gateway or
            the admission refused; late: no answer in time; diverged: it holds another model; catching-up: it was not
            asked, for it is still being sent what it missed; absent: not connected.
        code: Name of the error behind observed, failed or catching-up, or empty.
        up_bytes: Bytes of its reply.
        down_bytes: Bytes of the request to it.
        seconds: From opening to its reply.
    """

    hospital: str
    outcome: OutcomeKind
    code: str
    up_bytes: int
    down_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request to all hospitals and what came back; `complete` if its aggregate (if any is due) exists."""

    round: int
    attempt: int
    kind: Kind
    seconds: float
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """One run as the store knows it; `started` is Unix time."""

    run: str
    plan_digest: str
    plan_json: str
    started: float
    state: RunState
    reason: str


class Store(KeyStore):
    """Opens or makes the store in a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, schema=_SCHEMA + KEY_SCHEMA)

    def begin(self, run: str, *, plan_digest: str, plan_json: str, now: float) -> None:
        """Record a run as running, or take up one that was interrupted.

        Raises:
            ConfigError: If the run exists with another plan, or is finished.
            StoreError: If the disk refuses.
        """
        with self._transaction():
            self.check(run, plan_digest=plan_digest)
            row = (run, plan_digest, plan_json, now)
            self._connection.execute(
                "INSERT INTO runs VALUES (?, ?, ?, ?, 'running', '') "
                "ON CONFLICT (run) DO UPDATE SET state = 'running', reason = ''",
                row,
            )

    def check(self, run: str, *, plan_digest: str) -> None:
        """Refuse a run that cannot be begun or taken up.

        Raises:
            ConfigError: If the run exists with another plan, or is finished.
        """
        known = self.run(run)
        if known is not None and known.plan_digest != plan_digest:
            raise ConfigError(f"run {run} belongs to another plan; resume it with its own plan, or start a new run")
        if known is not None and known.state == "finished":
            raise ConfigError(f"run {run} is finished; start a new run")

    def end(self, run: str, state: RunState, *, reason: str) -> None:
        """Record how a run ended."""
        with self._transaction():
            self._connection.execute("UPDATE runs SET state = ?, reason = ? WHERE run = ?", (state, reason, run))

    def save(self, run: str, exchange: Exchange, aggregate: Aggregate | None) -> None:
        """Record an exchange and its aggregate in one transaction; it is on the disk when this returns.

        Raises:
            StoreError: If the disk refuses; nothing of the exchange is kept then.
        """
        outcomes = json.dumps([asdict(outcome) for outcome in exchange.outcomes])
        entry = header_bytes(aggregate.entry).decode() if aggregate else None
        size = aggregate.content.size_bytes if aggregate else None
        row = (run, exchange.round, exchange.attempt, exchange.kind, exchange.seconds, outcomes, entry, size)
        with self._transaction():
            # An attempt of a run that was interrupted may be asked for again.
            query = "INSERT OR REPLACE INTO exchanges VALUES (?, ?, ?, ?, ?, ?, ?, zeroblob(?))"
            added = self._connection.execute(query, row).lastrowid
            if aggregate and size:
                self._write_blob("exchanges", "body", added, pieces_of(aggregate.content))

    def run(self, run: str) -> Run | None:
        """One run, or None."""
        rows = self._rows("SELECT * FROM runs WHERE run = ?", (run,))
        return Run(*rows[0]) if rows else None

    def runs(self) -> tuple[Run, ...]:
        """All runs, oldest first."""
        return tuple(Run(*row) for row in self._rows("SELECT * FROM runs ORDER BY started", ()))

    def exchanges(self, run: str) -> tuple[Exchange, ...]:
        """All exchanges of a run in their order."""
        query = (
            "SELECT round, attempt, kind, seconds, outcomes FROM exchanges WHERE run = ? ORDER BY round, attempt, "
            "CASE kind WHEN 'keys' THEN 0 WHEN 'verify' THEN 2 WHEN 'unmask' THEN 3 WHEN 'finish' THEN 4 ELSE 1 END"
        )
        return tuple(
            Exchange(number, attempt, kind, seconds, tuple(Outcome(**item) for item in json.loads(outcomes)))
            for number, attempt, kind, seconds, outcomes in self._rows(query, (run,))
        )

    def last_complete_round(self, run: str) -> int:
        """Number of the last round that is over, with a sum or skipped; 0 before any."""
        query = "SELECT COALESCE(MAX(round), 0) FROM exchanges WHERE run = ? AND entry IS NOT NULL"
        return int(self._rows(query, (run,))[0][0])

    def sizes(self, run: str, first: int, last: int) -> tuple[tuple[int, int], ...]:
        """Bytes of entry and body of the aggregates of rounds `first` to `last`, both included, in order."""
        query = "SELECT length(entry), length(body) FROM exchanges WHERE run = ? AND entry IS NOT NULL "
        return tuple(self._rows(query + "AND round BETWEEN ? AND ? ORDER BY round", (run, first, last)))

    def entries(self, run: str, first: int, last: int) -> tuple[AggregateEntry, ...]:
        """The aggregates of rounds `first` to `last` without their bodies.

        Raises:
            StoreError: If one of them is missing.
        """
        return tuple(AggregateEntry.model_validate_json(entry) for entry, _ in self._entries(run, first, last))

    def bodies(self, run: str, first: int, last: int) -> tuple[StoredBody, ...]:
        """Their bodies, none of which is read yet.

        Raises:
            StoreError: If one of them is missing.
        """
        rows = zip(self._entries(run, first, last), self.sizes(run, first, last), strict=True)
        return tuple(
            StoredBody(size, partial(self._opened_blob, "exchanges", "body", row)) for (_, row), (_, size) in rows
        )

    def _entries(self, run: str, first: int, last: int) -> list[tuple[str, int]]:
        """Entry and row of each."""
        query = "SELECT entry, rowid FROM exchanges WHERE run = ? AND entry IS NOT NULL AND round BETWEEN ? AND ? "
        rows = self._rows(query + "ORDER BY round", (run, first, last))
        if len(rows) != max(0, last - first + 1):
            raise StoreError(f"{self.path}: holds {len(rows)} of the rounds {first} to {last}; restore a backup")
        return [(entry, row) for entry, row in rows]
