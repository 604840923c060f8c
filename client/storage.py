"""A run's state on the site's disk: every write is atomic and flushed before anything depends on it."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.optimiser import OptimiserState
from client.state import RunState
from common.errors import SiteStorageError
from common.messages import Applied


class RunStorage:
    """Folder of one run: `state.npz`, `rounds.json`, and per round the markers, the update and the replies."""

    def __init__(self, folder: Path) -> None:
        """Open or make the folder, readable by the owner only.

        Raises:
            SiteStorageError: If the disk refuses.
        """
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise _refused(folder, error) from error

    def load_state(self) -> RunState | None:
        """The state after the last applied aggregate, or None before any."""
        data = self._read("state.npz")
        if data is None:
            return None
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            applied = Applied.model_validate_json(arrays["applied"].tobytes())
            return RunState(applied, OptimiserState(arrays["parameters"], arrays["velocity"]))

    def save_state(self, state: RunState) -> None:
        """Replace the state, then forget updates and replies of the rounds that it covers."""
        buffer = io.BytesIO()
        applied = np.frombuffer(state.applied.model_dump_json().encode(), dtype=np.uint8)
        np.savez(buffer, applied=applied, parameters=state.optimiser.parameters, velocity=state.optimiser.velocity)
        self._write("state.npz", buffer.getvalue())
        for path in self._folder.glob("round-*"):
            if int(path.name.split("-")[1].split(".")[0]) <= state.applied.round:
                path.unlink(missing_ok=True)

    def mark_started(self, round_number: int) -> None:
        """Note on disk that training of a round begins and that no update of it exists yet."""
        self._write(f"round-{round_number}.started", b"")

    def was_started(self, round_number: int) -> bool:
        """Whether `mark_started` was called for the round."""
        return self._read(f"round-{round_number}.started") is not None

    def save_update(self, round_number: int, integers: NDArray[np.int64]) -> None:
        """Keep the integers that every attempt of the round encrypts."""
        buffer = io.BytesIO()
        np.save(buffer, integers, allow_pickle=False)
        self._write(f"round-{round_number}.update", buffer.getvalue())

    def load_update(self, round_number: int) -> NDArray[np.int64] | None:
        """The integers of the round, or None."""
        data = self._read(f"round-{round_number}.update")
        return None if data is None else np.load(io.BytesIO(data), allow_pickle=False)

    def save_reply(self, round_number: int, attempt: int, frame: bytes) -> None:
        """Keep a reply: the same request gets the same bytes, also after a crash."""
        self._write(f"round-{round_number}.reply-{attempt}", frame)

    def load_reply(self, round_number: int, attempt: int) -> bytes | None:
        """The reply sent for the round and attempt, or None."""
        return self._read(f"round-{round_number}.reply-{attempt}")

    def record_round(self, round_number: int, facts: dict[str, Any]) -> None:
        """Add one row to the run's history; a row that is there already stays."""
        rows = self.rounds()
        if round_number not in rows:
            rows[round_number] = facts
            self._write("rounds.json", json.dumps(rows, indent=1).encode())

    def rounds(self) -> dict[int, dict[str, Any]]:
        """The run's history by round."""
        data = self._read("rounds.json")
        return {int(number): facts for number, facts in json.loads(data).items()} if data else {}

    def _read(self, name: str) -> bytes | None:
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _refused(self._folder / name, error) from error

    def _write(self, name: str, data: bytes) -> None:
        write_durably(self._folder / name, data)


def write_durably(path: Path, data: bytes) -> None:
    """Replace a file atomically, and return only when it is on the disk.

    Raises:
        SiteStorageError: If the disk refuses; the old file is untouched then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _refused(path, error) from error


def _refused(path: Path, error: OSError) -> SiteStorageError:
    return SiteStorageError(
        f"{path}: {error.strerror}; nothing was sent; make room or mend the folder, then start the site again"
    )
