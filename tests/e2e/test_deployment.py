"""The federation by hand, in real processes over real TLS, with one hospital killed in mid-round."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from common.plan import Plan
from scripts.federation import free_ports
from scripts.synthetic import write_synthetic
from server.store import Exchange, Store
from tests.support.deployment import Deployment, succeed, wait_until
from tests.support.small_plan import write_small_plan

HOSPITALS = ("hospital-1", "hospital-2", "hospital-3", "hospital-4")
KILLED = "hospital-4"
SURVIVORS = HOSPITALS[:3]
ROUNDS = 3
RUN = "5" * 32


@dataclass(frozen=True)
class Ended:
    """What a run left on the disks."""

    folder: Path
    plan: Plan
    exchanges: tuple[Exchange, ...]
    updates: dict[str, bytes]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """Four hospitals; hospital-4 is killed in round 2, after it has begun to train and before it has an upload."""
    base = tmp_path_factory.mktemp("fw")
    write_synthetic(base / "images", images_per_class=12, seed=0)
    succeed("fedward", "split", str(base / "images"), "--out", str(base / "shards"), "--hospitals", "4")
    folder = base / "fed"
    template = write_small_plan(base / "plan.yaml", rounds=ROUNDS, round_timeout_s=15, attempts=2)
    succeed(
        *("fedward", "provision", str(template), "--shards", str(base / "shards")),
        *("--out", str(folder), "--address", f"127.0.0.1:{_free_port()}", "--metrics", "aggregate", "--public-data"),
    )
    plan = Plan.model_validate(yaml.safe_load((folder / "plan.yaml").read_text()))
    with Deployment(folder) as deployment:
        deployment.start_coordinator()
        for name in HOSPITALS:
            deployment.start_hospital(name)
        for name in HOSPITALS:
            deployment.until_printed(name, "hospital ready")
        kept = hold_before_upload(folder)
        words = (str(folder / "plan.yaml"), "--config", str(deployment.server_yaml), "--run-id", RUN)
        deployment.start("run", "fedward-server", "run", *words)
        wait_until((kept / "round-2.started").exists, timeout_s=90, what="round 2 at hospital-4")
        deployment.kill(KILLED)
        updates = _watch_updates(folder, deployment)
        assert deployment.processes.pop("run").wait(timeout=120) == 0, deployment.log("run").read_text()
        for name in (*SURVIVORS, "coordinator"):
            assert deployment.stop(name) == 0
    store = Store(folder / "coordinator" / "work")
    exchanges = store.exchanges(RUN)
    store.close()
    return Ended(folder, plan, exchanges, updates)


def hold_before_upload(folder: Path) -> Path:
    """Make hospital-4 wait in round 2 once it has trained; returns where it keeps the run.

    Where its site writes the update lies a named pipe that nobody reads: it cannot come to encrypt and send, however
    late the kill comes.
    """
    kept = folder / KILLED / "state" / "runs" / RUN
    kept.mkdir(parents=True)
    os.mkfifo(kept / ".round-2.update.new")
    return kept


def _free_port() -> int:
    return free_ports(1)[0]


def _watch_updates(folder: Path, deployment: Deployment) -> dict[str, bytes]:
    """Copies of the plaintext integers while they lie on the sites' disks."""
    found: dict[str, bytes] = {}

    def three_seen() -> bool:
        for name in HOSPITALS:
            for path in (folder / name / "state" / "runs" / RUN).glob("round-*.update"):
                try:
                    found[f"{name}/{path.name}"] = path.read_bytes()
                except FileNotFoundError:
                    continue
        return len({key.split("/")[0] for key in found}) >= 3 or deployment.processes["run"].poll() is not None

    wait_until(three_seen, timeout_s=90, what="three hospitals hold an update")
    return found


def test_every_round_completes_and_one_of_them_by_three_hospitals(ended: Ended) -> None:
    """A hospital that dies in mid-round costs the others its own share, not the round."""
    asking = {"train", "eval"}
    trained = {
        e.round: {o.hospital for o in e.outcomes if o.outcome == "contributed"}
        for e in ended.exchanges
        if e.kind in asking
    }
    rounds = [(e.kind, e.round, e.attempt) for e in ended.exchanges]
    uploads = [("train", 1, 0), ("train", 2, 0), ("train", 3, 0), ("eval", 4, 0)]
    masked = [step for kind, number, _ in uploads for step in ((kind, number, 0), ("unmask", number, 0))]
    assert rounds == [("hello", 0, 0), ("keys", 1, 0), *masked, ("finish", 5, 0)]
    assert trained == {1: set(HOSPITALS), **{n: set(SURVIVORS) for n in (2, 3, 4)}}
    # Round 2 had four that were asked: one died at it.
    second = next(e for e in ended.exchanges if (e.kind, e.round) == ("train", 2))
    asked = {o.hospital: o.outcome for o in second.outcomes}
    assert asked[KILLED] in ("late", "failed")


def test_the_survivors_hold_bit_identical_models(ended: Ended) -> None:
    """All replay the same aggregates; the dead one has no result of this run."""
    paths = [ended.folder / name / "results" / RUN / "model.safetensors" for name in SURVIVORS]
    models = [load_file(path) for path in paths]
    for other in models[1:]:
        assert all(np.array_equal(models[0][key], other[key]) for key in models[0])
    assert not (ended.folder / KILLED / "results" / RUN).exists()


def test_metrics_tell_the_accuracy_of_each_round(ended: Ended) -> None:
    """The sums of held-out counts travel encrypted and are read at the hospitals."""
    metrics = json.loads((ended.folder / "hospital-1" / "results" / RUN / "metrics.json").read_text())
    assert [row["round"] for row in metrics["rounds"]] == list(range(1, ROUNDS + 1))
    assert all(0 <= row["accuracy"] <= 1 for row in metrics["rounds"])
    assert metrics["privacy"]["epsilon_spent"] <= ended.plan.privacy.epsilon


def windows(data: bytes, width: int = 24) -> list[bytes]:
    """Pieces of `data` that are not mostly zeros: what a search for it would look for."""
    pieces = (data[i : i + width] for i in range(128, len(data) - width, 1024))
    return [piece for piece in pieces if len(set(piece)) > 6]


def holds(folder: Path, needles: list[bytes]) -> bool:
    """Whether any file below `folder` holds one of the pieces."""
    contents = (path.read_bytes() for path in folder.rglob("*") if path.is_file())
    return any(needle in content for content in contents for needle in needles)


def test_the_coordinator_has_no_plaintext_update(ended: Ended, tmp_path: Path) -> None:
    """Every byte that the coordinator keeps (store, Flower's database, logs) is searched for the hospitals' updates.

    They are looked for as integers and as floats; the control finds an update that was put there in the clear.
    """
    assert ended.updates, "no update was seen on a site's disk"
    needles = []
    for data in ended.updates.values():
        integers = np.frombuffer(data[128:], dtype="<i8")
        for kind in ("<i8", "<i4", "<f8", "<f4"):
            needles += windows(b"\0" * 128 + integers.astype(kind).tobytes())
    assert len(needles) > 10
    assert not holds(ended.folder / "coordinator", needles)
    (tmp_path / "leak.bin").write_bytes(b"head" + next(iter(ended.updates.values())))
    assert holds(tmp_path, needles)


def test_the_coordinator_has_no_plaintext_model(ended: Ended) -> None:
    """The finished model lies at the hospitals only; the control finds it there."""
    model = load_file(ended.folder / "hospital-1" / "results" / RUN / "model.safetensors")
    parameters = np.concatenate([tensor.reshape(-1) for tensor in model.values()])
    needles = [w for kind in ("<f4", "<f8") for w in windows(b"\0" * 128 + parameters.astype(kind).tobytes())]
    assert not holds(ended.folder / "coordinator", needles)
    assert holds(ended.folder / "hospital-1" / "results", needles)
