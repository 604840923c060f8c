"""Each attack of `fedward attack` fails against the real code, and succeeds where its defence is missing."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import scripts.attack
from common.errors import OperatorError
from scripts.attack import QUICK, Family
from scripts.attack_collusion import LEAST_WITHOUT, MOST_WITH_MASKS, attack_collusion
from scripts.attack_forged_rounds import AFTER_A_SPLIT, AFTER_REVEAL, AFTER_UPLOADS, WHILE_DELIVERING
from scripts.attack_forged_sums import FORGED_SUMS
from scripts.attack_hostile import attack_hostile
from scripts.attack_mutations import Shape, mutate
from scripts.attack_pages import WATCHED
from scripts.attack_result import AttackResult
from scripts.attack_tamper import attack_tamper
from scripts.cli import app

HONEST_SCENES = {"delivering", "uploaded", "revealed"}


def silent(_: str) -> None:
    """No progress."""


def numbers(result: AttackResult, key: str) -> dict[str, Any]:
    """One of a result's details that has several."""
    found = result.as_json()[key]
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def collusion() -> Sequence[AttackResult]:
    """Two pairs of colluder and victim in each of two rounds, and two split openings."""
    return attack_collusion(seed=3, count=QUICK[Family.COLLUSION], say=silent)


@pytest.fixture(scope="module")
def tamper() -> Sequence[AttackResult]:
    """Two lies of each kind, and a sum that split views have shrunk."""
    return attack_tamper(seed=3, count=QUICK[Family.TAMPER], say=silent)


@pytest.fixture(scope="module")
def hostile() -> AttackResult:
    """Malformed messages before each message of a run."""
    (result,) = attack_hostile(seed=3, count=QUICK[Family.HOSTILE], say=silent)
    return result


def test_coordinator_and_hospital_together_do_not_read_an_update(collusion: Sequence[AttackResult]) -> None:
    """Control: without masks they read all of it."""
    masks = collusion[0]
    assert masks.figure < MOST_WITH_MASKS
    assert masks.control > LEAST_WITHOUT
    assert masks.as_json()["parameters"] == 60_818


@pytest.mark.parametrize("index", [1, 2], ids=["split opening", "two attempts"])
def test_two_openings_of_a_round_are_refused(collusion: Sequence[AttackResult], index: int) -> None:
    """Control: whoever took both would give one hospital's update away as the difference of two sums."""
    result = collusion[index]
    assert result.figure == 0
    assert result.control > LEAST_WITHOUT
    assert result.passed


def test_every_lie_is_refused_with_its_named_error(tamper: Sequence[AttackResult]) -> None:
    """All kinds were played; a hospital without these checks takes many; honest messages are taken by ours."""
    lies = tamper[0]
    kinds = numbers(lies, "kinds")
    assert set(kinds) == {*FORGED_SUMS, *WHILE_DELIVERING, *AFTER_UPLOADS, *AFTER_REVEAL, *AFTER_A_SPLIT}
    assert all(kind["attacks"] == 2 for kind in kinds.values())
    assert [kind["undetected"] for kind in kinds.values()] == [[]] * len(kinds)
    assert lies.control > len(kinds) / 2
    assert lies.as_json()["honest_messages"] == dict.fromkeys(HONEST_SCENES, "accepted")
    assert lies.passed


@pytest.mark.parametrize("kind", ["fake-a-skip", "two-survivor-sets"])
def test_what_is_seen_one_round_later_says_so(tamper: Sequence[AttackResult], kind: str) -> None:
    """These lies show only in the round after."""
    kinds = numbers(tamper[0], "kinds")
    assert kinds[kind]["detected_rounds_later"] == 1


def test_a_sum_that_split_views_shrank_is_seen_one_round_later(tamper: Sequence[AttackResult]) -> None:
    """Control: the coordinator with three of ten hospitals does open a sum of two honest ones."""
    shrunken = tamper[1]
    assert (shrunken.figure, shrunken.control, shrunken.passed) == (0, 2, True)
    assert shrunken.as_json()["detected_rounds_later"] == 1
    assert set(numbers(shrunken, "answers_to_the_sum").values()) == {"TranscriptError"}
    hidden = numbers(shrunken, "answers_to_the_next_unmasking_if_all_are_told_that_the_round_was_skipped")
    assert set(hidden.values()) == {"SplitViewError"}


def test_malformed_messages_are_refused_by_name_in_little_memory(hostile: AttackResult) -> None:
    """Control: the valid messages between them are taken, and all hospitals end with one state."""
    details = hostile.as_json()
    assert (details["accepted"], details["crashes"]) == ({}, {})
    assert sum(numbers(hostile, "errors").values()) == details["messages"] == QUICK[Family.HOSTILE]
    assert len(numbers(hostile, "kinds")) == 21
    assert set(WATCHED) < numbers(hostile, "kinds").keys()
    assert hostile.control == 86
    assert details["states_equal"]
    assert hostile.passed


def test_mutations_differ_and_can_be_drawn_again() -> None:
    """The same seed gives the same messages, so that a finding can be looked at."""
    shape = Shape(b"", lambda _: b"\x01" * 64, b"label")
    valid = b'{"plan":"ab","round":1,"signature":"00"}'

    def drawn(seed: int) -> list[tuple[str, bytes]]:
        draw = random.Random(seed)  # noqa: S311 -- no secrets
        return [mutate(valid, shape, draw) for _ in range(200)]

    assert drawn(1) == drawn(1)
    assert len({made for _, made in drawn(1)}) > 100
    assert len({done for done, _ in drawn(1)}) == 9


@pytest.mark.parametrize("passed", [True, False])
def test_the_command_writes_its_results_and_fails_if_an_attack_succeeds(
    *, passed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit status and file say the same."""
    result = AttackResult("collusion", 0.5, 1.0, passed, "a claim", {"pairs": 3})
    monkeypatch.setattr(scripts.attack, "run_attack", lambda *_, **__: [result])
    path = tmp_path / "attack.json"
    done = CliRunner().invoke(app, ["attack", "collusion", "--json", str(path)])
    assert done.exit_code == (0 if passed else 1)
    assert "a claim" in done.output
    (row,) = json.loads(path.read_text())
    assert row == {
        "attack": "collusion",
        "figure": 0.5,
        "control": 1.0,
        "passed": passed,
        "claim": "a claim",
        "pairs": 3,
    }


def test_a_report_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    """Not after it."""
    done = CliRunner().invoke(app, ["attack", "--json", str(tmp_path / "none" / "attack.json")])
    assert isinstance(done.exception, OperatorError)
