"""Sampled verification with whole hospitals: real training, keys and decryption."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.encode import decode_sum_of_updates
from client.state import RunState, advance, initial_state
from common.ckks import PRESETS, chunks_for, decode_sum, encode_sum
from common.errors import DeploymentError
from common.plan import Plan
from common.transcript import aggregate_root
from server.aggregate import Aggregate
from server.store import Store
from server.strategy import SecureAggregation
from tests.support.in_process_grid import as_server_app
from tests.support.small_federation import NAMES, SmallFederation, provision_small, template
from tests.support.stored_sums import stored_sums
from tests.support.whole_run import WholeRun

PARAMETERS = PRESETS["compact"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A provisioned federation whose plan asks for samples, and one round more than usual."""
    folder = tmp_path_factory.mktemp("sampled")
    sampled = template(
        encryption={"verification": "sampled"}, cohort={"round_timeout_s": 30, "attempts": 1}, training={"rounds": 3}
    )
    provision_small(folder, sampled)
    return folder


@pytest.fixture
def federation(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallFederation]:
    """Four open hospitals, of which three are needed."""
    as_server_app(monkeypatch)
    with SmallFederation.copy_of(base, tmp_path / "sites") as federation:
        yield federation


def run_of(federation: SmallFederation, folder: Path) -> WholeRun:
    """The federation's run under the real coordinator."""
    sites = {name: site.answer for name, site in federation.sites.items()}
    coordinator = federation.coordinator
    return WholeRun(folder, federation.plan, coordinator.identity, sites, run=coordinator.run)


def replayed(federation: SmallFederation, run: WholeRun) -> RunState:
    """The model that the stored sums give: decrypted and applied one after the other, with no checks."""
    plan, hospital = federation.plan, next(iter(federation.sites.values()))
    state = initial_state(hospital._contributor.learner.initial, statistics=0)
    with closing(Store(run.folder)) as store:
        aggregates = stored_sums(store, run.run, 1, plan.last_round)
    for aggregate in aggregates:
        chunks = chunks_for(plan.upload_values, PARAMETERS)
        total = decode_sum(aggregate.body, chunks, len(aggregate.entry.survivors), PARAMETERS)
        decoded = decode_sum_of_updates(
            federation.key.decrypt(total, federation.grid),
            parameter_count=plan.agreed.trainable_parameters,
            slot_count=plan.metric_slots,
            grid=federation.grid,
        )
        state = advance(
            state,
            decoded.mean_update,
            root=aggregate_root(aggregate.body),
            trains=aggregate.entry.round <= plan.training.rounds,
            optimiser=plan.training.server_optimiser,
        )
    return state


def another_sum(plan: Plan) -> Callable[[SecureAggregation], None]:
    """A coordinator that adds one step of the grid to half the values of a chunk of the first sum.

    A constant added to all words is a constant polynomial, which adds it to the real part of every slot: a sum that
    decrypts to the grid like an honest one.
    """

    def lie(strategy: SecureAggregation) -> None:
        save = strategy._store.save

        def saving(run: str, exchange: Any, aggregate: Aggregate | None) -> None:  # noqa: ANN401
            if aggregate is not None and exchange.round == 1:
                aggregate = shifted(aggregate)
            save(run, exchange, aggregate)

        strategy._store.save = saving  # type: ignore[method-assign]

    def shifted(aggregate: Aggregate) -> Aggregate:
        chunks = chunks_for(plan.upload_values, PARAMETERS)
        total = decode_sum(aggregate.body, chunks, len(aggregate.entry.survivors), PARAMETERS)
        words = total.words.copy()
        step = 32 * 3.24 * (len(plan.roster) * PARAMETERS.ring_degree / 2) ** 0.5
        words[0] = (words[0] + np.uint64(round(step))) % np.uint64(PARAMETERS.modulus)
        return Aggregate.held(aggregate.entry, encode_sum(replace(total, words=words)))

    return lie


def test_an_honest_run_ends_with_the_model_of_its_sums_at_every_hospital(
    federation: SmallFederation, tmp_path: Path
) -> None:
    """The same bits as a replay of the sums, which is what full verification ends with; results are written."""
    run = run_of(federation, tmp_path)
    run.go()
    wanted = replayed(federation, run)
    for name in NAMES:
        state = federation.state(name)
        assert state.applied == wanted.applied
        assert state.optimiser.parameters.tobytes() == wanted.optimiser.parameters.tobytes()
        assert state.optimiser.velocity.tobytes() == wanted.optimiser.velocity.tobytes()
        assert (federation.run_folder(name) / "finished").exists()
    assert run.errors == []


def test_an_alteration_that_decrypts_is_caught_with_evidence_and_nothing_more_is_revealed(
    federation: SmallFederation, tmp_path: Path
) -> None:
    """The hospitals that recompute the chunk keep the coordinator's signed request; round 2 is never unmasked."""
    run = run_of(federation, tmp_path)
    run.lie = another_sum(federation.plan)
    with pytest.raises(DeploymentError):
        run.go()
    caught = {name for number, name, code in run.refusals("train") if (number, code) == (2, "AggregateMismatch")}
    assert len(caught) == federation.plan.verifiers
    assert all((federation.run_folder(name) / "evidence-1").exists() for name in caught)
    assert run.asked("unmask", 2) == []
    assert all(not (federation.run_folder(name) / "finished").exists() for name in NAMES)


def test_without_verifiers_the_same_alteration_reaches_the_results(
    federation: SmallFederation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: margin check, weight and state tags find nothing, and all hospitals finish with the altered model."""
    monkeypatch.setattr(Plan, "verifiers", 0)
    run = run_of(federation, tmp_path)
    run.lie = another_sum(federation.plan)
    run.go()
    assert run.errors == []
    assert all((federation.run_folder(name) / "finished").exists() for name in NAMES)
