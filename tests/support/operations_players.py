"""Plays the lines of docs/operations.md: an organiser, who also runs the coordinator, and three hospitals at home."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from common.plan import Plan
from scripts.federation import free_ports
from tests.support.deployment import Deployment
from tests.support.operations_page import AS_OTHER_USER
from tests.support.small_federation import TEMPLATE, write_images

HOSPITALS = ("hospital-1", "hospital-2", "hospital-3")
IN_TWO_PARTS = "hospital-2"
"""Its site service and its gateway are started apart, as two users' would be."""
SITE_FOLDER = "/var/lib/fedward/site/"
TIMEOUT_S = 120.0


@dataclass
class Page(Deployment):
    """Runs lines of the page, each as whoever it is meant for.

    Args:
        said: What each line that ends has printed, in the order of its runs.
        seen: All lines so far.
        address: Where the coordinator listens.
        run_id: The first run.
    """

    said: dict[str, list[str]] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    address: str = field(default_factory=lambda: f"127.0.0.1:{free_ports(1)[0]}")
    run_id: str = ""

    @property
    def organiser(self) -> Path:
        """Where the organiser works."""
        return self.folder / "organiser"

    @property
    def plan(self) -> Plan:
        """The agreed plan."""
        return Plan.model_validate(yaml.safe_load((self.organiser / "organised" / "plan.yaml").read_text()))

    def home(self, name: str) -> Path:
        """Where a hospital works."""
        return self.folder / name

    def prepare(self) -> None:
        """What everybody has before the first command."""
        for place in (self.organiser, *map(self.home, HOSPITALS)):
            place.mkdir(parents=True)
            template = TEMPLATE | {"privacy": TEMPLATE["privacy"] | {"epsilon": 3.0}}
            (place / "template.yaml").write_text(yaml.safe_dump(template))
        for number, name in enumerate(HOSPITALS):
            write_images(self.home(name) / "images", per_class=8, seed=number)

    def play(self, line: str) -> None:
        """Run one line of the page, as whoever it is meant for."""
        self.before(line)
        words = AS_OTHER_USER.sub("", line).split()
        step = self.steps.get((words[0], words[1]))
        if step is not None:
            step(line)
        elif any(word in line for word in ("coordinator", "restored")):
            self.do(line, self.organiser)
        else:
            self.do(line, self.home(HOSPITALS[0]))

    @property
    def steps(self) -> dict[tuple[str, str], Callable[[str], None]]:
        """The commands that are more than a line in one place."""
        return {
            ("fedward", "provision"): self.provision,
            ("fedward-server", "start"): self.start_server,
            ("fedward-server", "run"): self.run_plan,
            ("fedward-server", "status"): self.at_organiser,
            ("fedward-client", "keygen"): lambda line: self.everywhere(line, after=self.send_card),
            ("fedward-client", "approve"): self.approve,
            ("fedward-client", "start"): self.start_sites,
            ("fedward-client", "service"): lambda line: self.start_part(line, "site ready on"),
            ("fedward-client", "gateway"): lambda line: self.start_part(line, "hospital ready"),
        }

    def before(self, line: str) -> None:
        """What the page says in words before a line."""
        first = HOSPITALS[0]
        if line == "mkdir --parents restored":
            assert self.stop("coordinator") == 0
            shutil.rmtree(self.organiser / "organised" / "coordinator")
        elif line.startswith("tar --create") and line.endswith(" site"):
            assert self.stop(first) == 0
        elif line.startswith("tar --extract --gzip --file site-backup"):
            shutil.rmtree(self.home(first) / "site")
        elif line == "fedward-client doctor --config site/site.yaml" and line in self.seen:
            assert self.stop(first) == 0  # the second time, before the upgrade
        self.seen.append(line)

    def do(self, line: str, place: Path, *more: str) -> str:
        """Run a line to its end there; it must succeed."""
        text = " ".join((AS_OTHER_USER.sub("", line).replace(SITE_FOLDER, "site/"), *more))
        done = subprocess.run(  # noqa: S603 -- the page's own line
            ["/bin/bash", "-e", "-c", text],
            cwd=place,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
        self.said.setdefault(line, []).append(done.stdout)
        return done.stdout

    def begin(self, line: str, name: str, place: Path) -> None:
        """Start a line that stays."""
        text = AS_OTHER_USER.sub("", line).replace(SITE_FOLDER, "site/")
        self.log(name).unlink(missing_ok=True)
        with self.log(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(  # noqa: S603 -- the page's own line
                ["/bin/bash", "-c", f"exec {text}"],
                cwd=place,
                env=environment(),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def everywhere(self, line: str, *more: str, after: Callable[[str], None]) -> None:
        """The page speaks to hospital 1; the others read their own name there."""
        for name in HOSPITALS:
            self.do(line.replace(HOSPITALS[0], name), self.home(name), *more)
            after(name)

    def send_card(self, name: str) -> None:
        """All that leaves the hospital before the run."""
        (self.organiser / "cards").mkdir(exist_ok=True)
        shutil.copy(self.home(name) / "site" / f"{name}.card.yaml", self.organiser / "cards")

    def provision(self, line: str) -> None:
        """At this machine's address, and on a port that is free here; then the kits are sent."""
        self.do(line.replace("coordinator.example.org:9092", self.address), self.organiser)
        path = self.organiser / "organised" / "coordinator" / "server.yaml"
        content = yaml.safe_load(path.read_text()) | {"runtime_port": free_ports(1)[0]}
        path.write_text(yaml.safe_dump(content))
        for name in HOSPITALS:
            shutil.copy(self.organiser / "organised" / "kits" / f"{name}.kit.zip", self.home(name))

    def approve(self, line: str) -> None:
        """Nobody is at the keyboard, and three gateways share this machine's ports."""
        for name, port in zip(HOSPITALS, free_ports(len(HOSPITALS)), strict=True):
            more = ("--digest", self.plan.digest, "--runtime-port", str(port))
            self.do(line.replace(HOSPITALS[0], name), self.home(name), *more)

    def at_organiser(self, line: str) -> None:
        """Run it to its end where the coordinator is."""
        self.do(line, self.organiser)

    def start_server(self, line: str) -> None:
        """The coordinator."""
        self.begin(line, "coordinator", self.organiser)
        self.until_printed("coordinator", "coordinator ready")

    def start_sites(self, line: str) -> None:
        """Every hospital that is down."""
        down = [name for name in HOSPITALS if name not in self.processes and f"{name}-gateway" not in self.processes]
        assert down
        for name in down:
            self.begin(line, name, self.home(name))
        for name in down:
            self.until_printed(name, "hospital ready")

    def start_part(self, line: str, ready: str) -> None:
        """One of the two commands that take the place of `start`."""
        if IN_TWO_PARTS in self.processes:
            assert self.stop(IN_TWO_PARTS) == 0
        part = "gateway" if "gateway --config" in line else "site"
        self.begin(line, f"{IN_TWO_PARTS}-{part}", self.home(IN_TWO_PARTS))
        self.until_printed(f"{IN_TWO_PARTS}-{part}", ready)

    def run_plan(self, line: str) -> None:
        """The first time it is stopped at its first exchange; with its id it goes on to its end."""
        if self.run_id:
            self.do(line.replace("--run-id RUN", f"--run-id {self.run_id}"), self.organiser)
            return
        self.begin(line, "run", self.organiser)
        self.until_printed("run", "hello 0 of ")
        self.run_id = re.findall(r"\brun ([0-9a-f]{32})", self.log("run").read_text())[0]
        process = self.processes.pop("run")
        # Not SIGINT, which whoever runs the tests in the background makes all of them ignore.
        process.terminate()
        assert process.wait(timeout=TIMEOUT_S) == 130, self.log("run").read_text()


def environment() -> dict[str, str]:
    """Our commands are found first, as in the environment that the page installs."""
    return os.environ | {"PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))}
