"""What this site has seen of each hospital, and what peers have shown it of itself: kept over runs and restarts.

A peer that was restored from an old copy asks for it (see `client.freshness`). Kept are the hospital's own signed
manifests, so nobody can be made to look rolled back by a lie.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import Field, ValidationError

from client.durable import read_durable, write_durably
from common.errors import BadSignature, SiteStorageError
from common.freshness_messages import MAX_SEEN_BYTES, SeenManifest
from common.messages import REPLY_MAGIC, UPLOAD_KINDS, SignedManifest
from common.wire import Counter, Hex32, Hex64, Wire, frame, header_bytes

FILE = "peers-seen.json"
UPLOADING = UPLOAD_KINDS
"""Kinds of replies that a hospital keeps until their round is over, so that it knows them."""
# A hospital charges one ledger and takes part in one run at a time; of each the newest are kept.
_LEDGERS_KEPT = 8
_RUNS_KEPT = 4


class _Place(Wire):
    """The furthest manifest of its kind: by ledger entries, or by round and attempt."""

    at: tuple[Counter, Counter] = Field(strict=False)
    manifest: SeenManifest


class _Seen(Wire):
    ledgers: dict[Hex64, _Place]
    runs: dict[Hex32, _Place]


class _File(Wire):
    hospitals: dict[Hex64, _Seen] = Field(description="by public identity key")


class PeersSeen:
    """The file of a site's state folder; it is read anew each time, since a backup may be restored under a process."""

    def __init__(self, state: Path) -> None:
        self._path = state / FILE

    def note(self, manifests: Iterable[SignedManifest], identities: Mapping[str, str]) -> None:
        """Remember what these show, durably, before anything is answered that rests on them.

        Args:
            manifests: From the coordinator; those that are not signed by their hospital are passed over here, and
                refused by whatever relies on them.
            identities: Public key, hex, of each hospital.

        Raises:
            SiteStorageError: If the disk refuses or the file is damaged.
        """
        before = self._load()
        hospitals = dict(before.hospitals)
        for signed in manifests:
            identity = identities.get(signed.manifest.hospital)
            if identity is None:
                continue
            known = hospitals.get(identity, _Seen(ledgers={}, runs={}))
            grown = _with(known, signed)
            if grown != known and _is_genuine(signed, identity):
                hospitals[identity] = grown
        if hospitals != before.hospitals:
            write_durably(self._path, _File(hospitals=hospitals).model_dump_json().encode())

    def of(self, identity: str, *, run: str, ledger: str) -> tuple[str, ...]:
        """The manifests of a hospital that went furthest in a ledger and in a run, as frames, hex; none: nothing seen.

        Raises:
            SiteStorageError: If the disk refuses or the file is damaged.
        """
        seen = self._load().hospitals.get(identity)
        if seen is None:
            return ()
        places = (seen.ledgers.get(ledger), seen.runs.get(run))
        return tuple(dict.fromkeys(place.manifest for place in places if place is not None))

    def _load(self) -> _File:
        data = read_durable(self._path)
        if data is None:
            return _File(hospitals={})
        try:
            return _File.model_validate_json(data)
        except ValidationError as error:
            raise SiteStorageError(
                f"{self._path}: is damaged, so it is unknown what was seen of the other hospitals; restore the state "
                "folder, or remove the file if they were not restored from a backup since"
            ) from error


def _with(known: _Seen, signed: SignedManifest) -> _Seen:
    """What is known after this manifest; unchanged if it shows nothing new."""
    manifest = signed.manifest
    data = frame(REPLY_MAGIC, header_bytes(manifest), bytes.fromhex(signed.signature), b"")
    if len(data) > MAX_SEEN_BYTES:
        return known
    entries, step = (manifest.ledger_sequence, 0), (manifest.round, manifest.attempt)
    ledgers, runs = dict(known.ledgers), dict(known.runs)
    _advance(ledgers, manifest.ledger, _Place(at=entries, manifest=data.hex()), most=_LEDGERS_KEPT)
    if manifest.kind in UPLOADING:
        _advance(runs, manifest.run, _Place(at=step, manifest=data.hex()), most=_RUNS_KEPT)
    return _Seen(ledgers=ledgers, runs=runs)


def _advance(places: dict[str, _Place], key: str, place: _Place, *, most: int) -> None:
    if key in places and places[key].at >= place.at:
        return
    places.pop(key, None)
    places[key] = place
    for oldest in list(places)[:-most]:
        del places[oldest]


def _is_genuine(signed: SignedManifest, identity: str) -> bool:
    try:
        signed.check(identity)
    except BadSignature:
        return False
    return True
