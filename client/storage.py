"""A run's state on the site's disk: model, history, key epoch, and the last sum until it is verified."""

from __future__ import annotations

import io
import json
from errno import ENOENT
from pathlib import Path
from typing import Any

import numpy as np

from client.durable import disk_refused
from client.open_rounds import OpenRounds
from client.optimiser import OptimiserState
from client.state import RunState
from common.messages import Applied

_FINISHED = "finished"


class RunStorage(OpenRounds):
    """Folder of one run under one plan: `plan`, `state.npz`, `rounds.json`, `epoch.json`, and what open rounds need.

    `finished` stands in it at the end.
    """

    def load_state(self) -> RunState | None:
        """The state after the last applied aggregate, or None before any."""
        data = self._read("state.npz")
        if data is None:
            return None
        with self._intact("state.npz"), np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            applied = Applied.model_validate_json(arrays["applied"].tobytes())
            optimiser = OptimiserState(arrays["parameters"], arrays["velocity"])
            return RunState(applied, optimiser, arrays["feature_mean"])

    def save_state(self, state: RunState) -> None:
        """Replace the state, then forget updates and replies of the rounds that it covers."""
        buffer = io.BytesIO()
        applied = np.frombuffer(state.applied.model_dump_json().encode(), dtype=np.uint8)
        np.savez(
            buffer,
            applied=applied,
            parameters=state.optimiser.parameters,
            velocity=state.optimiser.velocity,
            feature_mean=state.feature_mean,
        )
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
