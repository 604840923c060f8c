"""The demo in containers: it finishes, and code that a coordinator pushes to a gateway gets nothing of the site's.

`pytest -m slow tests/e2e/test_compose.py`; builds the images if they are not there. FEDWARD_BUILD_NETWORK and the other
variables of docker/compose.yaml are taken from the environment.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from common.errors import FedwardError
from scripts.compose_init import COORDINATOR_RUNTIME_PORT, FLEET_PORT, GATEWAY, GATEWAY_RUNTIME_PORT
from scripts.federation import free_ports

REPOSITORY = Path(__file__).parents[2]
EVIL_APP = REPOSITORY / "tests" / "support" / "evil_app"
PROJECT = "fedward-test"
HOSPITALS = tuple(f"hospital-{number}" for number in range(1, 6))
ROUNDS = 2
START_TIMEOUT_S, RUN_TIMEOUT_S = 1500.0, 600.0
LISTENING = "0A"
SECRETS = {"/fedward/state/vault", "/fedward/keys/vault.key", "/fedward/state/ledger.sqlite"}
"""All keys of a site are in its vault, which the key file opens."""
TEMPORARY = "/tmp"  # noqa: S108 -- in the containers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@dataclass(frozen=True)
class Stack:
    """The containers of one `docker compose up`."""

    environment: dict[str, str]
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)

    def compose(self, *words: str, data: bytes = b"", timeout_s: float = 120.0, check: bool = True) -> str:
        """Run `docker compose` on the project; returns what it prints."""
        command = ["docker", "compose", "-p", PROJECT, "-f", str(REPOSITORY / "docker" / "compose.yaml"), *words]
        result = subprocess.run(  # noqa: S603 -- our own file
            command, input=data, capture_output=True, env=self.environment, timeout=timeout_s, check=False
        )
        assert not check or result.returncode == 0, f"{words}: {result.stderr.decode()[-2000:]}"
        return result.stdout.decode()

    def exec(self, service: str, *words: str, data: bytes = b"") -> str:
        """Run a program in a container, as the container's user."""
        return self.compose("exec", "-T", service, *words, data=data)

    def until_ended(self, service: str) -> int:
        """Wait for a one-shot container; returns its status."""
        deadline = time.monotonic() + RUN_TIMEOUT_S
        while True:
            (row,) = [json.loads(x) for x in self.compose("ps", "-a", "--format", "json", service).splitlines()]
            if row["State"] == "exited":
                return int(row["ExitCode"])
            assert time.monotonic() < deadline, f"{service} still runs: {self.compose('logs', service)}"
            time.sleep(1.0)

    def look(self, service: str, wanted: dict[str, Any]) -> dict[str, Any]:
        """Run the evil client's search in a container as a program."""
        self.exec(service, "tar", "-x", "-C", TEMPORARY, data=bundle())
        found = json.loads(
            self.exec(service, "python", f"{TEMPORARY}/evil_client.py", data=json.dumps(wanted).encode())
        )
        assert isinstance(found, dict)
        return found


def engine_is_missing() -> str:
    """Why there is no Docker engine with compose; empty if there is one."""
    for words in (("docker", "version"), ("docker", "compose", "version")):
        try:
            result = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)  # noqa: S603
        except OSError as error:
            return str(error)
        if result.returncode != 0:
            return (result.stderr.strip().splitlines() or ["no reason given"])[-1]
    return ""


def bundle() -> bytes:
    """The evil app as an archive."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for path in sorted(EVIL_APP.glob("*.*")):
            archive.add(path, arcname=path.name)
    return content.getvalue()


@contextmanager
def running() -> Iterator[Stack]:
    """The project, up; every container and volume of it is removed at the end."""
    environment = os.environ | {
        "FEDWARD_FLEET_PORT": str(free_ports(1)[0]),
        "FEDWARD_DEMO_ROUNDS": str(ROUNDS),
    }
    stack = Stack(environment)
    try:
        stack.compose("build", timeout_s=START_TIMEOUT_S)
        stack.compose("up", "--detach", timeout_s=START_TIMEOUT_S)
        yield stack
    finally:
        stack.compose("down", "--volumes", "--timeout", "30", timeout_s=300.0, check=False)


HASHES = """
import hashlib, json, pathlib
folders = ["/fedward/keys", "/fedward/data", "/fedward/state"]
paths = [p for folder in folders for p in pathlib.Path(folder).rglob("*") if p.is_file()]
# The plan is every hospital's, and nothing in the site file is secret: the gateway has a copy.
paths = [p for p in paths if p.name not in ("plan.yaml", "plan", "site.yaml", "status.json") and p.stat().st_size]
print(json.dumps({hashlib.sha256(p.read_bytes()).hexdigest(): [str(p), p.stat().st_size] for p in paths}))
"""


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """The demo after its run."""
    reason = engine_is_missing()
    if reason:
        pytest.skip(f"no Docker engine with compose: {reason}")
    with running() as up:
        status = up.until_ended("run")
        assert status == 0, up.compose("logs", "run", "coordinator", "hospital-1-site", "hospital-1-gateway")
        yield up


@pytest.fixture(scope="module")
def wanted(stack: Stack) -> dict[str, Any]:
    """What an intruder would want: hospital-1's keys, images, ledger, model; and other things to try."""
    files = json.loads(stack.exec("hospital-1-site", "python", "-c", HASHES))
    names = {path for path, _ in files.values()}
    assert names >= SECRETS
    assert any(name.endswith(".jpg") for name in names)
    assert any(name.endswith("model.safetensors") for name in names)
    return {
        "files": {digest: size for digest, (_, size) in files.items()},
        "addresses": [
            ["coordinator", FLEET_PORT],
            ["coordinator", COORDINATOR_RUNTIME_PORT],
            *[[f"{hospital}-gateway", GATEWAY_RUNTIME_PORT] for hospital in HOSPITALS],
        ],
        "folders": ["/", "/opt/fedward", "/run/fedward", "/fedward/keys", "/fedward/work"],
        "frames": ["", "00ff" * 40, b"fedward".hex()],
    }


@pytest.fixture(scope="module")
def stolen(stack: Stack, wanted: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What the app found that the coordinator has pushed to all gateways, by hospital."""
    own_key = stack.exec("hospital-1-gateway", "sha256sum", "/fedward/keys/node.key").split()[0]
    size = int(stack.exec("hospital-1-gateway", "stat", "-c", "%s", "/fedward/keys/node.key"))
    search = wanted | {"files": wanted["files"] | {own_key: size}}
    run = ("env", "FLWR_HOME=/fedward/work/flower")
    app, findings = f"{TEMPORARY}/evil", f"{TEMPORARY}/evil-found.json"
    stack.exec("coordinator", "mkdir", app)
    stack.exec("coordinator", "tar", "-x", "-C", app, data=bundle())
    stack.exec("coordinator", "sh", "-c", f"cat > {TEMPORARY}/evil-wanted.json", data=json.dumps(search).encode())
    submitted = stack.exec("coordinator", *run, "flwr", "run", app, "fedward", "--format", "json")
    assert json.loads(submitted)["success"], submitted
    deadline = time.monotonic() + 300.0
    while not (found := stack.compose("exec", "-T", "coordinator", "cat", findings, check=False)):
        assert time.monotonic() < deadline, stack.exec("coordinator", *run, "flwr", "list", "fedward")
        time.sleep(1.0)
    answers = json.loads(found)
    assert set(answers) == set(HOSPITALS)
    assert answers["hospital-1"]["files"] == {own_key: "/fedward/keys/node.key"}, (
        "control: the pushed code ran with the gateway's rights, and found what is the gateway's own"
    )
    return {hospital: dict(answer) for hospital, answer in answers.items()}


def test_the_log_tells_the_progress_of_each_round(stack: Stack) -> None:
    """Readable in `docker compose logs run`, and the end is said."""
    log = stack.compose("logs", "--no-log-prefix", "run")
    for round_number in range(1, ROUNDS + 1):
        assert f"train {round_number} of {ROUNDS}" in log
    assert "run finished" in log


def test_all_hospitals_hold_the_same_model(stack: Stack) -> None:
    """Bit for bit, each in its own volume."""
    digests = {
        stack.exec(f"{hospital}-site", "sh", "-c", "sha256sum /fedward/state/results/*/model.safetensors").split()[0]
        for hospital in HOSPITALS
    }
    assert len(digests) == 1


def test_the_search_finds_everything_where_it_lies(stack: Stack, wanted: dict[str, Any]) -> None:
    """Control: the same program in the site's own container finds each file that it is asked for."""
    found = stack.look("hospital-1-site", wanted | {"frames": []})
    assert set(found["files"]) == set(wanted["files"])
    assert set(found["files"].values()) >= SECRETS


def test_pushed_code_finds_no_file_of_the_site(stolen: dict[str, dict[str, Any]], wanted: dict[str, Any]) -> None:
    """No key, image, ledger, state or model of hospital-1 lies in reach of any gateway."""
    for hospital, answer in stolen.items():
        assert not set(answer["files"]) & set(wanted["files"]), hospital


def test_pushed_code_gets_nothing_out_of_the_socket(stolen: dict[str, dict[str, Any]]) -> None:
    """Bytes that no coordinator has signed are answered with the name of an error, and nothing else."""
    names = {kind.__name__ for kind in _kinds(FedwardError)}
    for answer in stolen.values():
        assert answer["answers"]
        for said in answer["answers"]:
            status, _, code = said.partition(" ")
            assert status == "FAILED_PRECONDITION"
            assert code in names


def test_pushed_code_cannot_take_the_sites_place(stolen: dict[str, dict[str, Any]]) -> None:
    """It cannot remove the socket, and can write to nothing but its own working folder."""
    for answer in stolen.values():
        assert answer["socket"].startswith("OSError 30"), "read-only file system"
        assert answer["written"] == ["/fedward/work"]


def test_pushed_code_reaches_the_fleet_port_and_nothing_else(stolen: dict[str, dict[str, Any]]) -> None:
    """Not the Control API, and no other hospital."""
    for answer in stolen.values():
        assert answer["reached"] == [["coordinator", FLEET_PORT]]


def test_pushed_code_has_no_rights_and_sees_no_process_of_the_site(stolen: dict[str, dict[str, Any]]) -> None:
    """No capability, no way to one, another user than the site's; process ids are the gateway's own."""
    for answer in stolen.values():
        assert answer["status"]["NoNewPrivs"] == "1"
        assert int(answer["status"]["CapEff"], 16) == int(answer["status"]["CapBnd"], 16) == 0
        assert set(answer["status"]["Uid"].split()) == {str(GATEWAY.user)}
        assert any(" gateway " in line for line in answer["processes"]), "control: it sees its own"
        assert not any(" service " in line for line in answer["processes"])


def test_a_site_has_no_network_at_all(stack: Stack, wanted: dict[str, Any]) -> None:
    """Its own loopback, and nobody to talk to; the gateway's container is the control."""
    nothing = wanted | {"files": {}, "frames": []}
    site, gateway = (stack.look(f"hospital-2-{part}", nothing) for part in ("site", "gateway"))
    assert site["interfaces"] == ["lo"]
    assert site["reached"] == []
    assert len(gateway["interfaces"]) > 1
    assert gateway["reached"] == [["coordinator", FLEET_PORT]]


def test_only_the_fleet_port_listens_for_others(stack: Stack) -> None:
    """In every container: what listens on another address than loopback; published is that one port, on loopback."""
    services = ("coordinator", *(f"{hospital}-{part}" for hospital in HOSPITALS for part in ("site", "gateway")))
    outside, inside = {}, {}
    for service in services:
        rows = [r.split() for r in stack.exec(service, "sh", "-c", "cat /proc/net/tcp /proc/net/tcp6").splitlines()]
        listening = [row[1].split(":") for row in rows if len(row) > 3 and row[3] == LISTENING]
        local = ("0100007F", "0B00007F")  # 127.0.0.1, and the container engine's resolver on 127.0.0.11
        outside[service] = {int(port, 16) for address, port in listening if address not in local}
        inside[service] = {int(port, 16) for address, port in listening if address in local}
    assert outside.pop("coordinator") == {FLEET_PORT}
    assert set().union(*outside.values()) == set()
    # Control: the addresses that must not be outside were seen, inside.
    assert COORDINATOR_RUNTIME_PORT in inside["coordinator"]
    assert GATEWAY_RUNTIME_PORT in inside["hospital-1-gateway"]
    published = {
        (port["URL"], port["PublishedPort"], port["TargetPort"])
        for row in stack.compose("ps", "--format", "json").splitlines()
        for port in json.loads(row)["Publishers"] or []
        if port["PublishedPort"]
    }
    assert published == {("127.0.0.1", int(stack.environment["FEDWARD_FLEET_PORT"]), FLEET_PORT)}


def test_the_servers_image_has_nothing_that_trains_or_decrypts(stack: Stack) -> None:
    """Neither the coordinator nor a gateway could, whatever is pushed to it; the site's image is the control."""
    look = "import importlib.util as u; print([n for n in ('torch', 'tenseal', 'opacus') if u.find_spec(n)])"
    assert stack.exec("coordinator", "python", "-c", look).strip() == "[]"
    assert stack.exec("hospital-1-gateway", "python", "-c", look).strip() == "[]"
    assert stack.exec("hospital-1-site", "python", "-c", look).strip() == "['torch', 'tenseal', 'opacus']"


def test_a_second_start_keeps_the_keys_and_does_not_run_again(stack: Stack) -> None:
    """Ledgers remember that the budget is spent; new keys would be a new federation."""
    before = hashlib.sha256(stack.exec("hospital-1-site", "cat", "/fedward/keys/plan.yaml").encode()).hexdigest()
    stack.compose("up", "--detach", timeout_s=START_TIMEOUT_S)
    assert stack.until_ended("run") == 0
    assert "this plan has run" in stack.compose("logs", "--no-log-prefix", "run")
    assert "the volumes are filled" in stack.compose("logs", "--no-log-prefix", "init")
    after = hashlib.sha256(stack.exec("hospital-1-site", "cat", "/fedward/keys/plan.yaml").encode()).hexdigest()
    assert after == before


def _kinds(kind: type[FedwardError]) -> set[type[FedwardError]]:
    return {kind}.union(*(_kinds(child) for child in kind.__subclasses__()))
