"""Whether a ledger is the newest that this site knows of: as its state folder and its peers have last seen it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from client.durable import read_durable
from client.freshness import lacks_entry, read_shown
from client.ledger_chain import genesis
from client.ledger_copy import LedgerCopy
from client.ledger_starts import Start, read_starts
from client.peers_seen import PeersSeen
from common.errors import LedgerError, LedgerRolledBack, PeerError
from common.messages import Manifest, decode_reply
from common.plural import counted


@dataclass(frozen=True, slots=True)
class LastSeen:
    """What the state folder says of a ledger.

    Attributes:
        start: The ledger at its last start; None if it remembers none.
        manifests: Signed by this site and naming this ledger: of rounds that are open, and what peers have shown.
    """

    start: Start | None
    manifests: tuple[Manifest, ...]

    @property
    def anything(self) -> bool:
        """Whether there ever was such a ledger."""
        return self.start is not None or bool(self.manifests)


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
    name = genesis(source, public_key)
    shown = PeersSeen(state).of(public_key, run="", ledger=name)
    manifests = [read_shown(one, hospital=hospital, identity=public_key).manifest for one in shown]
    for path in sorted((state / "runs").glob("*/round-*.reply-*")):
        data = read_durable(path)
        if data is None:
            continue  # its round has just ended
        try:
            manifests.append(decode_reply(data, {hospital: public_key}).manifest)
        except PeerError as error:
            raise LedgerError(f"{path}: is no reply of this site, so it says nothing; mend the state folder") from error
    start = next((start for start in read_starts(state) if start.source == source), None)
    return LastSeen(start, tuple(manifest for manifest in manifests if manifest.ledger == name))


def require_newest(ledger: LedgerCopy, seen: LastSeen) -> None:
    """Raise LedgerRolledBack if the ledger lacks something that this site or its peers have seen in it."""
    restore = "it is an older copy: put the newest one back, or retire this data source"
    entries, start = ledger.entries(), seen.start
    has = f"has {counted(len(entries), 'entry', 'entries')}"
    if start and not start.is_continued_by([entry.hash for entry in entries]):
        raise LedgerRolledBack(
            f"{ledger.path}: {has} and lacks entry {start.sequence}, which it had at the last start of this site; "
            f"{restore}"
        )
    if start and not start.marks <= (ledger.marks or frozenset()):
        raise LedgerRolledBack(f"{ledger.path}: lacks images that it counted at the last start of this site; {restore}")
    lacking = max((one.ledger_sequence for one in seen.manifests if lacks_entry(ledger, one)), default=0)
    if lacking:
        raise LedgerRolledBack(
            f"{ledger.path}: {has} and lacks entry {lacking}, which this site has named in a signed message; {restore}"
        )
