"""The compose files for real sites, run with the commands of docs/containers.md: three hospitals and a coordinator.

`pytest -m slow --log-cli-level=info tests/e2e/test_production_compose.py`, as root, with `fedward-server:local` and
`fedward-site:local` built (docker/compose.yaml builds them); the log has seconds and memory. Each hospital opens its
vault in another way. Nothing of the files is changed for the test: the coordinator is reached at an address of this
machine, as from other machines.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from scripts.compose_init import COORDINATOR, GATEWAY, SITE
from scripts.federation import free_ports
from tests.support.page_commands import (
    PAGE,
    REPOSITORY,
    blocks,
    digest_of,
    draw_shares,
    open_ports,
    replace_words,
)
from tests.support.small_plan import small_template

PROJECT = "fedward-production"
BESIDE, ELSEWHERE, LOCKED = HOSPITALS = ("hospital-1", "hospital-2", "hospital-3")
"""Their vaults have a key file beside them, a key file elsewhere, and a passphrase."""
ROUNDS = 2
NO_PROXY_THERE = "http://127.0.0.1:9"
RUN_TIMEOUT_S = 600.0
HEALTHY_TIMEOUT_S = 300.0

LOG = logging.getLogger(__name__)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@dataclass
class Machine:
    """One party's machine: its folder stands for /srv/fedward, its settings for docker/*.env.

    Attributes:
        name: The party.
        folder: Its folder.
        words: What stands in the page, and what stands for it here.
    """

    name: str
    folder: Path
    words: dict[str, str] = field(default_factory=dict)

    def run(self, commands: str, *, more: dict[str, str] | None = None, timeout_s: float = 300.0) -> str:
        """Run commands of the page on this machine; returns what they print."""
        commands = replace_words(commands, (more or {}) | self.words)
        done = subprocess.run(  # noqa: S603 -- the page's own commands
            ["/bin/sh", "-euc", commands],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, f"{self.name}: {commands}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return done.stdout

    def compose(self, words: str, **options: Any) -> str:  # noqa: ANN401 -- of `run`
        """`docker compose`, with this machine's file and settings."""
        kind = "coordinator" if self.name == "coordinator" else "site"
        return self.run(f"docker compose -f docker/{kind}.compose.yaml --env-file docker/{kind}.env {words}", **options)

    def until_healthy(self) -> None:
        """Wait until all containers of this machine are."""
        deadline = time.monotonic() + HEALTHY_TIMEOUT_S
        while True:
            rows = [json.loads(line) for line in self.compose("ps --all --format json").splitlines()]
            if rows and all(row["Health"] == "healthy" for row in rows):
                return
            ended = [row["Service"] for row in rows if row["State"] != "running"]
            assert time.monotonic() < deadline, f"{self.name}, {ended} ended: {self.compose('logs --tail 40')}"
            time.sleep(1.0)

    def address(self, service: str) -> str:
        """The address of a container; empty if it has none."""
        container = self.compose(f"ps --quiet {service}").strip()
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return self.run(f"docker inspect --format '{form}' {container}").strip()


@dataclass(frozen=True)
class Production:
    """The federation after its run."""

    organiser: Machine
    sites: dict[str, Machine]
    fleet: tuple[str, int]
    said: dict[str, str]
    seconds: dict[str, float]


def why_not() -> str:
    """Why this cannot run here; empty if it can."""
    for command in ("docker compose version", "docker image inspect fedward-server:local fedward-site:local"):
        try:
            done = subprocess.run(command.split(), capture_output=True, text=True, timeout=30, check=False)  # noqa: S603
        except OSError as error:
            return str(error)
        if done.returncode != 0:
            return (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    # The page's commands give folders to the containers' users.
    return "" if os.geteuid() == 0 else "not root"


def write_settings(example: str, target: Path, **values: str) -> None:
    """Fill in a copy of an example of settings, each of them one that it shows."""
    text = (REPOSITORY / "docker" / example).read_text()
    for name, value in values.items():
        text, count = re.subn(rf"^#?{name}=\S*", f"{name}={value}", text, flags=re.MULTILINE)
        assert count == 1, name
    target.write_text(text)


def machine(base: Path, name: str, **words: str) -> Machine:
    """A folder, and the names that stand for it in the page."""
    folder = base / name
    folder.mkdir()
    settings = folder / "settings.env"
    kind = "coordinator" if name == "coordinator" else "site"
    return Machine(
        name,
        folder,
        words
        | {
            "docker compose ": f"docker compose --ansi never --project-name {PROJECT}-{name} ",
            "--interactive --tty ": "",  # nobody is at the keyboard
            f"docker/{kind}.env ": f"{settings} ",
            "/srv/fedward": str(folder),
            "hospital-1": name,
        },
    )


def set_up(base: Path) -> Production:
    """Images, a template, four machines; keys, cards, plan, kits, approvals: as the page says."""
    shares = draw_shares(base, hospitals=len(HOSPITALS))
    # Of this machine, and not loopback: gateways come from networks of their own.
    host = subprocess.run(
        ["docker", "network", "inspect", "bridge", "--format", "{{range .IPAM.Config}}{{.Gateway}}{{end}}"],  # noqa: S607
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    fleet = (host, free_ports(1)[0])
    organiser = machine(base, "coordinator", **{"coordinator.example.org:9092": f"{fleet[0]}:{fleet[1]}"})
    sites = {name: machine(base, name, **{"/srv/images": str(shares[name])}) for name in HOSPITALS}
    for party in (organiser, *sites.values()):
        (party.folder / "template.yaml").write_text(small_template(rounds=ROUNDS))
    made = Production(organiser, sites, fleet, said={}, seconds={})
    join(made)
    return made


def join(made: Production) -> None:
    """Keys at home, cards to the organiser, kits back, approvals; then each vault in its own way."""
    at_site, approve = blocks("Join")[:2]
    define = at_site.splitlines()[0]
    phrase = made.sites[LOCKED].folder / "phrase"
    phrase.write_text("seven plain words that nobody guesses\n")
    phrase.chmod(0o400)
    locked = {"--site /fedward/site ": "--site /fedward/site --passphrase-file /fedward/phrase "}
    for name, site in made.sites.items():
        made.said[f"{name}: keygen"] = site.run(at_site, more=locked if name == LOCKED else None)
    cards = made.organiser.folder / "cards"
    cards.mkdir()
    for name, site in made.sites.items():
        shutil.copy(site.folder / "site" / f"{name}.card.yaml", cards)
    made.said["provision"] = made.organiser.run(blocks("The coordinator in containers")[0])
    for name, site in made.sites.items():
        shutil.copy(made.organiser.folder / "organised" / "kits" / f"{name}.kit.zip", site.folder)
        more = {"--cap-epsilon 8": f"--cap-epsilon 8 --digest {digest_of(made.said['provision'])}"} | (
            locked if name == LOCKED else {}
        )
        made.said[f"{name}: approve"] = site.run(f"{define}\n{approve}", more=more)
    for name, site in made.sites.items():
        write_settings(
            "site.env.example", site.folder / "settings.env", **site_settings(name, site, fleet_host=made.fleet[0])
        )
    write_settings(
        "coordinator.env.example",
        made.organiser.folder / "settings.env",
        FEDWARD_COORDINATOR_FOLDER=f"{made.organiser.folder}/coordinator",
        FEDWARD_FLEET_BIND=made.fleet[0],
        FEDWARD_FLEET_PORT=str(made.fleet[1]),
    )


def site_settings(name: str, site: Machine, *, fleet_host: str) -> dict[str, str]:
    """What a hospital fills in; moves its key file where its vault says so."""
    home, secret = site.folder / "site", site.folder / "secret"
    found = {
        "FEDWARD_SITE_FOLDER": str(home),
        "FEDWARD_DATA": site.words["/srv/images"],
        "FEDWARD_SITE_MEMORY": "2g",
        "FEDWARD_SITE_CPUS": "1",
    }
    if name == ELSEWHERE:
        shutil.move(home / "vault.key", secret)
        text, count = re.subn(
            "^vault_key: .*$", "vault_key: /run/secrets/vault_key", (home / "site.yaml").read_text(), flags=re.MULTILINE
        )
        assert count == 1
        (home / "site.yaml").write_text(text)
        found["FEDWARD_VAULT_KEY"] = str(secret)
        # A proxy that is not there, and the coordinator an exception from it.
        found |= {"FEDWARD_HTTPS_PROXY": NO_PROXY_THERE, "FEDWARD_NO_PROXY": fleet_host}
    if name == LOCKED:
        shutil.copy(site.folder / "phrase", secret)
        found["FEDWARD_VAULT_PASSPHRASE"] = str(secret)
    if secret.exists():
        secret.chmod(0o400)
        os.chown(secret, SITE.user, SITE.group)
    return found


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Production]:
    """Joined, started, and run to the end."""
    reason = why_not()
    if reason:
        pytest.skip(f"no Docker engine with the images, or no right to give folders away: {reason}")
    base = tmp_path_factory.mktemp("production")
    began = time.monotonic()
    made = set_up(base)
    made.seconds["joined"] = time.monotonic() - began
    parties = (made.organiser, *made.sites.values())
    try:
        began = time.monotonic()
        _, start, run = blocks("The coordinator in containers")
        made.organiser.run(up(start))
        for site in made.sites.values():
            site.run(up(blocks("Start")[0]))
        for party in parties:
            party.until_healthy()
        made.seconds["up to healthy"] = time.monotonic() - began
        made.said["run"] = made.organiser.run(run, timeout_s=RUN_TIMEOUT_S)
        made.seconds["up to finished"] = time.monotonic() - began
        LOG.info("seconds: %s", json.dumps(made.seconds))
        for party in parties:
            LOG.info(
                "memory: %s",
                party.compose("ps --quiet | xargs docker stats --no-stream --format '{{.Name}} {{.MemUsage}}'"),
            )
        yield made
    finally:
        for party in reversed(parties):
            party.compose("down --volumes --timeout 30")


def up(commands: str) -> str:
    """The commands that start a party, without the copy of the example: it is filled in already."""
    first, rest = commands.split("\n", 1)
    assert first.startswith("cp docker/")
    return rest


def told_of_a_proxy(site: Machine, service: str) -> tuple[set[str], set[str]]:
    """Words of the command lines of a container's processes that have one in their environment, and of the others.

    Seen from outside as root: some of them hide their environment from their own user.
    """
    found: tuple[set[str], set[str]] = set(), set()
    container = site.compose(f"ps --quiet {service}").strip()
    for process in site.run(f"docker top {container} -eo pid").split()[1:]:
        folder = Path("/proc") / process
        words = {word.rpartition("/")[2] for word in (folder / "cmdline").read_text().split("\0")}
        found[b"https_proxy=http" not in (folder / "environ").read_bytes()].update(words)
    return found


def test_all_hospitals_end_with_one_model(production: Production) -> None:
    """Keys made at home, a ceremony over the network, two rounds; bit for bit the same in three folders."""
    models = [
        path.read_bytes()
        for site in production.sites.values()
        for path in (site.folder / "site" / "results").glob("*/model.safetensors")
    ]
    assert len(models) == len(HOSPITALS)
    assert len(set(models)) == 1
    for name, site in production.sites.items():
        told = site.compose("exec site fedward-client status --config /fedward/site/site.yaml")
        assert told.startswith(f"{name}: finished, round {ROUNDS} of {ROUNDS}")


def test_an_outsider_reaches_the_fleet_port_and_nothing_else(production: Production) -> None:
    """Every port of every container that has an address; the Fleet port itself is the control that knocking works."""
    host, port = production.fleet
    reached = {"coordinator": open_ports(production.organiser.address("coordinator"))}
    for name, site in production.sites.items():
        reached[name] = open_ports(site.address("gateway"))
        assert site.address("site") == "", "a site has no network"
    assert reached == {"coordinator": {port}} | {name: set() for name in HOSPITALS}
    published = {
        (row["URL"], row["PublishedPort"])
        for party in (production.organiser, *production.sites.values())
        for line in party.compose("ps --format json").splitlines()
        for row in json.loads(line)["Publishers"] or []
        if row["PublishedPort"]
    }
    assert published == {(host, port)}


def test_each_file_has_the_user_that_needs_it(production: Production) -> None:
    """What the site has written since, too; secrets are for nobody else."""
    for name, site in production.sites.items():
        home = site.folder / "site"
        for path in (home, *home.rglob("*")):
            of_gateway = path.is_relative_to(home / "gateway")
            assert path.stat().st_uid == (GATEWAY if of_gateway else SITE).user, path
        assert home.stat().st_mode & 0o077 == 0
        for secret in ("vault", "ledger.sqlite", "state", "results", "approvals", "gateway/node.key"):
            assert (home / secret).stat().st_mode & 0o077 == 0, secret
        assert (home / "vault.key").exists() == (name == BESIDE)
    store = production.organiser.folder / "coordinator" / "work" / "store.db"
    assert store.stat().st_uid == COORDINATOR.user


def test_the_gateways_container_shows_nothing_of_the_site(production: Production) -> None:
    """It has the site file and its own keys; the site's container is the control, and has no gateway's keys."""
    look = "exec {} sh -c 'ls -A /fedward /fedward/site /fedward/site/gateway /run/secrets 2>&1 || true'"
    for name, site in production.sites.items():
        gateway = set(site.compose(look.format("gateway")).split())
        held = set(site.compose(look.format("site")).split())
        inside = {"vault", "ledger.sqlite", "plan.yaml", "approvals", "state", "results"}
        assert inside <= held, name
        assert "vault_key" in held
        assert not (inside | {"vault.key", "vault_key", "vault_passphrase", "data"}) & gateway
        assert "node.key" in gateway
        assert "node.key" not in held


def test_a_proxy_is_the_supernodes_alone(production: Production) -> None:
    """The processes that start pushed code are not told, nor is the site; the run went past it, as `no_proxy` says."""
    site = production.sites[ELSEWHERE]
    told, others = told_of_a_proxy(site, "gateway")
    assert "flower-supernode" in told
    assert {"flower-superexec", "client.forkserver"} <= others
    assert told_of_a_proxy(site, "site")[0] == set()
    told, others = told_of_a_proxy(production.sites[BESIDE], "gateway")
    assert told == set()
    assert "flower-supernode" in others, "control: nothing was told to the others"


def test_the_doctor_finds_both_containers_well(production: Production) -> None:
    """As the page says, beside the running services."""
    for site in production.sites.values():
        for command in blocks("Start")[1].splitlines():
            passphrase = " --passphrase-file /run/secrets/vault_passphrase" if site.name == LOCKED else ""
            assert "checks are well" in site.run(command + (passphrase if "--part site" in command else ""))


def test_a_later_kit_leaves_owners_and_modes_as_they_are(production: Production) -> None:
    """Approving again as root, then starting again: the site reads what root has written."""
    site = production.sites[BESIDE]
    home = site.folder / "site"

    def rights() -> dict[str, tuple[int, int]]:
        names = ("plan.yaml", "kit.json", "site.yaml", "vault", "approvals", "gateway/ca.crt")
        return {name: ((s := (home / name).stat()).st_uid, s.st_mode) for name in names}

    before = rights()
    (later,) = re.findall(r"`(at_site fedward-client approve [^`]+)`", PAGE.read_text())
    site.run(f"{blocks('Join')[0].splitlines()[0]}\n{later} --digest {digest_of(production.said['provision'])}")
    assert rights() == before
    site.compose("restart")
    site.until_healthy()
