"""A site that dies at any write, and runs that are mixed: one set of integers per charge, and no state is lost."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from common.errors import DataError, SiteStorageError
from common.messages import Kind
from tests.support.in_process import Coordinator
from tests.support.small_federation import NAMES, SmallFederation

OURS = NAMES[0]


class Killed(BaseException):
    """Stands for the death of the process: nothing in the site catches it."""


@dataclass
class PowerSwitch:
    """Lets a number of flushes to the disk happen, then cuts the power instead of the next one."""

    left: int = 10**9
    seen: int = 0
    flush = staticmethod(os.fsync)

    def __call__(self, descriptor: int) -> None:
        """In place of `os.fsync`."""
        self.seen += 1
        if self.left <= 0:
            raise Killed
        self.left -= 1
        self.flush(descriptor)


@dataclass
class Others:
    """A run of the other three hospitals, from which hospital-1 dropped out: its masks were announced."""

    folder: Path
    coordinator: Coordinator


@dataclass
class Released:
    """What has left hospital-1, by run and round."""

    federation: SmallFederation
    integers: dict[tuple[str, int], list[NDArray[np.int64]]] = field(default_factory=dict)
    reveals: dict[tuple[str, int], set[bytes]] = field(default_factory=dict)

    def ask(self, kind: str, number: int, *, attempt: int = 0) -> str:
        """Ask hospital-1, and note what it sends; the manifest's reason."""
        coordinator = self.federation.coordinator
        key = (coordinator.run, number)
        if kind == "unmask":
            survivors = coordinator.aggregates[number - 1].entry.survivors
            self.federation.freshen(OURS)
            frame = self.federation.sites[OURS].answer(coordinator.unmask_request(survivors, OURS))
            self.reveals.setdefault(key, set()).add(frame)
            return ""
        send = coordinator.history(1, number - 1)
        frame = self.federation.frame(kind, number, OURS, attempt=attempt, send=send)
        reply = self.federation.reply(self.federation.sites[OURS].answer(frame))
        if reply.body:
            self.integers.setdefault(key, []).append(self.federation.decrypted(reply))
        return reply.manifest.reason

    def check(self) -> None:
        """One set of integers and one reveal for each (run, round), and a training charge for each."""
        for sent in self.integers.values():
            for other in sent[1:]:
                np.testing.assert_array_equal(sent[0], other)
        assert all(len(given) == 1 for given in self.reveals.values())
        ledger = self.federation.sites[OURS]._contributor.ledger
        charged = {(entry.charge.run, entry.charge.round_number) for entry in ledger.entries()}
        assert charged.issuperset(key for key in self.integers if key[1] <= self.federation.plan.training.rounds)
        assert len(charged) == ledger.sequence()


@pytest.fixture(scope="module")
def others(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Others:
    """The others' run; two attempts were asked for in its first round."""
    folder = tmp_path_factory.mktemp("others")
    with SmallFederation.copy_of(base, folder, sites=NAMES[1:]) as federation:
        for number in range(1, federation.plan.last_round + 1):
            federation.opened(number)
            kind: Kind = federation.plan.kind_of(number)
            federation.coordinator.exchange(kind, number, federation.sites, attempt=1 if number == 1 else 0)
        return Others(folder, federation.coordinator)


def hospital_1(others: Others, folder: Path) -> SmallFederation:
    """Hospital-1 on files of its own, before that run."""
    federation = SmallFederation.copy_of(others.folder, folder, sites=[OURS])
    federation.coordinator.run = others.coordinator.run
    federation.coordinator.aggregates = others.coordinator.aggregates
    federation.coordinator.openings = dict(others.coordinator.openings)
    return federation


@pytest.fixture
def federation(others: Others, tmp_path: Path) -> Iterator[SmallFederation]:
    """The same."""
    with hospital_1(others, tmp_path) as opened:
        yield opened


STEPS = (("train", 1, 0), ("train", 1, 1), ("unmask", 1, 1), ("train", 2, 0))


def go_through(released: Released, switch: PowerSwitch) -> int:
    """Two rounds of hospital-1; after a death it is started again and asked again. Returns the number of deaths."""
    federation, deaths = released.federation, 0
    for kind, number, attempt in STEPS:
        try:
            reason = released.ask(kind, number, attempt=attempt)
        except Killed:
            deaths += 1
            switch.left = 10**9
            federation.reopen(OURS)
            reason = released.ask(kind, number, attempt=attempt)
        assert reason == ""
    return deaths


def test_a_site_that_dies_at_any_write_releases_once_and_goes_on(
    others: Others, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each flush of two rounds is the last one once; the control is the run without a death."""
    outcomes = set()
    switch = PowerSwitch()
    monkeypatch.setattr(os, "fsync", switch)
    flushes = 10**9
    death = -1
    while death < flushes:
        with hospital_1(others, tmp_path / str(death)) as federation:
            released = Released(federation)
            switch.seen, switch.left = 0, 10**9 if death < 0 else death
            assert go_through(released, switch) == (0 if death < 0 else 1)
            released.check()
            assert federation.charges(OURS) == 2
            outcomes.add(federation.tag(OURS))
        flushes = switch.seen if death < 0 else flushes
        death += 1
    assert flushes >= 22
    assert len(outcomes) == 1


def test_runs_that_are_mixed_are_charged_each(federation: SmallFederation) -> None:
    """Each run has its own state, updates and charges; a request of one never opens what the other has sent."""
    released, runs = Released(federation), ("a" * 32, "b" * 32)
    for run, attempt in ((runs[0], 0), (runs[1], 0), (runs[0], 1), (runs[1], 1), (runs[0], 0)):
        federation.coordinator.switch(run)
        federation.opened(1)
        assert released.ask("train", 1, attempt=attempt) == ""
    released.check()
    assert federation.charges(OURS) == 2
    first, second = (released.integers[run, 1][0] for run in runs)
    assert not np.array_equal(first, second)
    # A third run would pass the cap: the budget is the data's, not the run's.
    federation.coordinator.switch("c" * 32)
    federation.opened(1)
    assert released.ask("train", 1) == "BudgetExceeded"
    assert federation.charges(OURS) == 2


def test_a_lost_update_after_a_lost_marker_is_not_made_again(federation: SmallFederation) -> None:
    """The marker is what says that nothing has left under a standing charge."""
    released = Released(federation)
    released.ask("train", 1)
    for path in federation.run_folder(OURS).glob("round-1.*"):
        if path.suffix != ".masks":
            path.unlink()
    assert released.ask("train", 1, attempt=1) == "LedgerError"
    released.check()


def test_training_that_fails_after_the_charge_is_repeated_under_it(
    federation: SmallFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing had left, so the charge that stands pays for the next try."""
    released = Released(federation)
    learner = federation.sites[OURS]._contributor.learner

    def fail(*_: object, **__: object) -> NDArray[np.float64]:
        raise DataError("the disk with the images is gone")

    with monkeypatch.context() as patch:
        patch.setattr(learner, "train", fail)
        with pytest.raises(DataError):
            released.ask("train", 1)
    assert federation.charges(OURS) == 1
    assert released.ask("train", 1) == ""
    assert federation.charges(OURS) == 1
    released.check()


WORDS = {"round-2.opening": "the opening of round 2 on the disk is damaged"}


@pytest.mark.parametrize("name", ["state.npz", "rounds.json", "round-2.update", "round-2.opening"])
def test_a_damaged_file_stops_this_run_at_this_site_and_no_other(federation: SmallFederation, name: str) -> None:
    """It is named, nothing is guessed, and a new run goes on."""
    released = Released(federation)
    released.ask("train", 1)
    released.ask("train", 2)
    path = federation.run_folder(OURS) / name
    path.write_bytes(path.read_bytes()[:-9] + b"x")
    kind, number, attempt = ("train", 2, 1) if name.startswith("round-2") else ("eval", 3, 0)
    with pytest.raises(SiteStorageError, match=WORDS.get(name, name)):
        released.ask(kind, number, attempt=attempt)
    released.check()
    federation.coordinator.switch("d" * 32)
    assert released.ask("hello", 0) == ""
