"""The systemd units for real sites, run with the commands of docs/containers.md: three hospitals and a coordinator.

`pytest -m slow --log-cli-level=info tests/e2e/test_production_systemd.py`, with `fedward-site:local` built
(docker/compose.yaml builds it). Each machine is a container whose first process is systemd, which is installed from
Debian's archive: where that is out of reach, or the engine may not run systemd, this is skipped and says so. The log
has seconds.
"""

from __future__ import annotations

import logging
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.page_commands import (
    REPOSITORY,
    blocks,
    digest_of,
    draw_shares,
    open_ports,
    replace_words,
)
from tests.support.small_plan import small_template

IMAGE, NETWORK = "fedward-test-systemd", "fedward-test-systemd"
COORDINATOR = "coordinator"
OPEN, LOCKED, PROXIED = HOSPITALS = ("hospital-1", "hospital-2", "hospital-3")
"""The second one's vault has a passphrase; the third one's gateway is told of a proxy."""
ADDRESS, FLEET_PORT = "coordinator.example.org", 9092
ROUNDS = 2
HERE = "/root/fedward"
START_TIMEOUT_S, RUN_TIMEOUT_S = 60.0, 600.0
PHRASE = "seven plain words that nobody guesses\n"
PROXY = "http://127.0.0.1:9"
LOG = logging.getLogger(__name__)

DOCKERFILE = """
FROM fedward-site:local
USER 0
RUN apt-get update -q && apt-get install -q -y --no-install-recommends systemd sudo
ENV container=docker PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
CMD ["/lib/systemd/systemd"]
"""

# The users of the image are those of the containers; here the units' own files make them.
FORGET_USERS = "for x in coordinator site gateway; do userdel fedward-$x; done; groupdel fedward-socket"
# Ends once the site's socket takes connections.
ANSWERS = """
import socket, time
end = time.monotonic() + 60
while True:
    try:
        socket.socket(socket.AF_UNIX).connect("/run/fedward/site.sock")
        break
    except OSError:
        if time.monotonic() > end:
            raise
        time.sleep(0.5)
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def docker(*words: str, data: bytes = b"", timeout_s: float = 120.0, check: bool = True) -> str:
    """Run a docker command; returns what it prints."""
    done = subprocess.run(  # noqa: S603 -- ours
        ["docker", *words],  # noqa: S607
        input=data,
        capture_output=True,
        timeout=timeout_s,
        check=False,
    )
    assert not check or done.returncode == 0, f"{words}: {done.stdout.decode()[-2000:]} {done.stderr.decode()[-2000:]}"
    return done.stdout.decode()


@dataclass(frozen=True)
class Machine:
    """A container in which systemd runs."""

    name: str

    @property
    def container(self) -> str:
        """Its container's name."""
        return f"{IMAGE}-{self.name}"

    def run(self, commands: str, *, more: dict[str, str] | None = None, timeout_s: float = 300.0) -> str:
        """Run commands of the page as root, beside the repository's deploy folder."""
        text = replace_words(commands, (more or {}) | {"hospital-1": self.name})
        return docker("exec", "--workdir", HERE, self.container, "sh", "-euc", text, timeout_s=timeout_s)

    def write(self, path: str, content: bytes) -> None:
        """Put a file there."""
        docker("exec", "--interactive", self.container, "sh", "-euc", f"umask 077; cat > {path}", data=content)

    def read(self, path: str) -> bytes:
        """A file's content."""
        return bytes.fromhex(docker("exec", "--workdir", HERE, self.container, "od", "-An", "-v", "-tx1", path))

    def until_logged(self, unit: str, text: str) -> None:
        """Wait until a unit has said something."""
        deadline = time.monotonic() + RUN_TIMEOUT_S
        while text not in (journal := self.run(f"journalctl --no-pager --unit {unit}")):
            assert time.monotonic() < deadline, f"{self.name}: {journal[-3000:]}"
            time.sleep(1.0)

    def of_unit(self, unit: str, command: str) -> str:
        """Run a command as a unit's user where the unit's main process is: what it sees, and what it can reach."""
        process = self.run(f"systemctl show --property MainPID --value {unit}").strip()
        user = f"setpriv --reuid {unit} --regid {unit} --init-groups --inh-caps=-all --bounding-set=-all"
        return self.run(f"nsenter --target {process} --mount --net -- {user} -- sh -c '{command}; true'")


@dataclass(frozen=True)
class Production:
    """The federation after its run."""

    coordinator: Machine
    sites: dict[str, Machine]


def why_not() -> str:
    """Why this cannot run here; empty if it can. Builds the image."""
    try:
        known = subprocess.run(
            ["docker", "image", "inspect", "fedward-site:local"],  # noqa: S607
            capture_output=True,
            text=True,
            check=False,
        )
        if known.returncode != 0:
            return known.stderr.strip()
        network = os.environ.get("FEDWARD_BUILD_NETWORK", "default")
        built = subprocess.run(  # noqa: S603
            ["docker", "build", "--network", network, "--tag", IMAGE, "-"],  # noqa: S607
            input=DOCKERFILE,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
            env=os.environ | {"DOCKER_BUILDKIT": "1"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if built.returncode == 0 else f"systemd cannot be installed: {built.stderr.strip().splitlines()[-1:]}"


def start_machine(name: str) -> Machine:
    """A machine that has booted; skips where systemd does not come up."""
    machine = Machine(name)
    capabilities = ("--cap-add", "SYS_ADMIN", "--cap-add", "SYS_PTRACE")  # the second one for the tests' own looks
    rights = (*capabilities, "--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined")
    # Where the kernel's groups of processes are of the first version, systemd needs its own branch of them.
    branch = Path("/sys/fs/cgroup/systemd")
    groups = ("--volume", f"{branch}:{branch}") if branch.is_dir() else ("--cgroupns", "private")
    docker(
        *("run", "--detach", "--name", machine.container, "--hostname", name, "--network", NETWORK, *rights, *groups),
        *("--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp:exec"),  # noqa: S108 -- in the container
        *(("--network-alias", ADDRESS) if name == COORDINATOR else ()),
        IMAGE,
        check=False,
    )
    deadline = time.monotonic() + START_TIMEOUT_S
    while (state := docker("exec", machine.container, "systemctl", "is-system-running", check=False).strip()) not in (
        "running",
        "degraded",
    ):
        if time.monotonic() > deadline:
            pytest.skip(f"systemd does not come up in a container here: {state or 'no answer'}")
        time.sleep(0.5)
    docker("exec", machine.container, "mkdir", "-p", HERE)
    machine.run(FORGET_USERS)
    docker("cp", str(REPOSITORY / "deploy"), f"{machine.container}:{HERE}/deploy")
    machine.write(f"{HERE}/template.yaml", small_template(rounds=ROUNDS).encode())
    return machine


def join(coordinator: Machine, sites: dict[str, Machine], shares: dict[str, Path]) -> None:
    """Users, keys, cards, plan, kits, approvals, and the services started: as the page says."""
    make, approve, locked, *_ = blocks("A site with systemd")
    phrase = {"--site /var/lib/fedward/site ": "--site /var/lib/fedward/site --passphrase-file phrase "}
    coordinator.run("mkdir cards")
    for name, site in sites.items():
        docker("cp", str(shares[name]), f"{site.container}:/srv/images")
        if name == LOCKED:
            site.write(f"{HERE}/phrase", PHRASE.encode())
        site.run(make, more=phrase if name == LOCKED else None)
        card = f"{name}.card.yaml"
        coordinator.write(f"{HERE}/cards/{card}", site.read(f"/var/lib/fedward/site/{card}"))
    said = coordinator.run(
        "/opt/fedward/bin/fedward provision template.yaml --cards cards --out organised "
        f"--address {ADDRESS}:{FLEET_PORT}"
    )
    start, _ = blocks("The coordinator with systemd")
    kits = {name: coordinator.read(f"organised/kits/{name}.kit.zip") for name in sites}
    coordinator.run(start)
    coordinator.until_logged("fedward-coordinator", "coordinator ready")
    for name, site in sites.items():
        site.write(f"{HERE}/{name}.kit.zip", kits[name])
        more = {"--cap-epsilon 8": f"--cap-epsilon 8 --digest {digest_of(said)}"} | (phrase if name == LOCKED else {})
        if name == LOCKED:
            site.run(locked)
        if name == PROXIED:
            site.run("mkdir -p /etc/fedward")
            site.write("/etc/fedward/gateway.env", f"https_proxy={PROXY}\nno_proxy={ADDRESS}\n".encode())
        site.run(approve, more=more)


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Production]:
    """Joined, started, and run to the end."""
    reason = why_not()
    if reason:
        pytest.skip(f"no Docker engine with the site's image and systemd: {reason}")
    names = (COORDINATOR, *HOSPITALS)
    shares = draw_shares(tmp_path_factory.mktemp("systemd"), hospitals=len(HOSPITALS))
    docker("network", "create", "--internal", NETWORK)
    try:
        coordinator, *machines = [start_machine(name) for name in names]
        sites = {machine.name: machine for machine in machines}
        join(coordinator, sites, shares)
        began = time.monotonic()
        for site in sites.values():
            site.until_logged("fedward-gateway", "hospital ready")
        ready = time.monotonic()
        _, run = blocks("The coordinator with systemd")
        coordinator.run(run, timeout_s=RUN_TIMEOUT_S)
        LOG.info("seconds: until all are ready %.0f, run %.0f", ready - began, time.monotonic() - ready)
        yield Production(coordinator, sites)
    finally:
        for name in names:
            docker("rm", "--force", Machine(name).container, check=False)
        docker("network", "rm", NETWORK, check=False)
        docker("image", "rm", "--force", IMAGE, check=False)  # what it was built from stays in the build's cache


def test_all_hospitals_end_with_one_model(production: Production) -> None:
    """Keys made at home, a ceremony over the network, two rounds; bit for bit the same on three machines."""
    models = {
        site.run("sha256sum /var/lib/fedward/site/results/*/model.safetensors").split()[0]
        for site in production.sites.values()
    }
    assert len(models) == 1


def test_the_site_has_no_network_and_the_gateway_has(production: Production) -> None:
    """What reads images and keys is alone with its loopback, and is refused any socket that is not a Unix one."""
    for site in production.sites.values():
        look = "cat /proc/net/dev"
        assert "eth0" not in site.of_unit("fedward-site", look)
        assert "eth0" in site.of_unit("fedward-gateway", look), "control"


def test_the_gateway_sees_the_site_file_and_its_own_folder(production: Production) -> None:
    """Not even names of others; the site's own view is the control, and has nothing of the gateway's."""
    for site in production.sites.values():
        look = 'cd /var/lib/fedward/site && find . -not -path "./gateway/work/*" -type f | sort'
        seen = set(site.of_unit("fedward-gateway", look).split())
        assert seen == {"./site.yaml", *(f"./gateway/{name}" for name in ("ca.crt", "node.key", "superexec.secret"))}
        held = set(site.of_unit("fedward-site", look).split())
        assert {"./vault", "./ledger.sqlite", "./plan.yaml", "./site.yaml"} <= held
        assert "./gateway/node.key" not in held


def test_the_gateway_cannot_read_the_images(production: Production) -> None:
    """They belong to the site's user; the site's own view is the control."""
    for site in production.sites.values():
        look = "find /srv/images -name '*.jpg' -o -name '*.png' | wc -l".replace("'", '"')
        assert site.of_unit("fedward-gateway", look).split()[-1] == "0"
        assert int(site.of_unit("fedward-site", look).split()[-1]) > 10


def test_an_outsider_reaches_the_fleet_port_and_nothing_else(production: Production) -> None:
    """Every port of every machine; the Fleet port itself is the control that knocking works."""
    form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    reached = {}
    for machine in (production.coordinator, *production.sites.values()):
        address = docker("inspect", "--format", form, machine.container).strip()
        reached[machine.name] = open_ports(address)
    assert reached == {COORDINATOR: {FLEET_PORT}} | {name: set() for name in HOSPITALS}


def test_a_proxy_is_read_from_the_gateways_file(production: Production) -> None:
    """By the process that leaves the machine; the run went past it, as `no_proxy` says."""
    look = "for p in /proc/[0-9]*; do grep -q {}= $p/environ 2>/dev/null && tr '\\0' ' ' < $p/cmdline; done; true"
    told = {name: site.run(look.format("https_proxy")) for name, site in production.sites.items()}
    assert "flower-supernode" in told[PROXIED]
    others = ("flower-superexec", "client.forkserver", " service ")
    everything = production.sites[PROXIED].run(look.format("PYTHONUNBUFFERED"))
    assert [name for name in others if name not in everything] == [], "control: they were looked at"
    assert [name for name in others if name in told[PROXIED]] == []
    assert told[OPEN] == ""


def test_units_come_back_after_a_kill(production: Production) -> None:
    """Restart=on-failure: the service is killed, and is there again without anybody's help."""
    site = production.sites[LOCKED]
    before = site.run("systemctl show --property MainPID --value fedward-site").strip()
    site.run("systemctl kill --signal KILL fedward-site")
    deadline = time.monotonic() + START_TIMEOUT_S
    while (now := site.run("systemctl show --property MainPID --value fedward-site").strip()) in (before, "0"):
        assert time.monotonic() < deadline, now
        time.sleep(0.5)
    site.run(f"python3 -c '{ANSWERS}'")
