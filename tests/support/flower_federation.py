"""A coordinator and trivial hospitals as real processes on this machine: TLS, node keys, relay, fork server."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from client.hpke import box_public_hex
from common.card import sign_card
from common.identity import Identity
from common.node_key import write_node_key, write_superexec_secret
from scripts.certificates import write_tls

REPOSITORY = Path(__file__).parents[2]
TRIVIAL_SITE = Path(__file__).with_name("trivial_site.py")
POLL_S = 0.05


def free_port() -> int:
    """A loopback port that nothing uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], bool], what: str, *, timeout_s: float = 60.0) -> None:
    """Poll until `condition` holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout_s:g} s")
        time.sleep(POLL_S)


def environment() -> dict[str, str]:
    """The environment of a process of this repository."""
    return os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}


@dataclass
class Federation:
    """Files and processes of a federation whose hospitals have no data."""

    folder: Path
    hospitals: tuple[str, ...]
    round_timeout_s: float = 60.0
    rounds: int = 5
    attempts: int = 2
    trainable_parameters: int = 5000
    verification: str = "auto"
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    fleet_port: int = field(default_factory=free_port)
    runtime_port: int = field(default_factory=free_port)
    patience_s: float = 0.0
    page_kib: int = 4096
    whole_kib: int = 16_384

    @property
    def server_file(self) -> Path:
        """The coordinator's file."""
        return self.folder / "server" / "server.yaml"

    @property
    def plan_file(self) -> Path:
        """The agreed plan."""
        return self.folder / "plan.yaml"

    def write(self) -> None:
        """Make keys, certificates, plan, server file and site files."""
        server = self.server_file.parent
        server.mkdir(parents=True)
        write_tls(server, [], valid_days=2)
        write_superexec_secret(server / "superlink.secret")
        coordinator = Identity.generate()
        coordinator.save(server / "identity.key")
        roster = []
        for name in self.hospitals:
            home = self.folder / name
            home.mkdir()
            identity = Identity.generate()
            identity.save(home / "identity.key")
            node = write_node_key(home / "node.key")
            (server / f"{name}.pub").write_text(f"{node}\n")
            write_superexec_secret(home / "site.secret")
            box = secrets.token_bytes(32)
            (home / "box.key").write_bytes(box)
            card = sign_card(identity, name=name, box=box_public_hex(box), node=node, declared_units=100)
            roster.append(card.model_dump(mode="json"))
            self.write_site(name)
        self.plan_file.write_text(yaml.safe_dump(self._plan(coordinator.public_hex, roster)))
        self.server_file.write_text(yaml.safe_dump(self._server()))

    def write_site(self, name: str, **gateway: str) -> Path:
        """Write a hospital's file; `gateway` replaces some of its settings."""
        home = self.folder / name
        settings: dict[str, Any] = {
            "superlink": f"127.0.0.1:{self.fleet_port}",
            "root_certificates": str(self.folder / "server" / "ca.crt"),
            "node_key": str(home / "node.key"),
            "superexec_secret": str(home / "site.secret"),
            "runtime_port": free_port(),
            "folder": str(home / "gateway"),
        }
        content = {
            "name": name,
            "folder": str(home),
            "plan": str(self.plan_file),
            "connect_timeout_s": 30.0,
            "gateway": settings | gateway,
        }
        path = home / "site.json"
        path.write_text(json.dumps(content))
        return path

    def start_coordinator(self) -> None:
        """`fedward-server start`, until hospitals may connect."""
        self.start("coordinator", [sys.executable, "-m", "server", "start", "--config", str(self.server_file)])
        wait_until(lambda: "coordinator ready" in self.log("coordinator"), "coordinator")

    def start_hospital(self, name: str, **variables: str) -> None:
        """The hospital's service and gateway, with more variables in their environment; returns at once."""
        argv = [sys.executable, str(TRIVIAL_SITE), "supervise", str(self.folder / name / "site.json")]
        self.start(name, argv, **variables)

    def start_all(self) -> None:
        """The coordinator and all hospitals, until they are connected."""
        self.start_coordinator()
        for name in self.hospitals:
            self.start_hospital(name)
        for name in self.hospitals:
            self.wait_connected(name)

    def run_to_end(self, *, timeout_s: float) -> dict[str, Any]:
        """Start all, carry a run to its end with `fedward-server run`, and stop all; what the command printed."""
        try:
            self.start_all()
            argv = [sys.executable, "-m", "server", "run", str(self.plan_file), "--json"]
            argv += ["--config", str(self.server_file)]
            result = subprocess.run(  # noqa: S603 -- our own command
                argv, env=environment(), cwd=self.folder, capture_output=True, text=True, timeout=timeout_s, check=False
            )
        finally:
            self.close()
        assert result.returncode == 0, result.stderr
        summary: dict[str, Any] = json.loads(result.stdout)
        return summary

    def log(self, name: str) -> str:
        """What a started process has printed."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def wait_connected(self, name: str) -> None:
        """Wait until all of a hospital's processes are up."""
        wait_until(lambda: "superexec ready" in self.log(name).rsplit("superexec starting", 1)[-1], name)

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal a process and wait for its end."""
        process = self.processes.pop(name)
        process.send_signal(number)
        return process.wait(timeout=60)

    def close(self) -> None:
        """Stop hospitals first, so that the coordinator sees them leave."""
        for name in list(self.processes):
            if name != "coordinator":
                self.processes[name].terminate()
        for name in sorted(self.processes, key=lambda n: n == "coordinator"):
            self.stop(name)

    def start(self, name: str, argv: list[str], **variables: str) -> None:
        """Start a command of ours; its output is `log(name)`."""
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(  # noqa: S603 -- our own commands
                argv, env=environment() | variables, cwd=self.folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def _server(self) -> dict[str, Any]:
        return {
            "fleet_address": f"127.0.0.1:{self.fleet_port}",
            "runtime_port": self.runtime_port,
            "certificate": "server.crt",
            "certificate_key": "server.key",
            "root_certificates": "ca.crt",
            "superexec_secret": "superlink.secret",
            "identity_key": "identity.key",
            "folder": "work",
            "patience_s": self.patience_s,
            "nodes": [{"name": name, "public_key": f"{name}.pub"} for name in self.hospitals],
        }

    def _plan(self, coordinator: str, roster: list[dict[str, Any]]) -> dict[str, Any]:
        template = yaml.safe_load((REPOSITORY / "configs" / "plans" / "skin9.yaml").read_text())
        template["training"]["rounds"] = self.rounds
        template["encryption"] |= {"update_norm_bound": 1.0, "verification": self.verification}
        # A trivial hospital has no key, so it can deal none: the first one serves the whole run, the last metrics too.
        template["encryption"]["epoch_rounds"] = max(template["encryption"]["epoch_rounds"], self.rounds + 1)
        template["metrics"]["released"] = "none"
        # No data, so no round that tells the mean of its features.
        template["privacy"] |= {"delta": 1e-5, "mean_share": 0.0}
        # The fewest that are sound with one colluder, so that as many as possible may be away.
        needed = (len(self.hospitals) + 1) // 2 + 1
        template["cohort"] |= {"threshold": needed, "min_cohort": needed}
        template["cohort"] |= {"round_timeout_s": self.round_timeout_s, "attempts": self.attempts}
        template["cohort"] |= {"page_kib": self.page_kib, "whole_kib": self.whole_kib}
        template["federation"] = {
            "coordinator": coordinator,
            "epoch": 1,
            "trainable_parameters": self.trainable_parameters,
            "hospitals": roster,
        }
        return dict(template)
