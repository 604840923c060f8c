"""A round that cannot be completed is skipped where that helps, and stops the run where it does not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from common.errors import DeploymentError, NobodyContributes, WrongPlan
from common.messages import Request
from tests.support.in_process_grid import as_server_app
from tests.support.whole_run import WholeRun, trivial_run

NAMES = tuple(f"hospital-{k}" for k in range(1, 6))
ROUNDS = 3


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WholeRun:
    """Five hospitals, of which four are needed."""
    as_server_app(monkeypatch)
    return trivial_run(tmp_path, NAMES, rounds=ROUNDS)


def losing_masks(run: WholeRun, names: Sequence[str], round_number: int) -> None:
    """Before they are asked for a round these lose what they had made for it."""

    def before(request: Request) -> None:
        if (request.kind, request.round) == ("train", round_number) and request.hospital in names:
            (run.folder / request.hospital / "runs" / run.run / f"round-{round_number}.masks").unlink(missing_ok=True)

    run.before = before


def test_a_round_whose_masks_are_lost_is_skipped_and_the_next_has_all(run: WholeRun) -> None:
    """All are there, and the opening is fixed: it could be asked for again for ever."""
    losing_masks(run, NAMES[3:], 2)
    run.go()
    assert run.ended(2) == ()
    assert run.asked("unmask", 2) == []
    assert [(e.kind, e.attempt) for e in run.exchanges() if e.round == 2] == [
        ("train", 0),
        ("train", 1),
        ("unmask", 1),
    ]
    assert run.ended(3) == NAMES


def test_one_hospital_that_lost_its_masks_costs_no_round(run: WholeRun) -> None:
    """The control: it is one dropout."""
    losing_masks(run, NAMES[4:], 2)
    run.go()
    assert run.ended(2) == NAMES[:4]


def test_a_round_for_which_too_few_are_there_is_not_skipped(run: WholeRun) -> None:
    """They may come back: the run stops, and goes on with the same uploads."""

    def away(request: Request) -> None:
        if (request.kind, request.round) == ("train", 2) and request.hospital in NAMES[3:]:
            raise WrongPlan("stands for a hospital that does not answer")

    run.before = away
    with pytest.raises(DeploymentError, match="train 2 stopped at attempt 2 of 2: 3 of 5 hospitals answered as asked"):
        run.go()
    run.before = lambda _: None
    run.go()
    assert run.ended(2) == NAMES


def test_hospitals_whose_budget_is_spent_end_the_run(run: WholeRun) -> None:
    """Nothing changes that by itself."""

    def spent(request: Request) -> None:
        if (request.kind, request.round) == ("train", 2):
            for name in NAMES[3:]:
                (run.folder / name / "observe").touch()

    run.before = spent
    with pytest.raises(NobodyContributes, match=r"hospital-4 observed \(BudgetExceeded\)"):
        run.go()
