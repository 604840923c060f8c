"""A run that the real coordinator carries to its end among real hospitals in one process, with events at its rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from client.storage import RunStorage
from common.messages import UPLOAD_KINDS, Request
from common.plan import Plan
from common.request_frames import decode_request
from server.store import Store
from tests.support.in_process_grid import InProcessGrid
from tests.support.small_federation import NAMES, SmallFederation
from tests.support.weighted_updates import encode_update
from tests.support.whole_run import carry


@dataclass
class CarriedRun:
    """A federation's run; `at` holds what happens before the first hospital is asked to train a round."""

    federation: SmallFederation
    folder: Path
    at: dict[int, Callable[[], None]] = field(default_factory=dict)
    seen: list[tuple[str, Request]] = field(default_factory=list)
    grid: InProcessGrid = field(default_factory=lambda: InProcessGrid({}))

    @property
    def plan(self) -> Plan:
        """The plan."""
        return self.federation.plan

    @property
    def run(self) -> str:
        """The run's id."""
        return self.federation.coordinator.run

    def connect(self, *names: str) -> None:
        """Connect hospitals; what they are asked is noted."""

        def watched(name: str) -> Callable[[bytes], bytes]:
            def answer(frame: bytes) -> bytes:
                request = decode_request(frame, self.plan.agreed.coordinator).request
                if request.kind in UPLOAD_KINDS and request.round in self.at:
                    self.at.pop(request.round)()
                self.seen.append((name, request))
                return self.federation.sites[name].answer(frame)

            return answer

        self.grid.sites |= {name: watched(name) for name in names}

    def leave(self, *names: str) -> None:
        """Disconnect hospitals."""
        for name in names:
            del self.grid.sites[name]

    def go(self) -> None:
        """Carry the run to its end, or to its next stop."""
        carry(self.plan, self.run, self.federation.coordinator.identity, folder=self.folder, grid=self.grid)

    def outcomes(self, name: str) -> dict[int, str]:
        """What a hospital did in the last attempt of each round."""
        with closing(Store(self.folder)) as store:
            exchanges = [e for e in store.exchanges(self.run) if e.kind in UPLOAD_KINDS]
        return {e.round: o.outcome for e in exchanges for o in e.outcomes if o.hospital == name}

    def epochs(self) -> dict[int, int]:
        """Key epoch of each round, from the uploads that hospitals were asked for."""
        return {r.round: r.epoch for _, r in self.seen if r.kind in UPLOAD_KINDS}

    def ask_for_new_key(self) -> None:
        """What `fedward-server rotate` does."""
        with closing(Store(self.folder)) as store:
            store.ask_rotation(self.run, "the operator")


@contextmanager
def carried_run(provisioned: Path, folder: Path, *, rounds: int) -> Iterator[CarriedRun]:
    """The run of a copy of a federation whose updates are on its hospitals' disks already; all are connected."""
    with SmallFederation.copy_of(provisioned, folder / "sites") as federation:
        store_updates(federation, NAMES, range(1, rounds + 1))
        (folder / "work").mkdir()
        run = CarriedRun(federation, folder / "work")
        run.connect(*NAMES)
        yield run


def store_updates(federation: SmallFederation, names: Sequence[str], rounds: Sequence[int]) -> None:
    """Put a round's updates on the hospitals' disks, as if they had trained already: the same in every federation."""
    for at, name in enumerate(names):
        size = federation.plan.agreed.trainable_parameters
        declared = federation.plan.roster[federation.plan.agreed.position(name)].declared_units
        storage = RunStorage(federation.run_folder(name), plan=federation.plan.digest)
        for number in rounds:
            update = np.random.default_rng([at, number]).normal(0.0, 1e-3, size)
            slots = np.zeros(federation.plan.metric_slots, dtype=np.int64)
            storage.save_update(
                number, encode_update(update, declared_size=declared, slots=slots, grid=federation.grid)
            )
