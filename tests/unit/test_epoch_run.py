"""Runs under several CKKS keys: real hospitals and the real coordinator, no network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from common.ckks import PRESETS, chunks_for, decode_sum
from common.errors import DecryptionError, EpochExpired, WrongPlan
from common.key_messages import dealer_of
from server.store import Store
from tests.support.carried_run import CarriedRun, carried_run, store_updates
from tests.support.in_process_grid import as_server_app
from tests.support.small_federation import NAMES, SmallFederation, provision_small, template
from tests.support.stored_sums import stored_sums

ROUNDS = 5


@pytest.fixture(autouse=True)
def server_app(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process send messages."""
    as_server_app(monkeypatch)


@pytest.fixture(scope="module")
def provisioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four hospitals whose keys serve two rounds each."""
    base = tmp_path_factory.mktemp("short")
    plan = template(
        training={"rounds": ROUNDS}, encryption={"epoch_rounds": 2}, cohort={"round_timeout_s": 30.0, "attempts": 2}
    )
    provision_small(base, plan)
    return base


@pytest.fixture
def run(provisioned: Path, tmp_path: Path) -> Iterator[CarriedRun]:
    """Their run, whose updates are on their disks already."""
    with carried_run(provisioned, tmp_path, rounds=ROUNDS) as carried:
        yield carried


def models(run: CarriedRun) -> set[bytes]:
    """The hospitals' models."""
    return {run.federation.state(name).optimiser.parameters.tobytes() for name in NAMES}


def test_three_keys_give_the_model_that_one_gives(run: CarriedRun, tmp_path: Path) -> None:
    """Same updates, same model, whatever keys carried them."""
    run.go()
    assert run.epochs() == {1: 1, 2: 1, 3: 2, 4: 2, 5: 3, 6: 3}
    plan = template(training={"rounds": ROUNDS}, cohort={"round_timeout_s": 30.0, "attempts": 2})
    provision_small(tmp_path / "long", plan)
    with SmallFederation.copy_of(tmp_path / "long", tmp_path / "other") as federation:
        store_updates(federation, NAMES, range(1, ROUNDS + 1))
        other = CarriedRun(federation, tmp_path / "long")
        other.connect(*NAMES)
        other.go()
        assert set(other.epochs().values()) == {1}
        assert models(run) == models(other)
    assert len(models(run)) == 1


def test_no_exchange_fails_at_the_border_of_two_keys(run: CarriedRun) -> None:
    """The coordinator sees it coming: the ceremony is held before, the adverts came with the shares."""
    run.go()
    assert all(set(run.outcomes(name).values()) == {"contributed"} for name in NAMES)
    assert [r.round for _, r in run.seen if r.kind == "keys"] == [1] * len(NAMES)


def test_a_hospital_that_was_away_through_a_whole_epoch_opens_its_key_and_replays(run: CarriedRun) -> None:
    """It was dealt neither epoch 2 nor 3 while they were made; the sealed boxes were kept."""
    late = next(n for n in NAMES if n not in {dealer_of(run.plan.digest, NAMES, epoch=e) for e in (2, 3)})
    run.at = {2: lambda: run.leave(late), 5: lambda: run.connect(late)}
    run.go()
    assert run.federation.sites[late]._keys.held() == (1, 2, 3)
    assert [run.outcomes(late)[number] for number in (3, 4)] == ["absent", "absent"]
    assert len(models(run)) == 1


def test_a_dealer_that_is_away_is_passed_over(run: CarriedRun) -> None:
    """The next epoch has another dealer; the run does not wait."""
    dealer = dealer_of(run.plan.digest, NAMES, epoch=2)
    following = next(e for e in range(3, 9) if dealer_of(run.plan.digest, NAMES, epoch=e) != dealer)
    run.at = {2: lambda: run.leave(dealer), 4: lambda: run.connect(dealer)}
    run.go()
    assert run.epochs()[3] == following
    assert len(models(run)) == 1


def test_a_new_key_comes_when_it_is_asked_for(run: CarriedRun) -> None:
    """From the next round on, once; it serves as many rounds as any other."""
    run.at = {2: run.ask_for_new_key}
    run.go()
    assert run.epochs() == {1: 1, 2: 1, 3: 2, 4: 2, 5: 3, 6: 3}
    run.federation.coordinator.switch("b" * 32)
    run.seen.clear()
    store_updates(run.federation, NAMES, range(1, ROUNDS + 1))
    run.at = {1: run.ask_for_new_key}
    run.go()
    assert run.epochs() == {1: 1, 2: 2, 3: 2, 4: 3, 5: 3, 6: 4}


def test_no_key_comes_back_and_none_outlives_its_rounds(run: CarriedRun) -> None:
    """Also after a restart of the site: what it used is on its disk. The control is the epoch in force."""
    run.at = {2: run.ask_for_new_key, 4: lambda: run.leave(*NAMES)}
    with pytest.raises(Exception, match="connected"):
        run.go()
    federation, name = run.federation, NAMES[0]
    federation.reopen(name)
    site = federation.sites[name]

    def ask(kind: str, number: int, epoch: int) -> bytes:
        return site.answer(federation.frame(kind, number, name, epoch=epoch))

    with pytest.raises(EpochExpired, match="none comes back"):
        ask("hello", 0, 1)
    with pytest.raises(EpochExpired, match="has served its rounds; at least epoch 2"):
        ask("keys", 4, 1)
    with pytest.raises(EpochExpired, match="at least epoch 3"):
        ask("keys", 5, 2)
    with pytest.raises(WrongPlan, match="key epoch 1000; the plan has 1 to"):
        ask("hello", 0, 1000)
    assert ask("hello", 0, 2)


def test_one_key_opens_the_sums_of_its_own_rounds_only(run: CarriedRun) -> None:
    """What a hospital that left still holds opens nothing later; the control is the sum of its own rounds."""
    run.go()
    site, plan = run.federation.sites[NAMES[0]], run.plan
    parameters = PRESETS[plan.encryption.preset]
    with closing(Store(run.folder)) as store:
        aggregates = stored_sums(store, run.run, 2, 3)
    first = site._keys.epoch(1).ckks
    sums = [decode_sum(a.body, chunks_for(plan.upload_values, parameters), len(NAMES), parameters) for a in aggregates]
    assert np.abs(first.decrypt(sums[0], run.federation.grid)).max() > 0
    with pytest.raises(DecryptionError):
        first.decrypt(sums[1], run.federation.grid)


def test_a_hospital_whose_key_has_refused_too_much_gets_a_new_one_for_all(run: CarriedRun) -> None:
    """By itself, and once for each hospital in a run: one that lies cannot have keys made for ever."""
    with closing(Store(run.folder)) as store:
        store.ask_rotation(run.run, NAMES[0])
        assert store.rotation_is_asked(run.run)
        store.begin_epoch(run.run, 2, first_round=2)
        assert not store.rotation_is_asked(run.run)
        store.ask_rotation(run.run, NAMES[0])
        assert not store.rotation_is_asked(run.run)
        store.ask_rotation(run.run, NAMES[1])
        assert store.rotation_is_asked(run.run)
        store.begin_epoch(run.run, 3, first_round=3)
        for _ in range(2):
            store.ask_rotation(run.run, "the operator")
            assert store.rotation_is_asked(run.run)
