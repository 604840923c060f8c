"""The keys' part of the coordinator's store: sealed deals, confirmations, and which key serves from which round on."""

from __future__ import annotations

import json

from common.canonical import canonical_bytes
from common.messages import SignedManifest
from server.database import Database

KEY_SCHEMA = """
CREATE TABLE IF NOT EXISTS deals (
    plan_digest TEXT NOT NULL, epoch INTEGER NOT NULL, deal BLOB NOT NULL, PRIMARY KEY (plan_digest, epoch));
CREATE TABLE IF NOT EXISTS confirmations (
    plan_digest TEXT NOT NULL, epoch INTEGER NOT NULL, hospital TEXT NOT NULL, confirmation BLOB NOT NULL,
    PRIMARY KEY (plan_digest, epoch, hospital));
CREATE TABLE IF NOT EXISTS epochs (
    run TEXT NOT NULL, first_round INTEGER NOT NULL, epoch INTEGER NOT NULL, PRIMARY KEY (run, epoch));
CREATE TABLE IF NOT EXISTS rotations (
    run TEXT NOT NULL, asked_by TEXT NOT NULL, done INTEGER NOT NULL, PRIMARY KEY (run, asked_by));
CREATE TABLE IF NOT EXISTS pauses (run TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS checkpoints (run TEXT PRIMARY KEY, checkpoint BLOB NOT NULL, vouchers TEXT NOT NULL);
"""
OPERATOR = "the operator"


class KeyStore(Database):
    """What is kept of the hospitals' CKKS keys; nothing of it opens anything here."""

    def save_deal(self, plan_digest: str, epoch: int, deal: bytes) -> None:
        """Keep the sealed CKKS key of a plan's epoch, as its dealer signed it."""
        with self._transaction():
            self._connection.execute("INSERT OR IGNORE INTO deals VALUES (?, ?, ?)", (plan_digest, epoch, deal))

    def deal(self, plan_digest: str, epoch: int) -> bytes | None:
        """The sealed key of an epoch, or None before its ceremony."""
        rows = self._rows("SELECT deal FROM deals WHERE plan_digest = ? AND epoch = ?", (plan_digest, epoch))
        return bytes(rows[0][0]) if rows else None

    def save_confirmation(self, plan_digest: str, epoch: int, *, hospital: str, confirmation: bytes) -> None:
        """Keep what a hospital that holds the key signed about it; its first one stays."""
        with self._transaction():
            row = (plan_digest, epoch, hospital, confirmation)
            self._connection.execute("INSERT OR IGNORE INTO confirmations VALUES (?, ?, ?, ?)", row)

    def confirmations(self, plan_digest: str, epoch: int) -> dict[str, bytes]:
        """The confirmations of an epoch's key, by hospital."""
        query = "SELECT hospital, confirmation FROM confirmations WHERE plan_digest = ? AND epoch = ?"
        return {hospital: bytes(data) for hospital, data in self._rows(query, (plan_digest, epoch))}

    def epochs(self, run: str) -> tuple[tuple[int, int], ...]:
        """First round and number of each key that a run was given after its first, in order."""
        rows = self._rows("SELECT first_round, epoch FROM epochs WHERE run = ? ORDER BY epoch", (run,))
        return tuple((int(first), int(epoch)) for first, epoch in rows)

    def begin_epoch(self, run: str, epoch: int, *, first_round: int) -> None:
        """Note that a key serves from a round on; whoever asked for a new one has it now."""
        with self._transaction():
            self._connection.execute("INSERT INTO epochs VALUES (?, ?, ?)", (run, first_round, epoch))
            self._connection.execute("UPDATE rotations SET done = 1 WHERE run = ?", (run,))

    def ask_rotation(self, run: str, by: str) -> None:
        """Ask for a new key from the next round on: the operator as often as he likes, a hospital once in a run."""
        again = 0 if by == OPERATOR else 1
        with self._transaction():
            self._connection.execute(
                "INSERT INTO rotations VALUES (?, ?, 0) ON CONFLICT (run, asked_by) DO UPDATE SET done = MIN(done, ?)",
                (run, by, again),
            )

    def ask_pause(self, run: str) -> None:
        """Ask for the end of a run's work after its round."""
        with self._transaction():
            self._connection.execute("INSERT OR IGNORE INTO pauses VALUES (?)", (run,))

    def take_pause(self, run: str) -> bool:
        """Whether a pause was asked for; it is not any more then."""
        asked = bool(self._rows("SELECT 1 FROM pauses WHERE run = ?", (run,)))
        if asked:
            with self._transaction():
                self._connection.execute("DELETE FROM pauses WHERE run = ?", (run,))
        return asked

    def save_checkpoint(self, run: str, checkpoint: bytes, vouchers: tuple[SignedManifest, ...]) -> None:
        """Keep the sealed model that a run begins with, and the manifests that vouch for it."""
        text = canonical_bytes([signed.model_dump(mode="json") for signed in vouchers]).decode()
        with self._transaction():
            self._connection.execute("INSERT OR IGNORE INTO checkpoints VALUES (?, ?, ?)", (run, checkpoint, text))

    def checkpoint(self, run: str) -> tuple[bytes, tuple[SignedManifest, ...]] | None:
        """What `save_checkpoint` kept, or None."""
        rows = self._rows("SELECT checkpoint, vouchers FROM checkpoints WHERE run = ?", (run,))
        if not rows:
            return None
        checkpoint, vouchers = rows[0]
        return bytes(checkpoint), tuple(SignedManifest.model_validate(one) for one in json.loads(vouchers))

    def rotation_is_asked(self, run: str) -> bool:
        """Whether somebody waits for a new key."""
        return bool(self._rows("SELECT 1 FROM rotations WHERE run = ? AND done = 0", (run,)))
