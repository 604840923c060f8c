"""The chaos bench: its accidents, and its verdict, which each kind of damage must turn."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client.accountant import PrivacyEvent
from client.ledger import Ledger
from client.ledger_cap import Cap
from client.ledger_entry import Charge
from common.identity import Identity
from scripts.bench_chaos import chaos_plan
from scripts.chaos_command import summary
from scripts.chaos_faults import (
    ON_COORDINATOR,
    ON_SITES,
    ChaosOptions,
    Fault,
    Recovered,
    disturbed,
    fault_row,
    schedule,
)
from scripts.chaos_run import ChaosFederation
from scripts.chaos_verdict import Disturbed, Evidence, judge
from server.store import Exchange, Outcome, OutcomeKind
from tests.support.flower_federation import wait_until

HOSPITALS = tuple(f"hospital-{number}" for number in range(1, 6))
KILLED, CUT = HOSPITALS[0], HOSPITALS[1]
ROUNDS = 4
RUN = "4" * 32


# The accidents.


@pytest.mark.parametrize("rounds", [2, 7, 20])
def test_each_kind_strikes_once_in_the_first_half(rounds: int) -> None:
    """So that a hospital can be back before the end; each hospital is struck once at most."""
    faults = schedule(ChaosOptions(rounds, len(HOSPITALS), 1.0, 7, None), HOSPITALS)
    assert sorted(fault.kind for fault in faults) == sorted(ON_SITES + ON_COORDINATOR)
    struck = [fault.hospital for fault in faults if fault.hospital]
    assert len(set(struck)) == len(ON_SITES)
    assert all(1 <= fault.after_round <= max(1, rounds // 2) for fault in faults)


@pytest.mark.parametrize("seed", range(20))
def test_no_two_strike_after_the_same_round(seed: int) -> None:
    """Of a run that has the rounds for it; of a shorter one they are spread as far as they can be."""
    kinds = len(ON_SITES + ON_COORDINATOR)
    for rounds, most_at_once in ((20, 1), (12, 1), (6, 3), (2, kinds)):
        faults = schedule(ChaosOptions(rounds, len(HOSPITALS), 1.0, seed, None), HOSPITALS)
        after = [fault.after_round for fault in faults]
        assert after == sorted(after)
        assert max(after.count(number) for number in after) <= most_at_once


def test_the_seed_decides() -> None:
    """A failure can be repeated."""
    first, again, other = (schedule(ChaosOptions(20, len(HOSPITALS), 1.0, seed, None), HOSPITALS) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_the_plan_is_the_demo_on_small_images() -> None:
    """It is parsed, so that a change of the demo's plan cannot break the bench unseen."""
    plan = chaos_plan(20)
    assert plan.training.rounds == 20
    assert (plan.cohort.round_timeout_s, plan.cohort.attempts) == (30, 3)


def test_only_a_struck_hospital_was_out() -> None:
    """What a fault of the coordinator, or one that never struck, would explain is not explained."""
    struck = Recovered(Fault("line cut", CUT, 1), 2.0, 2, 3)
    assert disturbed(struck) == Disturbed(CUT, 2, 3)
    assert disturbed(Recovered(Fault("coordinator killed", "", 1), 2.0, 2, 3)) is None
    assert disturbed(Recovered(Fault("line cut", CUT, 1), None, None, None)) is None


# The verdict.


def exchange(number: int, **others: OutcomeKind) -> Exchange:
    """A training round to which all contribute but those that are named, with underscores."""
    outcomes = {name: others.get(name.replace("-", "_"), "contributed") for name in HOSPITALS}
    return Exchange(
        number, 0, "train", 3.0, tuple(Outcome(name, kind, "", 10, 10, 1.0) for name, kind in outcomes.items())
    )


def charges(*rounds: int) -> list[tuple[int, str]]:
    """A hospital's charges."""
    return [(number, f"hash of {number}") for number in rounds]


def sound() -> Evidence:
    """Four rounds; a hospital was killed in round 2, when it had charged for 1 and 2; another was cut in round 3."""
    return Evidence(
        rounds=ROUNDS,
        min_cohort=4,
        hospitals=HOSPITALS,
        exchanges=(exchange(1), exchange(2), exchange(3, hospital_2="late"), exchange(4)),
        reason="",
        models=dict.fromkeys(HOSPITALS, "one model"),
        charges=dict.fromkeys(HOSPITALS, charges(1, 2, 3, 4)),
        charges_before={KILLED: charges(1, 2)},
        disturbed=[Disturbed(CUT, 3, 4)],
        unstruck=[],
        orphans=0,
    )


def test_a_sound_run_passes_and_its_numbers_are_told() -> None:
    """The control of all that follows."""
    report = judge(sound())
    assert (report["passed"], report["failures"]) == (True, [])
    assert report["rounds"]["completed"] == ROUNDS
    assert report["contributions"] == dict.fromkeys(HOSPITALS, 4) | {CUT: 3}
    assert (report["ledger"]["charges"], report["ledger"]["releases"]) == (20, 19)
    # What the cut cost is told, and no failure.
    assert report["ledger"]["lost_to_a_fault"] == [{"hospital": CUT, "round": 3}]


def missing_round() -> tuple[Evidence, str]:
    """The run stopped before its last round."""
    ended = replace(sound(), exchanges=sound().exchanges[:3], charges=dict.fromkeys(HOSPITALS, charges(1, 2, 3)))
    return replace(ended, reason="too few hospitals"), "round 4 is missing (too few hospitals)"


def small_round() -> tuple[Evidence, str]:
    """A round with fewer than the plan asks for is none."""
    few = exchange(4, hospital_3="late", hospital_4="late")
    out = [*sound().disturbed, Disturbed(HOSPITALS[2], 4, None), Disturbed(HOSPITALS[3], 4, None)]
    return replace(sound(), exchanges=(*sound().exchanges[:3], few), disturbed=out), "round 4 is missing"


def other_model() -> tuple[Evidence, str]:
    """One hospital ended with another."""
    return replace(sound(), models={**sound().models, CUT: "another"}), "the finished models differ"


def unfinished_hospital() -> tuple[Evidence, str]:
    """The others hold one model; that is not enough."""
    found = {name: digest for name, digest in sound().models.items() if name != KILLED}
    return replace(sound(), models=found), f"no finished model at {KILLED}"


def no_model() -> tuple[Evidence, str]:
    """Nobody finished: no two models differ."""
    return replace(sound(), models={}), f"no finished model at {', '.join(HOSPITALS)}"


def lost_charge() -> tuple[Evidence, str]:
    """Budget was spent on a round that the hospital has no part in, and nothing had struck it."""
    late = (*sound().exchanges[:3], exchange(4, hospital_3="late"))
    return replace(
        sound(), exchanges=late
    ), "a charge without a release, and without a fault there: hospital-3, round 4"


def lost_after_the_fault() -> tuple[Evidence, str]:
    """A fault explains its own rounds only."""
    return replace(
        sound(), disturbed=[Disturbed(CUT, 1, 2)]
    ), f"a charge without a release, and without a fault there: {CUT}"


def lost_beside_the_fault() -> tuple[Evidence, str]:
    """A fault explains its own hospital only."""
    return replace(
        sound(), disturbed=[Disturbed(KILLED, 1, None)]
    ), "a charge without a release, and without a fault there"


def uncharged_release() -> tuple[Evidence, str]:
    """An upload that its ledger does not know: budget that was forgotten."""
    found = {**sound().charges, HOSPITALS[4]: charges(1, 2, 4)}
    return replace(sound(), charges=found), "a release without a charge: hospital-5, round 3"


def double_charge() -> tuple[Evidence, str]:
    """One round was paid for twice."""
    found = {**sound().charges, KILLED: [*charges(1, 2, 3, 4), (2, "another hash")]}
    return replace(sound(), charges=found), f"a round that was charged twice: {KILLED}, round 2"


def forgotten_charge() -> tuple[Evidence, str]:
    """What stood before the kill is another entry now."""
    return replace(sound(), charges_before={KILLED: [(1, "hash of 1"), (2, "another")]}), f"{KILLED}'s ledger forgot"


def orphan() -> tuple[Evidence, str]:
    """Something still runs."""
    return replace(sound(), orphans=2), "2 processes are left over"


def no_fault() -> tuple[Evidence, str]:
    """A run that nothing has struck shows nothing."""
    return replace(sound(), unstruck=["line cut"]), "a fault that never struck: line cut"


DAMAGES: list[Callable[[], tuple[Evidence, str]]] = [
    missing_round,
    small_round,
    other_model,
    unfinished_hospital,
    no_model,
    lost_charge,
    lost_after_the_fault,
    lost_beside_the_fault,
    uncharged_release,
    double_charge,
    forgotten_charge,
    orphan,
    no_fault,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_kind_of_damage_fails_the_run_and_is_named(damage: Callable[[], tuple[Evidence, str]]) -> None:
    """It alone: the sound run with this one change."""
    evidence, sentence = damage()
    report = judge(evidence)
    assert report["passed"] is False
    assert len(report["failures"]) == 1
    assert sentence in report["failures"][0]


@pytest.mark.parametrize("damage", [unfinished_hospital, no_model, other_model])
def test_models_are_equal_only_if_everybody_has_one(damage: Callable[[], tuple[Evidence, str]]) -> None:
    """One finisher of five holds the same model as itself."""
    assert judge(sound())["models"]["equal"] is True
    assert judge(damage()[0])["models"]["equal"] is False


def test_the_command_prints_faults_totals_and_verdict() -> None:
    """With the ledgers that forgot by name."""
    faults = [
        Recovered(Fault("site killed", KILLED, 1), 4.2, 2, 3),
        Recovered(Fault("line cut", CUT, 2), None, 3, None),
    ]

    def printed(evidence: Evidence) -> str:
        report: dict[str, Any] = judge(evidence) | {"faults": [fault_row(one) for one in faults], "hospitals": 5}
        return "\n".join(summary(report))

    text = printed(sound())
    assert f"site killed {KILLED} after round 1: recovered: 4.2 s" in text
    assert f"line cut {CUT} after round 2: recovered: not before the end of the run" in text
    assert "rounds: 4 of 4; models equal: yes, at 5 of 5; left-over processes: 0" in text
    assert "ledgers that forgot: none" in text
    assert text.endswith("\npassed")
    text = printed(forgotten_charge()[0])
    assert f"ledgers that forgot: {KILLED}" in text
    assert text.endswith("\nnot passed")


# The evidence.


def test_a_process_that_still_works_with_the_federations_files_is_an_orphan(tmp_path: Path) -> None:
    """By its folder or by its arguments; one of another federation is none."""
    ours, other = tmp_path / "ours", tmp_path / "other"
    for folder in (ours / "work", other):
        folder.mkdir(parents=True)
    federation = ChaosFederation(ours, HOSPITALS, RUN)
    assert federation.orphans() == []
    code = "import time; print(flush=True); time.sleep(600)"
    processes = [
        subprocess.Popen([sys.executable, "-c", code, word], cwd=folder)  # noqa: S603 -- our own interpreter
        for folder, word in ((ours / "work", ""), (tmp_path, str(ours / "site.yaml")), (other, str(other)))
    ]
    try:
        expected = {processes[0].pid, processes[1].pid}
        wait_until(lambda: set(federation.orphans()) == expected, "two orphans")
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert federation.orphans() == []


def test_charges_are_what_a_ledger_holds_of_this_run(tmp_path: Path) -> None:
    """Read from a copy, also beside a service that holds the file; other runs and kinds are left out."""
    (tmp_path / KILLED).mkdir()
    cap = Cap(epsilon=100.0, delta=1e-5)
    path, identity = tmp_path / KILLED / "ledger.sqlite", Identity.generate()
    ledger = Ledger(path, hospital=KILLED, source="images", identity=identity, cap=cap)
    for run, number, kind in ((RUN, 1, "train"), ("5" * 32, 1, "train"), (RUN, 1, "eval"), (RUN, 2, "train")):
        ledger.charge(
            Charge(
                kind="train" if kind == "train" else "eval",
                run=run,
                round_number=number,
                plan_hash="aa" * 32,
                event=PrivacyEvent(1.0, 10.0, 1),
                clip=0.5,
                units_digest="bb" * 32,
                held_out_rule="ee" * 32,
                mode="local",
                shares=1,
            )
        )
    found = ChaosFederation(tmp_path, (KILLED,), RUN).charges(KILLED)
    ledger.close()
    assert [number for number, _ in found] == [1, 2]
    assert len({digest for _, digest in found}) == 2
