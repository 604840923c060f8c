"""A ledger's entries as text, JSON lines or CSV: each line can be read by itself, and verified with a public key."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from client.ledger_chain import check_chain
from client.ledger_entry import LedgerEntry, parse_entry
from common.errors import LedgerError

COLUMNS = (
    *("sequence", "time", "source", "run", "round", "kind", "mode", "shares", "q", "sigma", "clip", "steps"),
    *("epsilon", "epsilon_alone", "delta", "plan_hash", "units_digest", "held_out_rule", "previous"),
    *("body", "hash", "signature"),
)
"""`body` is what is hashed; the columns before it say the same for people and programs."""


def when(entry: LedgerEntry) -> str:
    """An entry's time, UTC, ISO 8601, to the second."""
    return dt.datetime.fromtimestamp(entry.time, dt.UTC).isoformat(timespec="seconds")


def row_of(entry: LedgerEntry) -> dict[str, Any]:
    """An entry's line."""
    charge = entry.charge
    values = (
        *(entry.sequence, when(entry), entry.source, charge.run, charge.round_number, charge.kind, charge.mode),
        *(charge.shares, charge.event.q, charge.event.sigma, charge.clip, charge.event.steps),
        *(entry.epsilon, entry.epsilon_alone, entry.delta, charge.plan_hash, charge.units_digest),
        *(charge.held_out_rule, entry.previous, entry.body.decode("ascii"), entry.hash, entry.signature),
    )
    return dict(zip(COLUMNS, values, strict=True))


def export_entries(entries: Sequence[LedgerEntry], *, as_csv: bool) -> bytes:
    """All entries, oldest first, one a line; as CSV with a head line, else as JSON objects."""
    rows = [row_of(entry) for entry in entries]
    text = io.StringIO(newline="")
    if as_csv:
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        text.writelines(json.dumps(row) + "\n" for row in rows)
    return text.getvalue().encode()


def read_export(path: Path, *, public_key: str, as_csv: bool) -> list[LedgerEntry]:
    """The entries of an exported file, verified like those of the ledger, each column against what is signed.

    Args:
        path: The file.
        public_key: Whose ledger it must be, 64 hex digits.
        as_csv: As it was written.

    Raises:
        LedgerError: If a line is none, was altered, or is out of its place.
        OSError: If it cannot be read.
    """
    rows = list(_rows(path, as_csv=as_csv))
    entries = [
        parse_entry(_text(row, "body"), _text(row, "hash"), signature=_text(row, "signature"), public_key=public_key)
        for row in rows
    ]
    for number, (row, entry) in enumerate(zip(rows, entries, strict=True), start=1):
        signed = row_of(entry)
        if row != ({name: str(value) for name, value in signed.items()} if as_csv else signed):
            raise LedgerError(
                f"{path}: line {number} says something else than what is signed in it, so it was altered; export it "
                "anew"
            )
    return check_chain(
        [entry.row for entry in entries], path, source=entries[0].source if entries else "", public_key=public_key
    )


def _rows(path: Path, *, as_csv: bool) -> Iterable[Mapping[str, Any]]:
    try:
        text = path.read_bytes().decode("ascii")
        if not as_csv:
            yield from (json.loads(line) for line in text.splitlines())
            return
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise LedgerError(f"{path}: its head line is not that of an exported ledger; name one, or export it anew")
        yield from reader
    except (ValueError, RecursionError, csv.Error) as error:
        raise LedgerError(f"{path}: is no exported ledger, or damaged; export it anew") from error


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name) if isinstance(row, Mapping) else None
    return value if isinstance(value, str) else ""
