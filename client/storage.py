"""A run's state on the site's disk: every write is atomic and flushed before anything depends on it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from errno import ENOENT
from pathlib import Path
from typing import Any, cast
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from client.durable import disk_refused, read_durable, write_durably
from client.optimiser import OptimiserState
from client.state import RunState
from common.errors import SiteStorageError, WrongPlan
from common.messages import Applied

_FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class GivenReveal:
    """Shares that were given: for which attempt and survivors (their digest), and the reply's bytes."""

    attempt: int
    survivors: str
    reply: bytes


class RunStorage:
    """Folder of one run under one plan: `plan`, `state.npz`, `rounds.json`, `epoch.json`, and what open rounds need.

    That is its marker, mask secrets, opening, update, replies and reveal, which are erased when the round is applied or
    skipped; `finished` stands in it at the end.

    Nothing is made on the disk before there is something to keep: a request alone takes no space.
    """

    def __init__(self, folder: Path, *, plan: str) -> None:
        """Open the folder of a run.

        Args:
            folder: Where it is, or will be, readable by the owner only.
            plan: Digest of the plan that the run follows.

        Raises:
            WrongPlan: If the run was begun under another plan: its updates lie on another grid.
            SiteStorageError: If the disk refuses.
        """
        self._folder, self._plan = folder, plan
        begun_under = self.plan_of(folder)
        if begun_under is not None and begun_under != plan:
            raise WrongPlan("a run that this site began under another plan goes on under this one; refuse it")

    def load_state(self) -> RunState | None:
        """The state after the last applied aggregate, or None before any."""
        data = self._read("state.npz")
        if data is None:
            return None
        with self._intact("state.npz"), np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            applied = Applied.model_validate_json(arrays["applied"].tobytes())
            return RunState(applied, OptimiserState(arrays["parameters"], arrays["velocity"]))

    def save_state(self, state: RunState) -> None:
        """Replace the state, then forget updates and replies of the rounds that it covers."""
        buffer = io.BytesIO()
        applied = np.frombuffer(state.applied.model_dump_json().encode(), dtype=np.uint8)
        np.savez(buffer, applied=applied, parameters=state.optimiser.parameters, velocity=state.optimiser.velocity)
        self._write("state.npz", buffer.getvalue())
        self._forget_rounds(state.applied.round)

    def finish(self, state: RunState) -> None:
        """Note that the run is over, and forget what a crash behind the last `save_state` has left."""
        self._forget_rounds(state.applied.round)
        self._write(_FINISHED, b"")

    def close(self) -> None:
        """Note that a run was continued by another one, if there is anything of it."""
        if self.plan_of(self._folder) is not None:
            self._write(_FINISHED, b"")

    @staticmethod
    def is_finished(folder: Path) -> bool:
        """Whether `finish` was called for the run in this folder."""
        return (folder / _FINISHED).exists()

    @staticmethod
    def plan_of(folder: Path) -> str | None:
        """Digest of the plan of the run in this folder, or None if there is no run in it."""
        data = read_durable(folder / "plan")
        return data.decode(errors="replace") if data is not None else None

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
        name = f"round-{round_number}.update"
        data = self._read(name)
        if data is None:
            return None
        with self._intact(name):
            return cast(NDArray[np.int64], np.load(io.BytesIO(data), allow_pickle=False))

    def save_epoch(self, epoch: int, first_round: int) -> None:
        """Note the newest key that the run is under here, and the first round that it served."""
        self._write("epoch.json", json.dumps({"epoch": epoch, "first_round": first_round}).encode())

    def load_epoch(self) -> tuple[int, int] | None:
        """What `save_epoch` noted, or None."""
        data = self._read("epoch.json")
        if data is None:
            return None
        with self._intact("epoch.json"):
            fields = json.loads(data)
            return int(fields["epoch"]), int(fields["first_round"])

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

    def save_evidence(self, round_number: int, data: bytes) -> None:
        """Keep what shows that the coordinator sent a wrong sum; it outlives the round."""
        self._write(f"evidence-{round_number}", data)

    def save_provisional(self, round_number: int, data: bytes, *, body: bytes | memoryview | None = None) -> None:
        """Keep the last sum until enough hospitals have recomputed it, and what it is checked with.

        Args:
            round_number: Its round.
            data: What it is checked with; empty if it is not to be checked.
            body: The sum; None if it was kept before.
        """
        name = f"sum-{round_number}"
        if body is not None:
            self._write(name, body)
        self._write("provisional", data)
        self._forget(path for path in self._folder.glob("sum-*") if path.name != name or not data)

    def load_provisional(self) -> bytes | None:
        """What the last sum is checked with, or None."""
        return self._read("provisional") or None

    def load_sum(self, round_number: int) -> bytes:
        """The sum that `save_provisional` kept.

        Raises:
            SiteStorageError: If it is not there.
        """
        body = self._read(f"sum-{round_number}")
        if body is None:
            raise disk_refused(self._folder / f"sum-{round_number}", FileNotFoundError(ENOENT, "is gone"))
        return body

    def record_round(self, round_number: int, facts: dict[str, Any]) -> None:
        """Set one row of the run's history, before the state that rests on it is saved."""
        self._write("rounds.json", json.dumps(self.rounds() | {round_number: facts}, indent=1).encode())

    def take_over(self, rows: dict[int, dict[str, Any]], state: RunState) -> None:
        """Begin the run with the model and the history of another one; the model is written last."""
        self._write("rounds.json", json.dumps(rows, indent=1).encode())
        self.save_state(state)

    def revealed_in(self, round_number: int) -> str:
        """Digest of the survivors that shares were given for in a round that is over; empty if none were."""
        return str(self.rounds().get(round_number, {}).get("revealed", ""))

    def rounds(self) -> dict[int, dict[str, Any]]:
        """The run's history by round."""
        data = self._read("rounds.json")
        with self._intact("rounds.json"):
            return {} if data is None else {int(number): facts for number, facts in json.loads(data).items()}

    def _forget_rounds(self, last: int) -> None:
        self._forget(
            path
            for pattern in ("round-*", ".round-*")
            for path in self._folder.glob(pattern)
            if int(path.name.split("-")[1].split(".")[0]) <= last
        )

    def _forget(self, paths: Iterable[Path]) -> None:
        try:
            for path in tuple(paths):
                path.unlink(missing_ok=True)
        except OSError as error:
            raise disk_refused(self._folder, error) from error

    def _read(self, name: str) -> bytes | None:
        return read_durable(self._folder / name)

    def _write(self, name: str, data: bytes | memoryview) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise disk_refused(self._folder, error) from error
        if not (self._folder / "plan").exists():
            write_durably(self._folder / "plan", self._plan.encode())
        write_durably(self._folder / name, data)

    @contextmanager
    def _intact(self, name: str) -> Iterator[None]:
        try:
            yield
        except (ValueError, TypeError, KeyError, EOFError, AttributeError, BadZipFile) as error:
            raise SiteStorageError(
                f"{self._folder / name}: is damaged; this site sits this run out; mend the disk and start a new run"
            ) from error
