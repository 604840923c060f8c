"""The deployment for real: SuperLink with TLS and node keys, four gateways behind fork servers, no learning."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml

from common.ckks import PRESETS, chunks_for, decode_sum, decode_upload
from common.config import load_settings
from common.node_key import write_node_key
from common.plan import Plan
from scripts.certificates import write_tls
from tests.support.flower_federation import Federation, environment, free_port, wait_until
from tests.support.processes import processes_with

NAMES = ("hospital-1", "hospital-2", "hospital-3", "hospital-4")
ROUNDS = 4


@dataclass
class Finished:
    """A run that went through three accidents, and what the coordinator printed."""

    federation: Federation
    summary: dict[str, Any]
    progress: dict[str, Any]
    lines: list[str]
    status_when_stopped: str

    def exchange(self, kind: str, number: int) -> dict[str, dict[str, Any]]:
        """What each hospital did in the last attempt of an exchange."""
        rows = [e for e in self.summary["exchanges"] if (e["kind"], e["round"]) == (kind, number)]
        return {hospital["name"]: hospital for hospital in rows[-1]["hospitals"]}


def command(federation: Federation, *arguments: str) -> list[str]:
    """A `fedward-server` command line."""
    return [sys.executable, "-m", "server", *arguments, "--config", str(federation.server_file)]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A coordinator and four hospitals, up and connected."""
    up = Federation(tmp_path_factory.mktemp("flower"), NAMES, rounds=ROUNDS)
    up.write()
    try:
        up.start_all()
        yield up
    finally:
        up.close()


@pytest.fixture(scope="module")
def finished(federation: Federation) -> Finished:
    """Round 2: the service of hospital 2 is killed at work, and hospital 4 leaves. Round 3: Ctrl-C. Then all go on."""
    folder = federation.folder
    for name, number in (("hospital-2", 2), ("hospital-4", 2), ("hospital-1", 3)):
        (folder / name / f"hold-{number}").touch()
    with running(federation, folder / "first") as run:
        service = folder / "hospital-2" / "service.pid"
        wait_until(service.exists, "round 2 at hospital 2")
        os.kill(int(service.read_text()), signal.SIGKILL)
        wait_until((folder / "hospital-4" / "held-2").exists, "round 2 at hospital 4")
        federation.processes["hospital-4"].terminate()
        wait_until(lambda: "supernode stopped" in federation.log("hospital-4"), "leave of hospital 4")
        (folder / "hospital-4" / "go-2").touch()
        federation.stop("hospital-4")
        wait_until((folder / "hospital-1" / "held-3").exists, "round 3")
        run.send_signal(signal.SIGINT)
        assert run.wait(timeout=60) == 130
    stopped = status(federation)
    federation.start_hospital("hospital-4")
    federation.wait_connected("hospital-4")
    (folder / "hospital-1" / "go-3").touch()
    identifier = next((federation.server_file.parent / "work" / "runs").iterdir())
    with running(federation, folder / "second", "--run-id", identifier.name) as run:
        assert run.wait(timeout=120) == 0, (folder / "second.err").read_text()
    return Finished(
        federation,
        json.loads((folder / "second.out").read_text()),
        json.loads((identifier / "progress.json").read_text()),
        (folder / "second.err").read_text().splitlines(),
        stopped,
    )


@contextlib.contextmanager
def running(federation: Federation, output: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """`fedward-server run`, killed at the end if it still runs."""
    argv = command(federation, "run", str(federation.plan_file), "--json", *arguments)
    with output.with_suffix(".out").open("w") as out, output.with_suffix(".err").open("w") as err:
        run = subprocess.Popen(argv, env=environment(), stdout=out, stderr=err)  # noqa: S603
    try:
        yield run
    finally:
        run.kill()
        run.wait()


def status(federation: Federation) -> str:
    """What `fedward-server status` prints."""
    argv = command(federation, "status")
    return subprocess.run(argv, env=environment(), capture_output=True, text=True, check=True).stdout  # noqa: S603


def test_every_stored_aggregate_is_the_sum_modulo_q_of_the_uploads(finished: Finished) -> None:
    """Decoded independently of the coordinator: the hospitals kept what they sent and what they got."""
    plan = load_settings(finished.federation.plan_file, Plan)
    parameters = PRESETS[plan.encryption.preset]
    chunks = chunks_for(plan.upload_values, parameters)
    folder = finished.federation.folder
    for number in range(1, ROUNDS + 1):
        entry = json.loads((folder / "hospital-1" / f"aggregate-{number}.json").read_text())
        body = (folder / "hospital-1" / f"aggregate-{number}.bin").read_bytes()
        names = [survivor["manifest"]["hospital"] for survivor in entry["survivors"]]
        total = decode_sum(body, chunks, len(names), parameters)
        uploads = [(folder / name / f"upload-{number}.bin").read_bytes() for name in names]
        vectors = [decode_upload(upload, chunks, parameters) for upload in uploads]
        expected = sum(vector.words.astype(object) for vector in vectors) % parameters.modulus
        np.testing.assert_array_equal(total.words.astype(object), expected)
        assert total.seeds == tuple(vector.seeds for vector in vectors)


def test_a_round_goes_on_without_a_hospital_that_leaves(finished: Finished) -> None:
    """Three of four are enough; the fourth is named with what Flower saw."""
    outcomes = finished.exchange("train", 2)
    assert [outcomes[name]["outcome"] for name in NAMES[:3]] == ["contributed"] * 3
    assert (outcomes["hospital-4"]["outcome"], outcomes["hospital-4"]["code"]) == ("failed", "NodeUnavailable")
    assert finished.summary["state"] == "finished"


def test_a_site_whose_service_is_killed_at_work_is_asked_again_in_the_same_round(finished: Finished) -> None:
    """Its supervisor restarts it and the relay repeats the request: no attempt is lost."""
    outcome = finished.exchange("train", 2)["hospital-2"]
    assert outcome["outcome"] == "contributed"
    assert all(exchange["attempt"] == 0 for exchange in finished.summary["exchanges"])
    assert "was ended by SIGKILL" in finished.federation.log("hospital-2")


def test_a_hospital_that_comes_back_gets_all_that_it_missed_and_contributes(finished: Finished) -> None:
    """Same node key, same name; its history ends like everyone's."""
    outcomes = finished.exchange("train", ROUNDS)
    assert outcomes["hospital-4"]["outcome"] == "contributed"
    folder = finished.federation.folder
    states = [(folder / name / "applied.json").read_text() for name in NAMES]
    assert len(set(states)) == 1
    assert json.loads(states[0])["round"] == ROUNDS


def test_bytes_and_outcomes_are_reported_per_hospital(finished: Finished) -> None:
    """What the demo's table shows."""
    plan = load_settings(finished.federation.plan_file, Plan)
    parameters = PRESETS[plan.encryption.preset]
    body_bytes = chunks_for(plan.upload_values, parameters) * (parameters.chunk_bytes + 64)
    row = finished.exchange("train", 1)["hospital-1"]
    assert body_bytes < row["up_bytes"] < body_bytes + 2000
    assert finished.exchange("train", 2)["hospital-1"]["down_bytes"] > body_bytes
    assert [(e["kind"], e["round"]) for e in finished.summary["exchanges"]] == [
        ("hello", 0),
        # The adverts of later rounds come with the shares of the round before.
        ("keys", 1),
        *((kind, number) for number in range(1, ROUNDS + 1) for kind in ("train", "unmask")),
        ("finish", ROUNDS + 1),
    ]
    assert finished.progress["state"] == "finished"
    assert set(finished.progress["hospitals"]) == set(NAMES)
    assert finished.progress["peak_rss_bytes"] < 250e6
    assert finished.lines[-1].startswith("run finished")


def test_messages_pass_through_the_fork_server(finished: Finished) -> None:
    """Else each would cost a cold start, and this test would not notice."""
    log = finished.federation.folder / "hospital-1" / "gateway" / "logs"
    assert (log / "forkserver.log").read_text().count("Start `flwr-clientapp` process") >= ROUNDS
    assert "Start `flwr-clientapp` process" not in (log / "superexec.log").read_text()


def test_a_finished_run_is_not_run_again(finished: Finished) -> None:
    """One line, no traceback, status 2."""
    federation = finished.federation
    argv = command(federation, "run", str(federation.plan_file), "--run-id", finished.summary["run"])
    done = subprocess.run(argv, env=environment(), capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 2
    assert "is finished; start a new run" in done.stderr
    assert f"{finished.summary['run']} finished, last complete round {ROUNDS}" in status(federation)


def test_a_stopped_run_goes_on_behind_its_last_complete_round(finished: Finished) -> None:
    """Rounds 1 and 2 are not asked for again: their charges and aggregates stand."""
    assert "stopped, last complete round 2" in finished.status_when_stopped
    assert "reason: stopped by the operator" in finished.status_when_stopped
    asked = {line.split(";")[0] for line in finished.lines if line.startswith(("hello", "train", "finish"))}
    assert asked == {f"hello 0 of {ROUNDS}", "train 3 of 4", "train 4 of 4", "finish 5 of 4"}


def test_a_wrong_authority_is_one_sentence(federation: Federation, tmp_path: Path) -> None:
    """The hospital's engineer learns which file is wrong; nothing is tried again."""
    write_tls(tmp_path, [], valid_days=2)
    path = stranger(federation, tmp_path, root_certificates=str(tmp_path / "ca.crt"))
    done = run_site(path)
    assert done.returncode != 0
    assert "did not sign; ask the coordinator for its ca.crt" in done.stderr


def test_an_unregistered_node_key_is_refused(federation: Federation, tmp_path: Path) -> None:
    """TLS alone lets nobody in."""
    done = run_site(stranger(federation, tmp_path, connect_timeout_s=8.0))
    assert done.returncode != 0
    assert "refuses this gateway's node key; ask the coordinator" in done.stderr


def test_the_doctor_tries_the_node_key_and_leaves_nothing_behind(federation: Federation, tmp_path: Path) -> None:
    """A registered key is let in, again and again; one that is in use is not tried; a stranger's is refused."""
    federation.stop("hospital-4")
    try:
        for _ in range(2):
            status, found = doctor(federation.folder / "hospital-4" / "site.json", tmp_path)
            assert (status, found["node key"]["status"]) == (0, "pass"), found
            assert "has let a SuperNode with this site's node key in" in found["node key"]["seen"]
    finally:
        federation.start_hospital("hospital-4")
    federation.wait_connected("hospital-4")
    assert "died" not in federation.log("hospital-4")
    status, found = doctor(federation.folder / NAMES[0] / "site.json", tmp_path)
    assert (status, found["node key"]["status"]) == (0, "pass"), found
    for name in ("node key", "runtime port"):
        assert "this site's" in found[name]["seen"]
        assert "gateway (process" in found[name]["seen"]
    status, found = doctor(stranger(federation, tmp_path), tmp_path)
    assert status == 2
    assert {name for name, row in found.items() if row["status"] == "fail"} == {"node key"}
    assert "refuses this gateway's node key" in found["node key"]["seen"]
    assert "list its public key under 'nodes'" in found["node key"]["advice"]
    assert processes_with("fedward-doctor-") == []


def second_start(federation: Federation, **changes: str | int) -> str:
    """Start a second coordinator with some settings changed; its one line."""
    other = federation.server_file.with_name("second.yaml")
    other.write_text(yaml.safe_dump(yaml.safe_load(federation.server_file.read_text()) | changes))
    argv = [sys.executable, "-m", "server", "start", "--config", str(other)]
    done = subprocess.run(argv, env=environment(), capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


def test_a_taken_port_stops_the_coordinator_before_it_starts(federation: Federation) -> None:
    """A second coordinator on the same ports."""
    said = second_start(federation, folder="other-work")
    assert f"port {federation.fleet_port} on 127.0.0.1 cannot be used" in said


def test_a_second_coordinator_leaves_the_first_ones_folder_alone(federation: Federation) -> None:
    """Also on other ports, where nothing else would stop it."""
    database = federation.server_file.parent / "work" / "superlink.db"
    before = database.stat().st_ino
    said = second_start(federation, fleet_address=f"127.0.0.1:{free_port()}", runtime_port=free_port())
    assert "a coordinator already runs with this folder" in said
    assert database.stat().st_ino == before


def test_too_few_hospitals_stop_the_run_with_a_reason_and_stopping_leaves_no_process(
    finished: Finished,
) -> None:
    """All hospitals of one plan have spent their budgets: the run says so instead of asking for ever."""
    federation = finished.federation
    for name in NAMES:
        (federation.folder / name / "observe").touch()
        (federation.folder / name / "applied.json").unlink()
    argv = command(federation, "run", str(federation.plan_file))
    done = subprocess.run(argv, env=environment(), capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 2
    reason = done.stderr.splitlines()[-1]
    assert "round 1 cannot be opened: 0 of 4 hospitals take part, 3 are needed" in reason
    assert "hospital-1 failed (BudgetExceeded), hospital-2 failed (BudgetExceeded)" in reason
    families = [psutil.Process(p.pid).children(recursive=True) for p in federation.processes.values()]
    assert sum(len(family) for family in families) >= 2 + 4 * len(NAMES)
    federation.close()
    _, alive = psutil.wait_procs([process for family in families for process in family], timeout=5.0)
    assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []


def stranger(federation: Federation, folder: Path, *, connect_timeout_s: float = 20.0, **gateway: str) -> Path:
    """The site file of a fifth hospital, whose node key nobody has registered."""
    home = federation.folder / f"stranger-{folder.name}"
    home.mkdir()
    for name in ("identity.key", "box.key", "site.secret"):
        (home / name).write_bytes((federation.folder / "hospital-1" / name).read_bytes())
        (home / name).chmod(0o600)
    write_node_key(home / "node.key")
    path = federation.write_site(home.name, **gateway)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"connect_timeout_s": connect_timeout_s}))
    return path


def doctor(site_json: Path, folder: Path) -> tuple[int, dict[str, dict[str, str]]]:
    """The gateway's part of `fedward-client doctor`, for a site that has a gateway and nothing else; rows by name."""
    home = site_json.parent
    named = {name: str(home / name) for name in ("plan", "approvals", "data", "vault", "ledger", "state", "results")}
    privacy = {"source": "none", "cap_epsilon": 1.0, "cap_delta": 0.001, "metrics": "none", "min_cohort": 3}
    gateway = json.loads(site_json.read_text())["gateway"]
    site = named | {"hospital": "hospital-9", "socket": "site.sock", "privacy": privacy, "gateway": gateway}
    config = folder / f"{home.name}.yaml"
    config.write_text(json.dumps(site))
    argv = [sys.executable, "-m", "client", "doctor", "--part", "gateway", "--json", "--config", str(config)]
    done = subprocess.run(argv, env=environment(), capture_output=True, text=True, check=False, timeout=90)  # noqa: S603
    assert done.stdout, done.stderr
    return done.returncode, {row["name"]: row for row in json.loads(done.stdout)["checks"]}


def run_site(path: Path) -> subprocess.CompletedProcess[str]:
    """Run a site until it gives up."""
    site = Path(__file__).parents[1] / "support" / "trivial_site.py"
    argv = [sys.executable, str(site), "supervise", str(path)]
    return subprocess.run(argv, env=environment(), capture_output=True, text=True, check=False, timeout=60)  # noqa: S603
