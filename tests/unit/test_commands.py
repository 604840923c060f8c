"""A command with a wrong file or a wrong site: one line on stderr, exit code 2, no traceback."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from client.cli import main as client_main
from client.keygen import make_site
from scripts.report_file import require_writable, write_json
from tests.support.small_federation import CLASSES, NAMES, provision_small, template, write_images

CONFIGS = Path(__file__).parents[2] / "configs"
TEMPLATE = CONFIGS / "plans" / "demo.yaml"


def sample(folder: Path, name: str, source: Path, **changes: Any) -> Path:  # noqa: ANN401 -- YAML values
    """A copy of a sample file with some keys of its sections, or of the file, changed."""
    content = yaml.safe_load(source.read_text(encoding="utf-8"))
    for key, value in changes.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) else value
    path = folder / name
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def fedward(*words: object) -> subprocess.CompletedProcess[str]:
    """Run one of our commands as an operator does."""
    command = [str(Path(sys.executable).with_name(str(words[0]))), *map(str, words[1:])]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)  # noqa: S603 -- our own scripts


def provision(folder: Path) -> tuple[list[object], str]:
    """Epsilon zero in a plan."""
    path = sample(folder, "p.yaml", TEMPLATE, privacy={"epsilon": 0})
    said = f"error: {path}: privacy.epsilon: seen 0; input should be greater than 0\n"
    return ["fedward", "provision", path, "--shards", folder, "--out", folder / "out"], said


def service(folder: Path) -> tuple[list[object], str]:
    """A misspelt key in a site file."""
    path = sample(folder, "s.yaml", CONFIGS / "site.yaml", gateway={"node_kye": "x"})
    said = f"error: {path}: unknown key 'gateway.node_kye'; did you mean 'node_key'?\n"
    return ["fedward-client", "service", "--config", path], said


def start(folder: Path) -> tuple[list[object], str]:
    """No site file."""
    path = folder / "none.yaml"
    return (
        ["fedward-client", "start", "--config", path],
        f"error: {path}: no such file; name an existing YAML file\n",
    )


def run_wrong_server(folder: Path) -> tuple[list[object], str]:
    """Text for a number in a server file."""
    path = sample(folder, "c.yaml", CONFIGS / "server.yaml", runtime_port="9091")
    problem = "runtime_port: seen '9091'; a number is allowed, this is text; write 9091 without quotes"
    return ["fedward-server", "run", TEMPLATE, "--config", path], f"error: {path}: {problem}\n"


def run_template(folder: Path) -> tuple[list[object], str]:
    """A plan without hospitals."""
    path = sample(folder, "c.yaml", CONFIGS / "server.yaml")
    said = "error: plan 'demo' names no hospitals; run `fedward provision` on it first\n"
    return ["fedward-server", "run", TEMPLATE, "--config", path], said


def demo_json_is_a_folder(folder: Path) -> tuple[list[object], str]:
    """The demo's report where a folder is."""
    said = f"error: {folder}: cannot be written (Is a directory); name a file in an existing folder\n"
    return ["fedward", "demo", "--json", folder], said


def demo_json_below_a_file(folder: Path) -> tuple[list[object], str]:
    """The demo's report below a file."""
    (folder / "file").write_text("")
    path = folder / "file" / "x.json"
    said = f"error: {path}: cannot be written (Not a directory); name a file in an existing folder\n"
    return ["fedward", "demo", "--json", path], said


def evaluate_json_nowhere(folder: Path) -> tuple[list[object], str]:
    """A score in a folder that is not there; told before results and images are looked at."""
    path = folder / "no" / "x.json"
    said = f"error: {path}: cannot be written (No such file or directory); name a file in an existing folder\n"
    return ["fedward", "evaluate", folder, folder, "--json", path], said


def provision_place(place: Path, why: str) -> tuple[list[object], str]:
    """A small hospital and a plan that are right, and a folder that cannot be made."""
    shards = place.parents[1] / "shards"
    write_images(shards / "hospital-1" / "data", per_class=2, seed=0)
    plan = sample(place.parents[1], "p.yaml", TEMPLATE, data={"classes": list(CLASSES)})
    said = f"error: {place} cannot be written ({why}); choose another folder, or free disk space\n"
    return ["fedward", "provision", plan, "--shards", shards, "--out", place], said


def provision_below_a_file(folder: Path) -> tuple[list[object], str]:
    """A folder below a file."""
    (folder / "file").write_text("")
    return provision_place(folder / "file" / "out", "File exists")


def provision_onto_a_file(folder: Path) -> tuple[list[object], str]:
    """A folder where a file is."""
    words, _ = provision_place(folder / "none" / "out", "")
    (folder / "file").write_text("")
    said = f"error: {folder / 'file'} exists and is not empty; choose another folder, or delete it first\n"
    return [*words[:-1], folder / "file"], said


def provision_in_proc(folder: Path) -> tuple[list[object], str]:
    """A place that takes no folder, whoever asks."""
    words, _ = provision_place(folder / "none" / "out", "")
    place = Path("/proc/fedward/out")
    said = f"error: {place} cannot be written (No such file or directory); choose another folder, or free disk space\n"
    return [*words[:-1], place], said


CASES = [
    provision,
    service,
    start,
    run_wrong_server,
    run_template,
    demo_json_is_a_folder,
    demo_json_below_a_file,
    evaluate_json_nowhere,
    provision_below_a_file,
    provision_onto_a_file,
    provision_in_proc,
]


@pytest.mark.parametrize("case", CASES)
def test_a_command_with_a_wrong_file_ends_with_one_line_and_code_2(
    case: Callable[[Path], tuple[list[object], str]], tmp_path: Path
) -> None:
    """The real console scripts in processes of their own."""
    words, said = case(tmp_path)
    done = fedward(*words)
    assert (done.returncode, done.stderr, done.stdout) == (2, said, "")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The folder of a provisioned hospital."""
    provision_small(tmp_path, template())
    return tmp_path / "federation" / NAMES[0]


@pytest.fixture
def quiet_logging() -> Iterator[None]:
    """The command sets the root logger up; put it back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def not_approved(site: Path) -> str:
    """Another plan than the approved one."""
    sample(site, "plan.yaml", site / "plan.yaml", privacy={"epsilon": 9.0})
    return "was not approved here"


def template_as_plan(site: Path) -> str:
    """The template where the agreed plan belongs."""
    (site / "plan.yaml").write_text(TEMPLATE.read_text(encoding="utf-8"), encoding="utf-8")
    return "a plan without hospitals; name the agreed plan"


def stranger(site: Path) -> str:
    """A name that the roster does not hold."""
    sample(site, f"{NAMES[0]}.yaml", site / f"{NAMES[0]}.yaml", hospital="hospital-9")
    return "the roster names hospital-1, hospital-2, hospital-3, hospital-4, not hospital-9"


def open_key(site: Path) -> str:
    """A key that others can read."""
    (site / "vault").chmod(0o644)
    return "mode is 0644, 0600 is allowed; run chmod 600 on it"


def neighbours_key(site: Path) -> str:
    """Another hospital's vault, and its key."""
    for name in ("vault", "vault.key"):
        (site / name).write_bytes((site.parent / NAMES[1] / name).read_bytes())
    return "is the vault of hospital-2, not of hospital-1"


def wrong_vault_key(site: Path) -> str:
    """Another vault's key file."""
    (site / "vault.key").write_bytes((site.parent / NAMES[1] / "vault.key").read_bytes())
    return "the key file does not open it"


def new_keys(site: Path) -> str:
    """Keys that were made anew after the card was sent."""
    make_site(site.parent / "again" / NAMES[0], hospital=NAMES[0], declared_units=5, passphrase=None)
    for name in ("vault", "vault.key"):
        (site / name).write_bytes((site.parent / "again" / NAMES[0] / name).read_bytes())
    return "another identity than the roster's row of hospital-1"


def forged_approval(site: Path) -> str:
    """Another hospital's approval."""
    name = next((site / "approvals").iterdir()).name
    (site / "approvals" / name).write_bytes((site.parent / NAMES[1] / "approvals" / name).read_bytes())
    return "is no approval of this plan by hospital-1"


def no_data(site: Path) -> str:
    """A data folder that is not there."""
    sample(site, f"{NAMES[0]}.yaml", site / f"{NAMES[0]}.yaml", data="nowhere")
    return "there is no such file or folder"


def no_state_folder(site: Path) -> str:
    """A file where the state folder belongs."""
    (site / "state").write_text("")
    return "cannot be made"


def hollow_cap(site: Path) -> str:
    """A delta at which any spending looks small."""
    sample(site, f"{NAMES[0]}.yaml", site / f"{NAMES[0]}.yaml", privacy={"cap_delta": 0.5})
    return "privacy.cap_delta: seen 0.5 in the site file"


def lonely(site: Path) -> str:
    """More hospitals asked for than there are."""
    sample(site, f"{NAMES[0]}.yaml", site / f"{NAMES[0]}.yaml", privacy={"min_cohort": 5})
    return "privacy.min_cohort: seen 5 in the site file"


def foreign_ledger(site: Path) -> str:
    """The ledger of another source."""
    sample(site, f"{NAMES[0]}.yaml", site / f"{NAMES[0]}.yaml", ledger="vault.key")
    return "vault.key: is damaged"


MISTAKES = [
    not_approved,
    template_as_plan,
    stranger,
    open_key,
    neighbours_key,
    wrong_vault_key,
    new_keys,
    forged_approval,
    no_data,
    no_state_folder,
    hollow_cap,
    lonely,
    foreign_ledger,
]


@pytest.mark.usefixtures("quiet_logging")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_site_service_with_a_mistake_ends_with_one_line_and_code_2(
    mistake: Callable[[Path], str], site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The entry point of `fedward-client` in this process; the control is the service that starts in test_service."""
    said = mistake(site)
    monkeypatch.setattr(sys, "argv", ["fedward-client", "service", "--config", str(site / f"{NAMES[0]}.yaml")])
    with pytest.raises(SystemExit) as ended:
        client_main()
    assert ended.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if not line[:1].isdigit()]  # without log lines
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert said in errors[0]


def test_a_reports_path_is_tried_without_a_trace(tmp_path: Path) -> None:
    """The control of the refusals: a path that can be written is taken, and neither made nor changed."""
    (tmp_path / "old.json").write_text("{}")
    require_writable(tmp_path / "old.json")
    require_writable(tmp_path / "new.json")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("old.json", "{}")]
    write_json(tmp_path / "new.json", {"a": 1})
    assert json.loads((tmp_path / "new.json").read_text()) == {"a": 1}


def test_a_wrong_address_of_the_coordinator_is_one_line(tmp_path: Path) -> None:
    """Refused before keys and certificates are made for it; what else is no address, test_address knows."""
    words, _ = provision_place(tmp_path / "none" / "out", "")
    done = fedward(*words, "--address", "a.example:99999")
    said = "error: --address: seen 'a.example:99999'; a port is a number from 1 to 65535\n"
    assert (done.returncode, done.stderr, done.stdout) == (2, said, "")
    assert not (tmp_path / "none").exists()
