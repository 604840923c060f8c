"""Real processes over TLS: a new key on demand, then a hospital is revoked and the other four go on to the end."""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from common.plan import Plan
from scripts.federation import free_ports
from scripts.synthetic import write_synthetic
from server.store import Store
from tests.support.deployment import Deployment, succeed, wait_until
from tests.support.small_plan import write_small_plan
from tests.support.stored_sums import stored_sums

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

HOSPITALS = tuple(f"hospital-{k}" for k in range(1, 6))
REVOKED = "hospital-2"
STAY = tuple(name for name in HOSPITALS if name != REVOKED)
ROUNDS = 8
FIRST, SECOND = "6" * 32, "7" * 32


@dataclass(frozen=True)
class Ended:
    """What both runs left."""

    folder: Path
    paused_after: int
    epochs: dict[str, list[int]]
    words: str
    revoked_log: str


def epochs_of(folder: Path, run: str) -> list[int]:
    """Key epoch of each round that has a sum."""
    with closing(Store(folder / "coordinator" / "work")) as store:
        aggregates = stored_sums(store, run, 1, 0)
        numbers = [e.round for e in store.exchanges(run) if e.kind == "unmask"]
        aggregates = stored_sums(store, run, min(numbers), store.last_complete_round(run)) if numbers else ()
    return [one.entry.survivors[0].manifest.epoch for one in aggregates]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """Rotated in the first rounds, paused, revoked, approved anew, finished."""
    base = tmp_path_factory.mktemp("rv")
    write_synthetic(base / "images", images_per_class=15, seed=0)
    succeed("fedward", "split", str(base / "images"), "--out", str(base / "shards"), "--hospitals", "5")
    write_small_plan(base / "plan.yaml", rounds=ROUNDS, round_timeout_s=60, attempts=2)
    folder, address = base / "fed", f"127.0.0.1:{free_ports(1)[0]}"
    shards = ("--shards", str(base / "shards"), "--metrics", "aggregate", "--public-data")
    succeed("fedward", "provision", str(base / "plan.yaml"), "--out", str(folder), "--address", address, *shards)
    with Deployment(folder) as deployment:
        config = ("--config", str(deployment.server_yaml))
        start(deployment, HOSPITALS)
        deployment.start("run", "fedward-server", "run", str(folder / "plan.yaml"), *config, "--run-id", FIRST)
        wait_until(lambda: len(epochs_of(folder, FIRST)) >= 1, timeout_s=120, what="round 1")
        succeed("fedward-server", "rotate", *config)
        wait_until(lambda: 2 in epochs_of(folder, FIRST), timeout_s=120, what="a round under the second key")
        told = succeed("fedward-server", "pause", *config, "--run", FIRST)
        assert deployment.processes.pop("run").wait(timeout=60) != 0
        found = re.fullmatch(rf"run {FIRST} round (\d+)\n", told)
        assert found is not None, told
        stop(deployment, HOSPITALS)
        succeed(
            *("fedward", "revoke", REVOKED, "--plan", str(folder / "plan.yaml"), "--run", FIRST),
            *("--round", found[1], *config, "--out", str(base / "next")),
        )
        plan = Plan.model_validate(yaml.safe_load((base / "next" / "plan.yaml").read_text()))
        said = [
            succeed(
                *("fedward-client", "approve", str(base / "next" / "kits" / f"{name}.kit.zip")),
                *("--site", str(folder / name), "--digest", plan.digest),
            )
            for name in STAY
        ]
        start(deployment, STAY)
        deployment.start_hospital(REVOKED)
        words = ("fedward-server", "run", str(base / "next" / "plan.yaml"), *config, "--run-id", SECOND)
        deployment.start("run", *words)
        assert deployment.processes.pop("run").wait(timeout=480) == 0, deployment.log("run").read_text()
        epochs = {run: epochs_of(folder, run) for run in (FIRST, SECOND)}
    return Ended(folder, int(found[1]), epochs, said[0], deployment.log(REVOKED).read_text())


def start(deployment: Deployment, names: tuple[str, ...]) -> None:
    """The coordinator and some hospitals, until they are ready."""
    deployment.start_coordinator()
    for name in names:
        deployment.start_hospital(name)
    for name in names:
        deployment.until_printed(name, "hospital ready")


def stop(deployment: Deployment, names: tuple[str, ...]) -> None:
    """Some hospitals, then the coordinator."""
    for name in (*names, "coordinator"):
        deployment.stop(name)
        deployment.log(name).unlink()


def test_a_new_key_on_demand_serves_from_the_next_round_on(ended: Ended) -> None:
    """The rounds go on without a gap."""
    epochs = ended.epochs[FIRST]
    assert epochs[0] == 1
    assert epochs[-1] == 2
    assert epochs == sorted(epochs)
    assert len(epochs) == ended.paused_after


def test_the_others_finish_from_the_model_that_they_had(ended: Ended) -> None:
    """Each round of the total is there once, and the closing one; all end with one model."""
    assert len(ended.epochs[SECOND]) == ROUNDS + 1 - ended.paused_after
    models = {(ended.folder / name / "results" / SECOND / "model.safetensors").read_bytes() for name in STAY}
    assert len(models) == 1


def test_the_revoked_hospital_is_not_let_in(ended: Ended) -> None:
    """The SuperLink does not know its gateway any more; it has no result."""
    assert not (ended.folder / REVOKED / "results" / SECOND).exists()
    assert not (ended.folder / REVOKED / "state" / "runs" / SECOND).exists()
    assert "hospital ready" not in ended.revoked_log


def test_approving_says_who_left(ended: Ended) -> None:
    """In words, before the hospital signs."""
    assert f"It goes on from the model of round {ended.paused_after} of run {FIRST}" in ended.words
    assert f"left: {REVOKED}; joined: nobody" in ended.words
