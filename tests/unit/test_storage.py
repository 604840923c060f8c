"""A run's folder on the site's disk: whole files or none, whatever dies or fills up."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from client.durable import read_durable, write_durably
from client.open_rounds import GivenReveal
from client.optimiser import OptimiserState
from client.refused import MOST_REFUSED, RefusedAggregates
from client.state import RunState
from client.storage import RunStorage
from common.errors import DecryptionError, EpochClosed, SiteStorageError, WrongPlan
from common.messages import Applied

ROOT = Path(__file__).parents[2]
PLAN = "a" * 64


def state_after(round_number: int, *, size: int = 5) -> RunState:
    """A state that is recognised by its round."""
    applied = Applied(round=round_number, root="b" * 64, chain="c" * 64)
    return RunState(
        applied,
        OptimiserState(np.full(size, float(round_number)), np.full(size, -float(round_number))),
        np.full(2, 0.5),
    )


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    """From another object, as after a restart; and before anything is kept there is nothing."""
    storage, again = (RunStorage(tmp_path / "run", plan=PLAN) for _ in range(2))
    assert storage.load_state() is None
    assert storage.load_update(1) is None
    assert storage.load_reply(1, 0) is None
    assert storage.load_masks(1) is None
    assert storage.load_opening(1) is None
    assert storage.load_reveal(1) is None
    assert storage.last_attempt(1) is None
    assert not storage.was_started(1)
    assert storage.rounds() == {}
    assert not (tmp_path / "run").exists()
    integers = np.array([2**62, -(2**62), 0], dtype=np.int64)
    storage.mark_started(3)
    assert again.was_started(3)
    storage.save_update(3, integers)
    storage.save_reply(3, 1, b"frame")
    storage.save_masks(3, b"sealed")
    storage.save_opening(3, b"adverts")
    storage.save_reveal(3, attempt=1, survivors="d" * 64, reply=b"shares\nof all\n")
    storage.record_round(2, {"contributors": ["x"]})
    storage.save_state(state_after(2))
    loaded, update = again.load_state(), again.load_update(3)
    assert loaded is not None
    assert update is not None
    assert loaded.applied == state_after(2).applied
    assert loaded.optimiser.parameters.tobytes() == state_after(2).optimiser.parameters.tobytes()
    assert loaded.optimiser.velocity.tobytes() == state_after(2).optimiser.velocity.tobytes()
    np.testing.assert_array_equal(update, integers)
    assert again.load_reply(3, 1) == b"frame"
    assert again.load_reply(3, 0) is None
    assert again.last_attempt(3) == 1
    assert (again.load_masks(3), again.load_opening(3)) == (b"sealed", b"adverts")
    assert again.load_reveal(3) == GivenReveal(1, "d" * 64, b"shares\nof all\n")
    # From then on another update of it is not made, even if this one is lost.
    assert not again.was_started(3)
    assert again.rounds() == {2: {"contributors": ["x"]}}


def test_a_new_state_forgets_the_rounds_that_it_covers_and_no_others(tmp_path: Path) -> None:
    """Round 10 is not round 1."""
    storage = RunStorage(tmp_path, plan=PLAN)
    for number in (1, 2, 10):
        storage.save_update(number, np.zeros(2, dtype=np.int64))
        storage.mark_started(number)
        storage.save_reply(number, 0, b"r")
        storage.save_masks(number, b"secrets")
        storage.save_opening(number, b"adverts")
        storage.save_reveal(number, attempt=0, survivors="d" * 64, reply=b"shares")
        storage.save_evidence(number, b"request")
    storage.save_state(state_after(2))
    assert [storage.was_started(n) for n in (1, 2, 10)] == [False, False, True]
    assert [storage.load_reply(n, 0) for n in (1, 2, 10)] == [None, None, b"r"]
    assert storage.load_update(10) is not None
    assert storage.load_update(2) is None
    for load in (storage.load_masks, storage.load_opening, storage.load_reveal):
        assert [load(n) is None for n in (1, 2, 10)] == [True, True, False]
    # What convicts a coordinator is kept, and nothing else of those rounds: no secret of a mask outlives its round.
    assert {path.name for path in tmp_path.glob("*-[12]*") if "-10" not in path.name} == {"evidence-1", "evidence-2"}


def test_the_last_attempt_is_the_highest_that_was_answered(tmp_path: Path) -> None:
    """By number: attempt 10 comes after attempt 9, and other rounds do not count."""
    storage = RunStorage(tmp_path, plan=PLAN)
    for attempt in (0, 9, 10):
        storage.save_reply(1, attempt, b"r")
    storage.save_reply(12, 11, b"r")
    assert (storage.last_attempt(1), storage.last_attempt(12), storage.last_attempt(2)) == (10, 11, None)


def test_a_row_is_replaced_until_its_state_is_saved(tmp_path: Path) -> None:
    """A site that died in between may get another honest aggregate for the round."""
    storage = RunStorage(tmp_path, plan=PLAN)
    storage.record_round(1, {"contributors": ["a", "b", "c"]})
    storage.record_round(1, {"contributors": ["a", "b", "c", "d"]})
    assert storage.rounds() == {1: {"contributors": ["a", "b", "c", "d"]}}


def test_a_folder_belongs_to_one_plan(tmp_path: Path) -> None:
    """Its integers lie on that plan's grid."""
    RunStorage(tmp_path, plan=PLAN).mark_started(1)
    assert RunStorage(tmp_path, plan=PLAN).was_started(1)
    with pytest.raises(WrongPlan):
        RunStorage(tmp_path, plan="d" * 64)


def test_the_folder_is_its_owners_alone(tmp_path: Path) -> None:
    """Others on the machine read neither models nor updates."""
    RunStorage(tmp_path / "runs" / "run", plan=PLAN).mark_started(1)
    assert stat.S_IMODE((tmp_path / "runs" / "run").stat().st_mode) == 0o700


@pytest.mark.parametrize("damage", [b"", b"x", b"PK\x03\x04", b"\x93NUMPY", bytes(100)])
def test_damaged_files_are_named_and_never_guessed(tmp_path: Path, damage: bytes) -> None:
    """Pickles among them: what stands in a file is never run."""
    storage = RunStorage(tmp_path, plan=PLAN)
    storage.save_update(4, np.zeros(2, dtype=np.int64))
    storage.save_state(state_after(1))
    storage.save_reveal(4, attempt=0, survivors="d" * 64, reply=b"shares")
    for name in ("state.npz", "round-4.update", "round-4.reveal", "rounds.json"):
        (tmp_path / name).write_bytes(damage)
    with pytest.raises(SiteStorageError, match=r"state\.npz: is damaged"):
        storage.load_state()
    with pytest.raises(SiteStorageError, match=r"round-4\.update: is damaged"):
        storage.load_update(4)
    with pytest.raises(SiteStorageError, match=r"round-4\.reveal: is damaged"):
        storage.load_reveal(4)
    with pytest.raises(SiteStorageError, match=r"rounds\.json: is damaged"):
        storage.rounds()


WRITER = """
import sys, pathlib
sys.path.insert(0, sys.argv[2])
from tests.unit.test_storage import PLAN, state_after
from client.storage import RunStorage
storage = RunStorage(pathlib.Path(sys.argv[1]), plan=PLAN)
state = storage.load_state()
number = state.applied.round if state else 0
while True:
    number += 1
    storage.record_round(number, {"number": number})
    storage.save_state(state_after(number, size=20_000))
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
"""


def test_a_killed_site_keeps_its_last_acknowledged_state(tmp_path: Path) -> None:
    """SIGKILL in the middle of a write of 320 kB, several times on one folder."""
    acknowledged = 0
    for kill in range(3):
        command = [sys.executable, "-c", WRITER, str(tmp_path / "run"), str(ROOT)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 -- our own code
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(3 + kill)]
            process.kill()
            lines += process.stdout.readlines()
            process.wait()
        acknowledged = max(acknowledged, *(int(line) for line in lines if line.endswith("\n")))
        storage = RunStorage(tmp_path / "run", plan=PLAN)
        state = storage.load_state()
        assert state is not None
        number = state.applied.round
        assert acknowledged <= number <= acknowledged + 1
        assert (state.optimiser.parameters == number).all()
        assert (state.optimiser.velocity == -number).all()
        assert set(range(1, number + 1)) <= set(storage.rounds())
        acknowledged = number


FULL_DISK = """
import resource, sys, pathlib
sys.path.insert(0, sys.argv[2])
from tests.unit.test_storage import PLAN, state_after
import numpy as np
from client.storage import RunStorage
from common.errors import SiteStorageError
storage = RunStorage(pathlib.Path(sys.argv[1]), plan=PLAN)
storage.save_state(state_after(1))
storage.save_reply(2, 0, b"first")
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
attempts = (
    lambda: storage.save_state(state_after(2, size=20_000)),
    lambda: storage.save_reply(2, 0, bytes(10_000)),
    lambda: storage.save_update(2, np.zeros(5000, dtype=np.int64)),
    lambda: storage.save_masks(2, bytes(10_000)),
    lambda: storage.save_opening(2, bytes(10_000)),
    lambda: storage.save_reveal(2, attempt=0, survivors="d" * 64, reply=bytes(10_000)),
    lambda: storage.record_round(2, {"x": "x" * 10_000}),
)
for attempt in attempts:
    try:
        attempt()
    except SiteStorageError as error:
        print(error)
"""


def test_a_disk_that_refuses_leaves_the_old_files(tmp_path: Path) -> None:
    """Files beyond 4096 bytes are refused by the kernel; every write says so in one sentence and leaves no litter."""
    folder = tmp_path / "run"
    done = subprocess.run(  # noqa: S603 -- our own code
        [sys.executable, "-c", FULL_DISK, str(folder), str(ROOT)], capture_output=True, text=True, cwd=ROOT, check=True
    )
    refusals = done.stdout.splitlines()
    assert len(refusals) == 7
    for refusal in refusals:
        assert refusal.startswith(str(folder))
        assert "File too large; nothing was sent; make room" in refusal
    storage = RunStorage(folder, plan=PLAN)
    state = storage.load_state()
    assert state is not None
    assert state.applied.round == 1
    assert storage.load_reply(2, 0) == b"first"
    assert storage.load_update(2) is None
    assert (storage.load_masks(2), storage.load_opening(2), storage.load_reveal(2)) == (None, None, None)
    assert {path.name for path in folder.iterdir()} == {"plan", "state.npz", "round-2.reply-0"}


def test_a_path_that_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    """A file where the folder should be; a folder where a file should be."""
    (tmp_path / "file").write_text("x")
    attempts: tuple[Callable[[], object], ...] = (
        lambda: RunStorage(tmp_path / "file" / "run", plan=PLAN).mark_started(1),
        lambda: write_durably(tmp_path / "file" / "x", b""),
        lambda: write_durably(tmp_path / "missing" / "x", b""),
        lambda: write_durably(tmp_path, b""),
        lambda: read_durable(tmp_path),
    )
    for attempt in attempts:
        with pytest.raises(SiteStorageError, match="nothing was sent"):
            attempt()


def test_refused_aggregates_are_counted_by_key_and_only_once(tmp_path: Path) -> None:
    """Another key starts at none."""
    roots = [f"{i}" * 64 for i in range(MOST_REFUSED + 1)]
    for root in roots[:MOST_REFUSED]:
        refused = RefusedAggregates(tmp_path, key_name="1" * 64)
        refused.check(root)
        refused.add(root)
        with pytest.raises(DecryptionError):
            refused.check(root)
    with pytest.raises(EpochClosed, match="new epoch"):
        RefusedAggregates(tmp_path, key_name="1" * 64).check(roots[-1])
    RefusedAggregates(tmp_path, key_name="2" * 64).check(roots[-1])
