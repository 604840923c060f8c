"""What the compose demo does once only, and must not do twice: fill the volumes with keys, and run the plan."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts import compose_init
from scripts.compose_init import COORDINATOR, GATEWAY, SITE

DOCKER = Path(__file__).parents[2] / "docker"
RUN = "0123456789abcdef0123456789abcdef"
OTHER_RUN = RUN[::-1]
HOSPITALS = ("hospital-1", "hospital-2", "hospital-3")

# Stands for the coordinator's command: says what the test wants it to say, and writes down what it is asked to run.
STUB = """#!/bin/sh
case $1 in
  status) cat "$FOLDER/status"; exit "$(cat "$FOLDER/code")" ;;
  run) echo "$*" >> "$FOLDER/started" ;;
esac
"""
OLD_FORM = """
plan=$1 config=$2
last=$(fedward-server status --config "$config" | tail -n 1)
case $last in
  '') ;;
  *' finished,'*) exit 0 ;;
  *) set -- --run-id "${last%% *}" "$@" ;;
esac
exec fedward-server run "$plan" --config "$config" "$@"
"""


def run_plan(script: str, folder: Path, *, status: str, code: int = 0) -> tuple[int, list[str], str]:
    """Run a script beside a command that answers so; its status, the runs that were started, and what it said."""
    command = folder / "fedward-server"
    command.write_text(STUB)
    command.chmod(0o755)
    (folder / "status").write_text(status)
    (folder / "code").write_text(str(code))
    (folder / "started").write_text("")
    done = subprocess.run(  # noqa: S603 -- our own script
        ["/bin/sh", "-eu", "-c", script, "run-plan.sh", "plan.yaml", "server.yaml", "--connect-timeout-s", "9"],
        env={"PATH": f"{folder}:/usr/bin:/bin", "FOLDER": str(folder)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, (folder / "started").read_text().splitlines(), done.stdout + done.stderr


@pytest.fixture
def script() -> str:
    """What the service `run` of the demo runs."""
    return (DOCKER / "run-plan.sh").read_text()


def test_no_run_is_started_where_the_runs_cannot_be_listed(script: str, tmp_path: Path) -> None:
    """A second run would spend the hospitals' budgets again; the control is the pipe that hid the failure."""
    for said in ("", f"{RUN} finished, last complete round 7\n"):
        code, started, text = run_plan(script, tmp_path, status=said, code=1)
        assert (code, started) == (1, [])
        assert "cannot tell whether the plan has run" in text
    assert run_plan(OLD_FORM, tmp_path, status="", code=1)[1], "control: the old form starts a run"


def test_a_plan_without_a_run_is_run(script: str, tmp_path: Path) -> None:
    """The first `up`."""
    code, started, _ = run_plan(script, tmp_path, status="")
    assert (code, started) == (0, ["run plan.yaml --config server.yaml --connect-timeout-s 9"])


def test_a_finished_run_is_not_run_again(script: str, tmp_path: Path) -> None:
    """The second `up`."""
    code, started, text = run_plan(script, tmp_path, status=f"{RUN} finished, last complete round 7\n")
    assert (code, started) == (0, [])
    assert "this plan has run" in text


@pytest.mark.parametrize("state", ["running", "stopped"])
def test_an_interrupted_run_goes_on(script: str, tmp_path: Path, state: str) -> None:
    """The same run, whose rounds are charged already; a reason that speaks of something finished changes nothing."""
    last = f"{RUN} {state}, last complete round 3, reason: hospital-1 had finished, hospital-2 not"
    code, started, _ = run_plan(script, tmp_path, status=f"{OTHER_RUN} finished, last complete round 7\n{last}\n")
    assert code == 0
    assert started == [f"run plan.yaml --config server.yaml --run-id {RUN} --connect-timeout-s 9"]


@pytest.mark.parametrize("line", ["oops", f"{RUN} begun, last complete round 0", "warning: finished"])
def test_an_answer_that_is_not_understood_starts_nothing(script: str, tmp_path: Path, line: str) -> None:
    """Another version's state, or a sentence that is no run at all."""
    code, started, text = run_plan(script, tmp_path, status=line + "\n")
    assert (code, started) == (1, [])
    assert line in text


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """The coordinator's part of what `provision` makes."""
    folder = tmp_path / "federation"
    (folder / "coordinator" / "nodes").mkdir(parents=True)
    sample = Path(__file__).parents[2] / "configs" / "server.yaml"
    (folder / "coordinator" / "server.yaml").write_text(sample.read_text())
    for name in ("identity.key", "server.key", "nodes/hospital-1.pub"):
        (folder / "coordinator" / name).write_text(name)
    (folder / "plan.yaml").write_text("the agreed plan")
    return folder


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    """The coordinator's empty volumes."""
    for name in ("keys", "work"):
        (tmp_path / "volumes" / name).mkdir(parents=True)
    return tmp_path / "volumes"


class Killed(BaseException):
    """Stands for the end of the process."""


def killing(after: int, owners: dict[Path, int]) -> Callable[[Path, int, int], None]:
    """`os.chown` that notes the owner, as no ordinary user could set it, and ends the process at one of the calls."""

    def chown(path: Path, user: int, _group: int) -> None:
        if len(owners) == after:
            raise Killed
        owners[Path(path)] = user

    return chown


def test_the_mark_is_there_only_when_everything_has_its_owner(
    made: Path, volumes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start that was killed at any file leaves volumes that the next one fills anew, and does not trust."""
    mark = volumes / "keys" / "plan.yaml"
    steps = 0
    while not mark.exists():
        owners: dict[Path, int] = {}
        monkeypatch.setattr(os, "chown", killing(steps, owners))
        try:
            compose_init._fill_coordinator(volumes, made)
        except Killed:
            assert not mark.exists(), f"killed after {steps} files"
        steps += 1
    assert steps > 5, "control: it was killed at each file"
    files = {path for path in volumes.rglob("*") if path != mark}
    assert files <= set(owners)
    assert set(owners.values()) == {COORDINATOR.user}
    assert (mark.stat().st_mode & 0o777, mark.read_text()) == (0o400, "the agreed plan")
    assert [path.name for path in (volumes / "keys").iterdir() if path.name.startswith(".")] == []


def test_volumes_are_filled_once_and_anew_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole program: killed before its last step, started again, and once more."""
    for name in HOSPITALS:
        for part in ("data", "keys", "state", "gateway"):
            (tmp_path / name / part).mkdir(parents=True)
    for part in ("keys", "work"):
        (tmp_path / "coordinator" / part).mkdir(parents=True)
    owners: dict[Path, int] = {}
    monkeypatch.setattr(os, "chown", killing(-1, owners))
    with monkeypatch.context() as context:
        context.setattr(os, "sync", lambda: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            compose_init.fill(volumes=tmp_path, rounds=1, images_per_class=20)
    vault = tmp_path / "hospital-1" / "state" / "vault"
    plan = tmp_path / "coordinator" / "keys" / "plan.yaml"
    abandoned = vault.read_bytes()
    assert not plan.exists()
    compose_init.fill(volumes=tmp_path, rounds=1, images_per_class=20)
    kept = vault.read_bytes()
    assert kept != abandoned
    assert plan.read_bytes() == (tmp_path / "hospital-1" / "keys" / "plan.yaml").read_bytes()
    for part, owner in (("data", SITE), ("keys", SITE), ("state", SITE), ("gateway", GATEWAY)):
        paths = (tmp_path / "hospital-2" / part).rglob("*")
        assert {owners[path] for path in paths} == {owner.user}, part
    compose_init.fill(volumes=tmp_path, rounds=1, images_per_class=20)
    assert vault.read_bytes() == kept, "keys are never overwritten"
