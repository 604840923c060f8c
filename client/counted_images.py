"""What a ledger counts an image by: keyed marks of its bytes, and of whose it is."""

from __future__ import annotations

import hmac

from client.data.table import SiteTable
from client.ledger_marks import MARK_BYTES, Marks
from common.identity import Identity


def marks_of_images(identity: Identity, table: SiteTable) -> tuple[Marks, ...]:
    """Marks of each image or row: of what it holds, and of each patient, lesion and ISIC id that is known of it.

    Whatever the unit is: sources of different units, or with different columns of patients, find each other. A DICOM
    tag that an index overrules has the mark that it has in a source without an index. The key is
    an Ed25519 signature of a label: nobody without the site's private key can tell from a mark which image it is.

    Args:
        identity: The site's key.
        table: The images or rows, with their digests.

    Returns:
        In the table's order; each mark has 16 bytes.
    """
    key = identity.sign(b"fedward/counted/1")

    def mark(name: str) -> bytes:
        return hmac.digest(key, name.encode(), "sha256")[:MARK_BYTES]

    names = [
        {_as_patient(name) for name in (*record.ids, record.unit) if not name.startswith("sha256:")}
        for record in table.records
    ]
    ids = {name: mark(f"unit/{name}") for each in names for name in each}
    return tuple(
        frozenset((mark(f"image/{record.sha256}"), *(ids[name] for name in each)))
        for record, each in zip(table.records, names, strict=True)
    )


def _as_patient(name: str) -> str:
    return f"patient:{name.removeprefix('dicom:')}" if name.startswith("dicom:") else name
