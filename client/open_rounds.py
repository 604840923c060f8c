"""What rounds need on the site's disk while they are open; it is erased when they are applied or skipped."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from client.run_folder import RunFolder

_MADE = b"made"


@dataclass(frozen=True, slots=True)
class GivenReveal:
    """Shares that were given: for which attempt and survivors (their digest), and the reply's bytes."""

    attempt: int
    survivors: str
    reply: bytes


class OpenRounds(RunFolder):
    """A round's marker, mask secrets, opening, update, replies and reveal: the files `round-NUMBER.*`."""

    def mark_started(self, round_number: int) -> None:
        """Note on disk that training of a round begins and that no update of it exists yet."""
        self._write(f"round-{round_number}.started", b"")

    def was_started(self, round_number: int) -> bool:
        """Whether `mark_started` was called for the round and no update of it was kept since, so that none left."""
        return self._read(f"round-{round_number}.started") == b""

    def save_update(self, round_number: int, integers: NDArray[np.int64]) -> None:
        """Keep the integers that every attempt of the round encrypts, and note that there are any."""
        buffer = io.BytesIO()
        np.save(buffer, integers, allow_pickle=False)
        self._write(f"round-{round_number}.update", buffer.getvalue())
        # A disk that loses the update alone must not have another one made: the first may have left.
        self._write(f"round-{round_number}.started", _MADE)

    def load_update(self, round_number: int) -> NDArray[np.int64] | None:
        """The integers of the round, or None."""
        name = f"round-{round_number}.update"
        data = self._read(name)
        if data is None:
            return None
        with self._intact(name):
            return cast(NDArray[np.int64], np.load(io.BytesIO(data), allow_pickle=False))

    def save_reply(self, round_number: int, attempt: int, frame: bytes) -> None:
        """Keep a reply: the same request gets the same bytes, also after a crash."""
        self._write(f"round-{round_number}.reply-{attempt}", frame)

    def load_reply(self, round_number: int, attempt: int) -> bytes | None:
        """The reply sent for the round and attempt, or None."""
        return self._read(f"round-{round_number}.reply-{attempt}")

    def last_attempt(self, round_number: int) -> int | None:
        """The latest attempt of a round that was answered, or None."""
        replies = self._folder.glob(f"round-{round_number}.reply-*")
        return max((int(path.suffix.removeprefix(".reply-")) for path in replies), default=None)

    def save_masks(self, round_number: int, data: bytes) -> None:
        """Keep a round's mask secrets, sealed, with their advert."""
        self._write(f"round-{round_number}.masks", data)

    def load_masks(self, round_number: int) -> bytes | None:
        """What `save_masks` kept, or None."""
        return self._read(f"round-{round_number}.masks")

    def save_opening(self, round_number: int, data: bytes) -> None:
        """Keep what a round was opened with first."""
        self._write(f"round-{round_number}.opening", data)

    def load_opening(self, round_number: int) -> bytes | None:
        """What `save_opening` kept, or None."""
        return self._read(f"round-{round_number}.opening")

    def save_reveal(self, round_number: int, *, attempt: int, survivors: str, reply: bytes) -> None:
        """Note for what shares of a round are given, before they are."""
        head = json.dumps({"attempt": attempt, "survivors": survivors}).encode()
        self._write(f"round-{round_number}.reveal", head + b"\n" + reply)

    def load_reveal(self, round_number: int) -> GivenReveal | None:
        """What `save_reveal` noted, or None."""
        name = f"round-{round_number}.reveal"
        data = self._read(name)
        if data is None:
            return None
        with self._intact(name):
            head, _, reply = data.partition(b"\n")
            fields = json.loads(head)
            return GivenReveal(int(fields["attempt"]), str(fields["survivors"]), reply)

    def _forget_rounds(self, last: int) -> None:
        self._forget(
            path
            for pattern in ("round-*", ".round-*")
            for path in self._folder.glob(pattern)
            if int(path.name.split("-")[1].split(".")[0]) <= last
        )
