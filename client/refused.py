"""Counts the aggregates that failed after decryption, so that refusals cannot be used to learn the CKKS key.

Whoever may ask again and again whether a chosen ciphertext decrypts near the grid learns the noise bit by bit, and
noise gives the key away (Li and Micciancio, 2021, IACR ePrint 2020/1533). Honest aggregates fail about never, so a few
failures end the key's life; the same aggregate again tells nothing new and is not decrypted a second time.
"""

from __future__ import annotations

from pathlib import Path

from client.durable import read_durable, write_durably
from common.errors import DecryptionError, EpochClosed

MOST_REFUSED = 3


class RefusedAggregates:
    """The roots of the aggregates that one epoch's key has refused, in one file of the site's state folder."""

    def __init__(self, folder: Path, *, key_name: str) -> None:
        """Open the file of one key.

        Args:
            folder: The site's state folder.
            key_name: Names the key and gives nothing away: the digest of something derived from it, hex.
        """
        self._path = folder / f"refused-{key_name[:16]}"

    def check(self, root: str) -> None:
        """Call before an aggregate is decrypted.

        Args:
            root: Digest of the aggregate's bytes, hex.

        Raises:
            DecryptionError: If this very aggregate was refused before.
            EpochClosed: If this key has refused too many others.
            SiteStorageError: If the disk refuses.
        """
        refused = self._roots()
        if root in refused:
            raise DecryptionError("an aggregate that was refused before comes again; it stays refused")
        if len(refused) >= MOST_REFUSED:
            raise EpochClosed(
                f"{len(refused)} aggregates failed after decryption, {MOST_REFUSED} are allowed per key; more could "
                "give the key away: hold a key ceremony for a new epoch, and find out who sent them"
            )

    def add(self, root: str) -> None:
        """Note a refused aggregate, durably, before the refusal is told to anybody."""
        write_durably(self._path, "\n".join([*self._roots(), root]).encode())

    def _roots(self) -> list[str]:
        return (read_durable(self._path) or b"").decode("ascii", errors="replace").split()
