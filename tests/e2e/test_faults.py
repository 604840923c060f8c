"""Hospital networks as they are: a line that is cut and a slow one cost nobody else more than the round's deadline."""

from __future__ import annotations

import contextlib
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from common.config import load_settings
from common.plan import Plan
from scripts.tcp_proxy import OPEN, Condition
from server.store import Exchange, Store
from tests.support.flower_federation import Federation, environment, wait_until
from tests.support.proxies import Link

NAMES = ("hospital-1", "hospital-2", "hospital-3", "hospital-4", "hospital-5", "hospital-6")
SLOW, CUT = "hospital-5", "hospital-6"
STEADY = NAMES[:4]
ROUNDS = 4
ROUND_TIMEOUT_S = 15.0
# 1 Mbit/s, and 300 ms there and back. An upload has 2.2 MB: 18 s, more than a round has.
SLOW_LINE = Condition(bytes_per_s=125_000.0, delay_s=0.15)
PARAMETERS = 600_000
TEN_MINUTES_S = 600.0


def command(federation: Federation, *arguments: str) -> list[str]:
    """A `fedward-server` command line."""
    return [sys.executable, "-m", "server", *arguments, "--config", str(federation.server_file)]


@contextlib.contextmanager
def running(federation: Federation, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """`fedward-server run --json`, killed at the end if it still runs."""
    argv = command(federation, "run", str(federation.plan_file), "--json", *arguments)
    folder = federation.folder
    with (folder / "run.out").open("w") as out, (folder / "run.err").open("w") as err:
        run = subprocess.Popen(argv, env=environment(), stdout=out, stderr=err)  # noqa: S603 -- our own command
    try:
        yield run
    finally:
        run.kill()
        run.wait()


def at_work(federation: Federation, number: int, *names: str) -> None:
    """Wait until hospitals work on a round."""
    for name in names:
        wait_until((federation.folder / name / f"held-{number}").exists, f"round {number} at {name}")


def hold(federation: Federation, number: int, *names: str) -> None:
    """Make hospitals wait in a round."""
    for name in names:
        (federation.folder / name / f"hold-{number}").touch()


def go_on(federation: Federation, number: int, *names: str) -> None:
    """Let them end their work."""
    for name in names:
        (federation.folder / name / f"go-{number}").touch()


def applied(federation: Federation, *names: str) -> list[dict[str, Any]]:
    """What hospitals hold."""
    return [json.loads((federation.folder / name / "applied.json").read_text()) for name in names]


def exchanges(federation: Federation) -> tuple[Exchange, ...]:
    """What the store holds of the only run."""
    with contextlib.closing(Store(federation.server_file.parent / "work")) as store:
        known = store.runs()
        return store.exchanges(known[0].run) if known else ()


def complete(federation: Federation) -> int:
    """How many training rounds are complete."""
    return sum(e.kind == "train" for e in exchanges(federation))


def rounds_of(federation: Federation, name: str) -> int:
    """How many training rounds a hospital has contributed to."""
    rounds = [e.outcomes for e in exchanges(federation) if e.kind == "train"]
    return sum((o.hospital, o.outcome) == (name, "contributed") for outcomes in rounds for o in outcomes)


@dataclass(frozen=True)
class Finished:
    """A run over bad lines.

    Args:
        federation: Its processes.
        summary: What the run's command printed.
        bad_from: Rounds that were complete when the lines got bad.
        bad_until: Rounds that were complete just before they were mended.
    """

    federation: Federation
    summary: dict[str, Any]
    bad_from: int
    bad_until: int

    def outcomes(self, name: str) -> list[str]:
        """What a hospital did in each training round."""
        rows = [e["hospitals"] for e in self.summary["exchanges"] if e["kind"] == "train"]
        return [next(h["outcome"] for h in row if h["name"] == name) for row in rows]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """In mid-round 2 one line goes silent and another gets slow; in round 3 both are mended."""
    folder = tmp_path_factory.mktemp("faults")
    federation = Federation(
        folder, NAMES, rounds=ROUNDS, round_timeout_s=ROUND_TIMEOUT_S, trainable_parameters=PARAMETERS
    )
    federation.write()
    with Link(folder, federation.fleet_port) as slow, Link(folder, federation.fleet_port) as cut:
        federation.write_site(SLOW, superlink=f"127.0.0.1:{slow.port}")
        federation.write_site(CUT, superlink=f"127.0.0.1:{cut.port}")
        hold(federation, 2, SLOW, CUT)
        hold(federation, 3, NAMES[0])
        try:
            federation.start_all()
            with running(federation) as run:
                at_work(federation, 2, SLOW, CUT)
                bad_from = complete(federation)
                slow.become(SLOW_LINE)
                cut.become(Condition(state="hold"))
                go_on(federation, 2, SLOW, CUT)
                at_work(federation, 3, NAMES[0])
                bad_until = complete(federation)
                slow.become(OPEN)
                cut.become(OPEN)
                go_on(federation, 3, NAMES[0])
                assert run.wait(timeout=120) == 0, (folder / "run.err").read_text()
            yield Finished(federation, json.loads((folder / "run.out").read_text()), bad_from, bad_until)
        finally:
            federation.close()


def test_bad_lines_cost_the_others_no_round(finished: Finished) -> None:
    """Each is complete at its first attempt, and the one in which two lines got bad is so before they are mended."""
    assert (finished.bad_from, finished.bad_until) == (1, 2)
    exchanges = finished.summary["exchanges"]
    assert [(e["kind"], e["round"], e["attempt"]) for e in exchanges if e["kind"] == "train"] == [
        ("train", number, 0) for number in range(1, ROUNDS + 1)
    ]
    for name in STEADY:
        assert finished.outcomes(name) == ["contributed"] * ROUNDS
    # Flower's word for an answer that did not come in time, or ours, whoever looks first.
    for name in (SLOW, CUT):
        assert finished.outcomes(name)[:2] in (["contributed", "late"], ["contributed", "failed"])


def test_hospitals_behind_mended_lines_contribute_again_and_hold_the_same_model(finished: Finished) -> None:
    """With what they missed, without a restart of anything."""
    for name in (SLOW, CUT):
        assert finished.outcomes(name)[-1] == "contributed", finished.outcomes(name)
        assert "died" not in finished.federation.log(name)
    states = applied(finished.federation, *NAMES)
    assert all(state == states[0] for state in states)
    assert states[0]["round"] == ROUNDS


def test_no_run_of_trivial_hospitals_is_due_a_new_key(tmp_path: Path) -> None:
    """They have none and can deal none, so a run would end there, whatever its lines are like."""
    federation = Federation(tmp_path, NAMES, rounds=900)
    federation.write()
    plan = load_settings(federation.plan_file, Plan)
    assert plan.least_epoch(plan.last_round) == plan.agreed.epoch


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_cut_of_ten_minutes_delays_nobody_else(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """One round ends at its deadline, or when Flower misses the hospital; later ones do not ask it. Then it is back."""
    names = NAMES[:4]
    federation = Federation(tmp_path, names, rounds=900, round_timeout_s=120.0)
    federation.write()
    with Link(tmp_path, federation.fleet_port) as line, contextlib.closing(federation):
        federation.write_site(names[3], superlink=f"127.0.0.1:{line.port}")
        federation.start_all()
        with running(federation) as run:

            def goes_on() -> bool:
                assert run.poll() is None, (federation.folder / "run.err").read_text()
                return True

            def fourth_has(rounds: int) -> bool:
                return goes_on() and rounds_of(federation, names[3]) >= rounds

            wait_until(lambda: fourth_has(2), "two rounds by four hospitals")
            line.become(Condition(state="hold"))
            cut, cut_after = time.monotonic(), complete(federation)
            wait_until(
                lambda: goes_on() and time.monotonic() - cut >= TEN_MINUTES_S,
                "the end of the cut",
                timeout_s=2 * TEN_MINUTES_S,
            )
            mended_after, missed = complete(federation), rounds_of(federation, names[3])
            line.become(OPEN)
            mended = time.monotonic()
            wait_until(lambda: fourth_has(missed + 2), "the fourth hospital", timeout_s=300.0)
            back_s = time.monotonic() - mended
        rounds = [e for e in exchanges(federation) if e.kind == "train"]
    seconds = [e.seconds for e in rounds]
    measured = (
        ("rounds", mended_after - cut_after),
        ("longest_s", max(seconds)),
        ("median_s", statistics.median(seconds)),
    )
    for name, value in (*measured, ("back_s", back_s)):
        record_property(name, value)
    # Every round by the three others, at its first attempt.
    assert [(e.round, e.attempt) for e in rounds] == [(number, 0) for number in range(1, len(rounds) + 1)]
    for name in names[:3]:
        assert set(outcomes_of(rounds, name)) == {"contributed"}
    # The fourth is waited for in one round, or two if one opened before Flower missed it; then it is not asked.
    letters = "".join(LETTERS[outcome] for outcome in outcomes_of(rounds, names[3]))
    assert re.fullmatch(r"C?N{1,2}A+", letters[cut_after:mended_after]), letters
    # It missed the unmasking, and with it its part in the next round's masks: it observes that, then contributes.
    assert re.search(r"OC", letters[mended_after:]), letters
    assert letters[mended_after:].count("C") >= 2, letters


LETTERS = {"contributed": "C", "observed": "O", "late": "N", "failed": "N", "absent": "A", "catching-up": "U"}


def outcomes_of(rounds: list[Exchange], name: str) -> list[str]:
    """What a hospital did in each."""
    return [next(o.outcome for o in e.outcomes if o.hospital == name) for e in rounds]
