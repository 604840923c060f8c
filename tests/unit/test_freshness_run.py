"""Hospitals that are started again in a run that the real coordinator carries, and what an old copy of one does."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from common.errors import BadSignature, FedwardError, MalformedMessage, WrongPlan
from common.freshness_messages import FreshnessAnswer
from common.messages import Request
from server.freshness import FreshnessDesk
from server.store import Exchange
from tests.support.in_process_grid import as_server_app
from tests.support.small_federation import NAMES, SmallFederation
from tests.support.whole_run import WholeRun

OURS = NAMES[0]


@pytest.fixture
def federation(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallFederation]:
    """Four open hospitals."""
    as_server_app(monkeypatch)
    with SmallFederation.copy_of(base, tmp_path / "sites") as opened:
        yield opened


class Run(WholeRun):
    """A run with hospitals that may be started again at any request."""

    def __init__(self, federation: SmallFederation, folder: Path) -> None:
        folder.mkdir()

        def answer(frame: bytes, name: str) -> bytes:
            # Whatever service runs by then.
            return federation.sites[name].answer(frame)

        sites = {name: partial(answer, name=name) for name in NAMES}
        super().__init__(folder, federation.plan, federation.coordinator.identity, sites)
        federation.coordinator.run = self.run
        self._when: dict[tuple[str, int, str], Callable[[], None]] = {}
        self.before = self._act

    def at(self, kind: str, number: int, asked: str, act: Callable[[], None]) -> None:
        """Do something before a hospital gets its first request of a kind and round."""
        self._when[kind, number, asked] = act

    def of(self, kind: str) -> list[Exchange]:
        """The recorded exchanges of a kind."""
        return [one for one in self.exchanges() if one.kind == kind]

    def codes(self, kind: str) -> dict[tuple[int, int], list[str]]:
        """What each hospital said why, by round and attempt."""
        return {(one.round, one.attempt): [o.code for o in one.outcomes] for one in self.of(kind)}

    def _act(self, request: Request) -> None:
        act = self._when.pop((request.kind, request.round, request.hospital), None)
        if act is not None:
            act()


def restart(federation: SmallFederation, *names: str) -> Callable[[], None]:
    """What stops and starts hospitals."""

    def act() -> None:
        for name in names:
            federation.reopen(name)

    return act


def all_rounds(run: Run) -> list[tuple[str, ...]]:
    """Whose uploads are in each sum."""
    return [run.ended(number) for number in range(1, run.plan.last_round + 1)]


def test_an_honest_run_has_one_more_document_and_no_more_exchanges(federation: SmallFederation, tmp_path: Path) -> None:
    """Nonces ride on `hello`, answers on `keys`; all contribute to every round."""
    run = Run(federation, tmp_path / "run")
    run.go()
    assert all_rounds(run) == [NAMES] * 3
    assert [(one.round, one.attempt) for one in run.of("keys")] == [(1, 0)]
    assert len(run.exchanges()) == 1 + 1 + 3 * 2 + 1
    assert [federation.charges(name) for name in NAMES] == [2] * 4
    told = [len(one.answers) for _, one, _ in run.requests if one.kind == "train" and one.round == 1]
    assert told == [3] * 4
    assert not any(one.answers or one.nonces for _, one, _ in run.requests if one.round > 1)


def test_hospitals_that_are_all_started_between_two_rounds_lose_none(
    federation: SmallFederation, tmp_path: Path
) -> None:
    """Their adverts are there already. Nobody knows of the start before the reply: one attempt, and no charge more."""
    run = Run(federation, tmp_path / "run")
    run.at("train", 2, OURS, restart(federation, *NAMES))
    run.go()
    assert all_rounds(run) == [NAMES] * 3
    assert run.codes("train") == {(1, 0): [""] * 4, (2, 0): ["NotFresh"] * 4, (2, 1): [""] * 4}
    assert [federation.charges(name) for name in NAMES] == [2] * 4


def test_hospitals_and_coordinator_that_are_started_together_go_on(federation: SmallFederation, tmp_path: Path) -> None:
    """The coordinator hears of it with `hello`, and has the nonces answered before the first opening."""
    run = Run(federation, tmp_path / "run")

    def power_cut() -> None:
        raise ConnectionError

    run.at("train", 2, OURS, power_cut)
    with pytest.raises(ConnectionError):
        run.go()
    for name in NAMES:
        federation.reopen(name)
    run.go()
    assert all_rounds(run) == [NAMES] * 3
    assert run.codes("train") == {(1, 0): [""] * 4, (2, 0): [""] * 4}


def test_one_that_is_started_before_its_upload_observes_the_round(federation: SmallFederation, tmp_path: Path) -> None:
    """The others complete it; the answers ride on their shares, and it contributes to the next."""
    run = Run(federation, tmp_path / "run")
    run.at("train", 2, OURS, restart(federation, OURS))
    run.go()
    assert all_rounds(run) == [NAMES, NAMES[1:], NAMES]
    assert [one.round for one in run.of("keys")] == [1]
    assert federation.charges(OURS) == 1


def test_one_that_is_started_after_its_upload_still_gives_its_shares(
    federation: SmallFederation, tmp_path: Path
) -> None:
    """It is asked twice: with a share less the round could not end here, for a second hospital is gone."""
    run = Run(federation, tmp_path / "run")

    def gone() -> None:
        run.at("unmask", 2, NAMES[3], gone)
        raise WrongPlan("stands for a hospital that does not answer")

    run.at("unmask", 2, OURS, restart(federation, OURS))
    run.at("unmask", 2, NAMES[3], gone)
    run.go()
    assert all_rounds(run)[:2] == [NAMES] * 2
    asked = [name for name, one, _ in run.requests if (one.kind, one.round) == ("unmask", 2)]
    assert asked.count(OURS) == 2
    assert asked.count(NAMES[1]) == 1


def test_an_old_copy_is_left_out_and_the_run_goes_on(federation: SmallFederation, tmp_path: Path) -> None:
    """Ledger and state from before its first charge: it charges nothing more, and the coordinator is told why."""
    for name in NAMES:
        federation.close(name)
        federation.change_site(name, cap_epsilon=1000.0)
        federation.open(name)
    run, home, copy = Run(federation, tmp_path / "run"), federation.folder / "federation" / OURS, tmp_path / "copy"

    def keep() -> None:
        shutil.copytree(home, copy)

    def restore() -> None:
        federation.close(OURS)
        shutil.rmtree(home)
        shutil.copytree(copy, home)
        federation.open(OURS)

    run.at("train", 1, OURS, keep)
    run.at("eval", 3, OURS, restore)
    run.go()
    assert all_rounds(run) == [NAMES, NAMES, NAMES[1:]]
    assert federation.charges(OURS) == 0
    again = Run(federation, tmp_path / "again")
    again.run = federation.coordinator.run = "b" * 32
    again.go()
    assert all_rounds(again) == [NAMES[1:]] * 3
    assert federation.charges(OURS) == 0
    assert again.codes("train") == {(number, 0): ["LedgerRolledBack", "", "", ""] for number in (1, 2)}
    assert ("unmask", 1, OURS) in [(one.kind, one.round, name) for name, one, _ in again.errors]


LIES: dict[str, tuple[dict[str, object], type[FedwardError]]] = {
    "of another hospital": ({"hospital": NAMES[2]}, WrongPlan),
    "of another run": ({"run": "e" * 32}, WrongPlan),
    "of another plan": ({"plan": "e" * 64}, WrongPlan),
    "of another epoch": ({"epoch": 9}, WrongPlan),
    "about another ledger": ({"ledger": "e" * 64}, WrongPlan),
    "to itself": ({"asker": NAMES[1]}, WrongPlan),
    "shows no manifest": ({"seen": ("00",)}, MalformedMessage),
}


@pytest.mark.parametrize("lie", LIES)
def test_the_coordinator_forwards_only_what_a_hospital_may_say(federation: SmallFederation, lie: str) -> None:
    """Else a hospital that lies had the asker refuse the requests of an honest coordinator."""
    changes, error = LIES[lie]
    desk = FreshnessDesk(federation.plan, federation.coordinator.run)
    desk.note(OURS, "1" * 64, ledger="2" * 64)
    (asked,) = desk.nonces_for(NAMES[1], "keys")
    answer: FreshnessAnswer = federation.signed_answer(asked, NAMES[1], **changes)
    with pytest.raises(error):
        desk.take((answer,), NAMES[1], epoch=1)
    unsigned = federation.signed_answer(asked, NAMES[1]).model_copy(update={"signature": "0" * 128})
    with pytest.raises(BadSignature):
        desk.take((unsigned,), NAMES[1], epoch=1)
    assert desk.answers_for(OURS, "train") == ()
    honest = federation.signed_answer(asked, NAMES[1])
    desk.take((honest,), NAMES[1], epoch=1)
    assert desk.answers_for(OURS, "train") == (honest,)
    assert desk.is_open(NAMES)
    desk.take((federation.signed_answer(asked, NAMES[2]),), NAMES[2], epoch=1)
    assert not desk.is_open(NAMES)
    # Another start: the answers to the first are worth nothing.
    desk.note(OURS, "3" * 64)
    assert desk.answers_for(OURS, "train") == ()
    desk.take((honest,), NAMES[1], epoch=1)
    assert desk.answers_for(OURS, "train") == ()
    desk.note(OURS, "")
    assert desk.nonces_for(NAMES[1], "keys") == ()
