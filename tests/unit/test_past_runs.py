"""What a site keeps of its runs: the newest that are over, and every one that may go on."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.past_runs import KEPT, remove_past_runs
from client.state import initial_state
from client.storage import RunStorage
from tests.support.small_federation import NAMES, SmallFederation, provision_small, template

OURS = NAMES[0]
PLAN, OTHER = "a" * 64, "b" * 64


class Killed(BaseException):
    """Stands for the death of the process: nothing in the site catches it."""


def keep_run(folder: Path, number: int, *, plan: str = PLAN, finished: bool) -> Path:
    """A run as the storage leaves it; a larger number was written later."""
    path = folder / f"{number:032x}"
    storage = RunStorage(path, plan=plan)
    state = initial_state(np.arange(8.0), statistics=0)
    storage.save_state(state)
    storage.record_round(1, {"contributors": list(NAMES), "counts_before": []})
    storage.save_update(1, np.arange(4))
    if finished:
        storage.finish(state)
    os.utime(path, (number, number))
    return path


def numbers(folder: Path) -> list[int]:
    """The runs that are there."""
    return sorted(int(path.name, 16) for path in folder.iterdir())


def test_the_newest_finished_runs_stay(tmp_path: Path) -> None:
    """By the time of their last write, whatever their names."""
    for number in range(1, 7):
        keep_run(tmp_path, number, finished=True)
    os.utime(tmp_path / f"{2:032x}", (100, 100))
    remove_past_runs(tmp_path, approved=[PLAN])
    assert numbers(tmp_path) == [2, 5, 6]
    assert len(numbers(tmp_path)) == KEPT


def test_a_run_that_may_go_on_stays_however_old(tmp_path: Path) -> None:
    """Its notes are all that lets this site take part in its charged rounds; of a plan that was withdrawn it cannot."""
    for number in range(1, 5):
        keep_run(tmp_path, number, finished=False)
    for number in range(5, 10):
        keep_run(tmp_path, number, plan=OTHER, finished=number % 2 == 0)
    remove_past_runs(tmp_path, approved=[PLAN])
    assert numbers(tmp_path) == [1, 2, 3, 4, 7, 8, 9]
    remove_past_runs(tmp_path, approved=[])
    assert numbers(tmp_path) == [7, 8, 9]


def test_what_is_no_run_is_left_alone(tmp_path: Path) -> None:
    """An operator's own files; a missing folder is nothing to do."""
    (tmp_path / "notes").mkdir()
    (tmp_path / ("e" * 32)).write_text("a file")
    (tmp_path / ("d" * 32)).mkdir()
    remove_past_runs(tmp_path, approved=[])
    assert {path.name for path in tmp_path.iterdir()} == {"notes", "e" * 32, "d" * 32}
    remove_past_runs(tmp_path / "missing", approved=[])


def test_a_death_at_any_moment_leaves_each_run_whole_or_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run without its plan or its notes would look like one that has just begun."""
    for number in range(1, 6):
        whole = {path.name for path in keep_run(tmp_path / "model", number, finished=True).iterdir()}
    deaths = 0
    for life in range(40):
        folder = tmp_path / str(life)
        shutil.copytree(tmp_path / "model", folder)
        with monkeypatch.context() as patch:
            for name, change in mortal(life).items():
                patch.setattr(os, name, change)
            try:
                remove_past_runs(folder, approved=[PLAN])
            except Killed:
                deaths += 1
        for path in folder.iterdir():
            assert path.name.startswith(".removed-") or {p.name for p in path.iterdir()} == whole
        remove_past_runs(folder, approved=[PLAN])
        assert len(numbers(folder)) == KEPT
    assert 8 < deaths < 40


def mortal(steps: int) -> dict[str, Callable[..., None]]:
    """The calls that change a folder; so many of them happen, then the process dies."""
    lives = iter(range(steps))

    def counted(change: Callable[..., None]) -> Callable[..., None]:
        def step(*arguments: object, **options: object) -> None:
            if next(lives, None) is None:
                raise Killed
            change(*arguments, **options)

        return step

    return {name: counted(getattr(os, name)) for name in ("unlink", "rmdir", "rename")}


def test_a_disk_that_refuses_is_a_line_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A run that cannot be removed is no reason to answer no more."""
    for number in range(1, 6):
        keep_run(tmp_path, number, finished=True)
    (tmp_path / ".removed-x").write_text("no folder: it cannot be emptied")
    with caplog.at_level(logging.WARNING):
        remove_past_runs(tmp_path, approved=[PLAN])
    assert "old runs stay" in caplog.text
    assert len(list(tmp_path.glob("0*"))) == 5


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[SmallFederation]:
    """Four hospitals with budget for many runs."""
    provision_small(tmp_path / "base", template())
    with SmallFederation.copy_of(tmp_path / "base", tmp_path / "own", sites=[]) as opened:
        for name in NAMES:
            opened.change_site(name, cap_epsilon=500.0)
            opened.open(name)
        yield opened


def test_a_site_keeps_the_newest_runs_of_many_and_can_still_replay_an_old_one(federation: SmallFederation) -> None:
    """No upload of an applied round stays; a removed run that is asked for again costs aggregates and no charge."""
    runs, tags = [f"{number:032x}" for number in range(1, KEPT + 3)], {}
    for run in runs:
        federation.coordinator.switch(run)
        federation.coordinator.whole_run(federation.sites)
        tags[run] = federation.tag(OURS)
    home = federation.folder / "federation" / OURS
    kept = sorted(path.name for path in (home / "state" / "runs").iterdir())
    assert kept == runs[-KEPT:]
    assert sorted(path.name for path in (home / "results").iterdir()) == runs
    for run in kept:
        names = {path.name for path in (home / "state" / "runs" / run).iterdir()}
        assert names == {"plan", "state.npz", "rounds.json", "epoch.json", "finished"}
    charged = federation.charges(OURS)
    federation.coordinator.switch(runs[0])
    assert federation.catch_up(OURS)[0].manifest.state_tag == tags[runs[0]]
    assert federation.charges(OURS) == charged


def test_uploads_that_a_crash_has_left_are_erased_at_the_end(tmp_path: Path) -> None:
    """Between the state and the erasing of what it covers a site may die."""
    path = keep_run(tmp_path, 1, finished=False)
    storage = RunStorage(path, plan=PLAN)
    state = initial_state(np.arange(8.0), statistics=0)
    after = replace(state, applied=state.applied.model_copy(update={"round": 2}))
    storage.save_reply(1, 0, b"upload")
    storage.save_reply(3, 0, b"of an open round")
    storage.finish(after)
    assert {p.name for p in path.glob("round-*")} == {"round-3.reply-0"}
