"""`fedward-client start` and `fedward-server start` on an operator's mistake: they stop, and say what it is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.certificates import write_tls
from tests.support.flower_federation import Federation, environment
from tests.support.small_federation import NAMES, provision_small, template

OURS = NAMES[0]
# A retry comes after 2 s, and never ends: a command that tries again is still there after this.
PATIENCE_S = 90.0


def change(path: Path, **changes: Any) -> None:  # noqa: ANN401 -- YAML values
    """Replace some keys of a YAML file; a mapping replaces some keys of its section."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    for key, value in changes.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) else value
    path.write_text(yaml.safe_dump(content), encoding="utf-8")


def start(module: str, config: Path) -> subprocess.CompletedProcess[str]:
    """Run `python -m client|server start`, until it gives up."""
    argv = [sys.executable, "-m", module, "start", "--config", str(config)]
    return subprocess.run(  # noqa: S603 -- our own commands
        argv, env=environment(), capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )


def errors(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What was said on stderr, but for the names of the children that died."""
    return [line for line in done.stderr.splitlines() if not line.endswith(" died")]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The folder of a provisioned hospital."""
    provision_small(tmp_path, template())
    return tmp_path / "federation" / OURS


def no_data(site: Path) -> str:
    """The data folder is not mounted."""
    change(site / f"{OURS}.yaml", data="nowhere")
    return f"error: site: {site / 'nowhere'}: there is no such file or folder; correct 'data' in the site file"


def open_key(site: Path) -> str:
    """A key that others can read."""
    (site / "vault").chmod(0o644)
    return f"error: {site / 'vault'}: mode is 0644, 0600 is allowed; run chmod 600 on it"


def other_plan(site: Path) -> str:
    """A plan that this hospital did not approve."""
    change(site / "plan.yaml", privacy={"epsilon": 9.0})
    return "error: site: plan 'small' (digest "


def no_authority(site: Path) -> str:
    """The coordinator's certificate authority is missing; seen before anything starts."""
    (site / "gateway" / "ca.crt").unlink()
    return f"error: gateway.root_certificates: {site / 'gateway' / 'ca.crt'} is no file; ask the coordinator"


def below_a_file(key: str) -> Callable[[Path], str]:
    """A path that cannot be made."""

    def mistake(site: Path) -> str:
        path, (section, _, name) = site / "vault.key" / "below", key.rpartition(".")
        change(site / f"{OURS}.yaml", **({section: {name: str(path)}} if section else {name: str(path)}))
        return f"error: {'site' if key == 'ledger' else key}: {path}: cannot be made ("

    return mistake


BELOW_A_FILE = [pytest.param(below_a_file(key), id=key) for key in ("state", "results", "gateway.folder", "ledger")]


@pytest.mark.parametrize("mistake", [no_data, open_key, other_plan, no_authority, *BELOW_A_FILE])
def test_a_site_with_a_mistake_stops_with_its_own_sentence(mistake: Callable[[Path], str], site: Path) -> None:
    """Trying again would hide the sentence in a log that grows for ever; e2e tests are the control that it starts."""
    said = mistake(site)
    done = start("client", site / f"{OURS}.yaml")
    assert (done.returncode, len(errors(done))) == (2, 1), done.stderr
    assert errors(done)[0].startswith(said)


@pytest.fixture
def coordinator(tmp_path: Path) -> Federation:
    """The files of a coordinator."""
    federation = Federation(tmp_path, NAMES[:3])
    federation.write()
    return federation


def foreign_key(server: Path) -> str:
    """The key of another certificate."""
    (server / "other").mkdir()
    write_tls(server / "other", [], valid_days=2)
    (server / "server.key").write_bytes((server / "other" / "server.key").read_bytes())
    return f"error: superlink ended with status 1: {server / 'server.crt'}, {server / 'server.key'} and "


def no_certificate(server: Path) -> str:
    """A file that is not there."""
    (server / "server.crt").unlink()
    return f"error: certificate: {server / 'server.crt'} is no file"


def no_node_key(server: Path) -> str:
    """A hospital's public key that never arrived."""
    (server / "hospital-2.pub").unlink()
    return f"error: {server / 'hospital-2.pub'}: no such file; ask hospital-2"


def folder_below_a_file(server: Path) -> str:
    """A path that cannot be made."""
    change(server / "server.yaml", folder="identity.key/below")
    return f"error: folder: {server / 'identity.key' / 'below'}: cannot be made (Not a directory); "


def log_is_a_folder(server: Path) -> str:
    """What no check looks for."""
    (server / "work" / "logs" / "superlink.log").mkdir(parents=True)
    return f"error: {server / 'work' / 'logs' / 'superlink.log'}: Is a directory; check this path"


@pytest.mark.parametrize("mistake", [foreign_key, no_certificate, no_node_key, folder_below_a_file, log_is_a_folder])
def test_a_coordinator_with_a_mistake_stops_with_one_sentence(
    mistake: Callable[[Path], str], coordinator: Federation
) -> None:
    """The same for the coordinator's files."""
    said = mistake(coordinator.server_file.parent)
    done = start("server", coordinator.server_file)
    assert (done.returncode, len(errors(done))) == (2, 1), done.stderr
    assert errors(done)[0].startswith(said)
