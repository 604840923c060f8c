"""What the coordinator keeps of open rounds, to resume them, and of the last sum, for the hospitals to verify it.

The hospitals fix the first opening that they see, and give shares for one set of survivors. So both are on the disk
before they are sent: a coordinator that is killed goes on with the same ones.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from common.canonical import canonical_bytes
from common.errors import StoreError
from common.mask_messages import FullAdvert
from common.masked_sum import Records
from common.messages import SignedManifest, Transcript
from common.wire import header_bytes
from server.bodies import PIECE_BYTES
from server.database import Database
from server.masked_round import Opening

_SCHEMA = """
CREATE TABLE IF NOT EXISTS adverts (
    run TEXT NOT NULL, round INTEGER NOT NULL, hospital TEXT NOT NULL, advert TEXT NOT NULL,
    PRIMARY KEY (run, round, hospital));
CREATE TABLE IF NOT EXISTS openings (
    run TEXT NOT NULL, round INTEGER NOT NULL, hospitals TEXT NOT NULL, attempt INTEGER NOT NULL, survivors TEXT,
    PRIMARY KEY (run, round));
CREATE TABLE IF NOT EXISTS uploads (
    run TEXT NOT NULL, round INTEGER NOT NULL, attempt INTEGER NOT NULL, hospital TEXT NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (run, round, attempt, hospital));
CREATE TABLE IF NOT EXISTS transcripts (
    run TEXT NOT NULL, round INTEGER NOT NULL, attempt INTEGER NOT NULL, transcript TEXT NOT NULL,
    PRIMARY KEY (run, round));
"""


@dataclass(frozen=True, slots=True)
class OpenRound:
    """A round that was opened: its adverts, its last attempt, and whose shares were asked for, if they were."""

    opening: Opening
    attempt: int
    survivors: tuple[SignedManifest, ...] | None


class MaskStore(Database):
    """The masks' part of the coordinator's store, for one run."""

    def __init__(self, folder: Path, run: str) -> None:
        super().__init__(folder, schema=_SCHEMA)
        self._run = run

    def save_advert(self, full: FullAdvert) -> None:
        """Keep a hospital's advert of a round, unless the round was opened already."""
        row = (self._run, full.advert.round, full.advert.hospital, header_bytes(full).decode())
        with self._transaction():
            self._connection.execute(
                "INSERT OR REPLACE INTO adverts SELECT ?, ?, ?, ? "
                "WHERE NOT EXISTS (SELECT 1 FROM openings WHERE run = ? AND round = ?)",
                (*row, self._run, full.advert.round),
            )

    def adverts(self, round_number: int) -> dict[str, FullAdvert]:
        """The adverts of a round, by hospital."""
        query = "SELECT hospital, advert FROM adverts WHERE run = ? AND round = ?"
        rows = self._rows(query, (self._run, round_number))
        return {hospital: FullAdvert.model_validate_json(text) for hospital, text in rows}

    def open(self, round_number: int, opening: Opening, *, attempt: int) -> None:
        """Fix a round's opening, before anybody is sent it, and note its attempt."""
        row = (self._run, round_number, json.dumps(opening.hospitals), attempt)
        with self._transaction():
            self._connection.execute(
                "INSERT INTO openings VALUES (?, ?, ?, ?, NULL) "
                "ON CONFLICT (run, round) DO UPDATE SET attempt = excluded.attempt",
                row,
            )

    def opened(self, round_number: int) -> OpenRound | None:
        """The round as it was opened, or None before."""
        query = "SELECT hospitals, attempt, survivors FROM openings WHERE run = ? AND round = ?"
        rows = self._rows(query, (self._run, round_number))
        if not rows:
            return None
        hospitals, attempt, survivors = rows[0]
        adverts = self.adverts(round_number)
        named = None
        if survivors is not None:
            named = tuple(SignedManifest.model_validate(one) for one in json.loads(survivors))
        return OpenRound(Opening(tuple(adverts[name] for name in json.loads(hospitals))), attempt, named)

    def uploads(self, round_number: int, attempt: int) -> StoredUploads:
        """The admitted uploads of an attempt."""
        return StoredUploads(self, round_number, attempt)

    def save_upload(self, round_number: int, attempt: int, *, hospital: str, body: bytes | memoryview) -> None:
        """Keep an admitted upload."""
        with self._transaction():
            row = (self._run, round_number, attempt, hospital, len(body))
            query = "INSERT OR REPLACE INTO uploads VALUES (?, ?, ?, ?, zeroblob(?))"
            added = self._connection.execute(query, row).lastrowid
            pieces = (body[start : start + PIECE_BYTES] for start in range(0, len(body), PIECE_BYTES))
            self._write_blob("uploads", "body", added, pieces)

    def opened_upload(self, round_number: int, attempt: int, *, hospital: str) -> AbstractContextManager[Records]:
        """Read an upload that was kept, piece by piece."""
        return self._opened_blob("uploads", "body", self._upload_row(round_number, attempt, hospital))

    def _upload_row(self, round_number: int, attempt: int, hospital: str) -> int:
        query = "SELECT rowid FROM uploads WHERE run = ? AND round = ? AND attempt = ? AND hospital = ?"
        rows = self._rows(query, (self._run, round_number, attempt, hospital))
        if not rows:
            raise StoreError(f"{self.path}: holds no upload of {hospital} for round {round_number}; restore a backup")
        return int(rows[0][0])

    def ask_for(self, round_number: int, survivors: tuple[SignedManifest, ...]) -> None:
        """Fix a round's survivors, before anybody is asked for shares."""
        text = canonical_bytes([signed.model_dump(mode="json") for signed in survivors]).decode()
        with self._transaction():
            self._connection.execute(
                "UPDATE openings SET survivors = ? WHERE run = ? AND round = ?", (text, self._run, round_number)
            )

    def save_transcript(self, round_number: int, attempt: int, transcript: Transcript) -> None:
        """Keep what a round's sum is verified with."""
        row = (self._run, round_number, attempt, header_bytes(transcript).decode())
        with self._transaction():
            self._connection.execute("INSERT OR REPLACE INTO transcripts VALUES (?, ?, ?, ?)", row)

    def drop_transcript(self, round_number: int) -> None:
        """Remove what a round's sum would be verified with, if it was saved before the round was skipped after all."""
        with self._transaction():
            self._connection.execute("DELETE FROM transcripts WHERE run = ? AND round = ?", (self._run, round_number))

    def transcript(self, round_number: int) -> Transcript | None:
        """What `save_transcript` kept; None for a round before the last sum."""
        query = "SELECT transcript FROM transcripts WHERE run = ? AND round = ?"
        rows = self._rows(query, (self._run, round_number))
        return Transcript.model_validate_json(rows[0][0]) if rows else None

    def last_sum(self, last: int) -> int | None:
        """The last round up to `last` that has a transcript, and so a sum; None if there is none."""
        query = "SELECT MAX(round) FROM transcripts WHERE run = ? AND round <= ?"
        number: int | None = self._rows(query, (self._run, last))[0][0]
        return number

    def forget(self) -> None:
        """Remove what is needed no more: all of the rounds before the last sum."""
        with self._transaction():
            for table in ("adverts", "openings", "uploads", "transcripts"):
                self._connection.execute(
                    f"DELETE FROM {table} WHERE run = ? AND round < "  # noqa: S608 -- the constants above
                    "(SELECT MAX(round) FROM transcripts WHERE run = ?)",
                    (self._run, self._run),
                )


@dataclass(frozen=True, slots=True)
class StoredUploads:
    """The uploads of one attempt, on the disk: none is in memory when the next one comes."""

    masks: MaskStore
    round: int
    attempt: int

    def keep(self, hospital: str, body: bytes | memoryview) -> None:
        """Save it."""
        self.masks.save_upload(self.round, self.attempt, hospital=hospital, body=body)

    def open(self, hospital: str) -> AbstractContextManager[Records]:
        """Read it piece by piece."""
        return self.masks.opened_upload(self.round, self.attempt, hospital=hospital)
