"""Whether a ledger is the newest that this site knows of: as its state folder and its peers have last seen it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from client.durable import read_durable
from client.freshness import lacks_entry, read_shown
from client.ledger_chain import genesis, head_at
from client.ledger_copy import LedgerCopy
from client.ledger_marks import Marks
from client.peers_seen import PeersSeen
from common.errors import LedgerError, LedgerRolledBack, PeerError
from common.messages import Manifest, decode_reply


@dataclass(frozen=True, slots=True)
class LastSeen:
    """What the state folder says of a ledger.

    Attributes:
        sequence: Number of its entries at the last start; None if it remembers no start.
        head: Hash of the last of them, hex; empty if there was none.
        marks: What it counted then.
        manifests: Signed by this site: of rounds that are open, and what peers have shown.
    """

    sequence: int | None
    head: str
    marks: Marks
    manifests: tuple[Manifest, ...]


def last_seen(state: Path, *, hospital: str, source: str, public_key: str) -> LastSeen:
    """Read the state folder; do so before the ledger is looked at, which may grow meanwhile.

    Args:
        state: The site's state folder.
        hospital: This hospital.
        source: The ledger's source.
        public_key: The site's identity, 64 hex digits.

    Raises:
        LedgerError: If what it says cannot be read.
        SiteStorageError: If the disk refuses.
    """
    shown = PeersSeen(state).of(public_key, run="", ledger=genesis(source, public_key))
    manifests = [read_shown(one, hospital=hospital, identity=public_key).manifest for one in shown]
    for path in sorted((state / "runs").glob("*/round-*.reply-*")):
        data = read_durable(path)
        if data is None:
            continue  # its round has just ended
        try:
            manifests.append(decode_reply(data, {hospital: public_key}).manifest)
        except PeerError as error:
            raise LedgerError(f"{path}: is no reply of this site, so it says nothing; mend the state folder") from error
    sequence, head, marks = _at_last_start(state, source)
    return LastSeen(sequence, head, marks, tuple(manifests))


def require_newest(ledger: LedgerCopy, seen: LastSeen) -> None:
    """Raise LedgerRolledBack if the ledger lacks something that this site or its peers have seen in it."""
    restore = "it is an older copy: put the newest one back, or retire this data source"
    entries = ledger.entries()
    if seen.sequence and head_at(entries, seen.sequence) != seen.head:
        raise LedgerRolledBack(
            f"{ledger.path}: has {len(entries)} entries and lacks entry {seen.sequence}, which it had at the last "
            f"start of this site; {restore}"
        )
    if not seen.marks <= (ledger.marks or frozenset()):
        raise LedgerRolledBack(f"{ledger.path}: lacks images that it counted at the last start of this site; {restore}")
    lacking = max((one.ledger_sequence for one in seen.manifests if lacks_entry(ledger, one)), default=0)
    if lacking:
        raise LedgerRolledBack(
            f"{ledger.path}: has {len(entries)} entries and lacks entry {lacking}, which this site has named in a "
            f"signed message; {restore}"
        )


def _at_last_start(state: Path, source: str) -> tuple[int | None, str, Marks]:
    # The files of `client.ledger_overlap`, one for each source.
    for path in sorted((state / "counted").glob("*.json")):
        try:
            noted = json.loads(read_durable(path) or b"")
            if noted["source"] == source:
                return int(noted["sequence"]), noted["head"], frozenset(map(bytes.fromhex, noted["marks"]))
        except (ValueError, TypeError, KeyError) as error:
            raise LedgerError(f"{path}: is damaged, so it is unknown who was counted; mend the disk") from error
    return None, "", frozenset()
