"""A plan that starts from a weights file: `provision` names it, `check` and `doctor` say in time if it is wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torchvision
import yaml
from safetensors.torch import save_file
from typer.testing import CliRunner

from client.cli import app as client_app
from client.doctor_finding import Verdict
from client.doctor_site import SiteDoctor
from common.errors import ConfigError, DataError, FedwardError, OperatorError
from common.site_config import load_site
from scripts.cli import app
from scripts.split import split_dataset
from tests.support.small_federation import TEMPLATE, write_images
from tests.unit.test_demo import network

_NETWORK = "torchvision:shufflenet_v2_x0_5"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Shards of three hospitals, the plan's weights file and its plan."""
    write_images(tmp_path / "images", per_class=12, seed=0)
    split_dataset(tmp_path / "images", tmp_path / "shards", hospitals=3, seed=0, on_undecodable="refuse")
    state = torchvision.models.get_model(_NETWORK.removeprefix("torchvision:")).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    save_file({"a": state["fc.bias"]}, tmp_path / "other.safetensors")
    digest = hashlib.sha256((tmp_path / "w.safetensors").read_bytes()).hexdigest()
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({**TEMPLATE, "model": network(digest, _NETWORK)}))
    return tmp_path


def provision(folder: Path, *more: object) -> None:
    """The command; its error is raised."""
    words = ("provision", folder / "plan.yaml", "--out", folder / "federation", *more)
    assert CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False).exit_code == 0


def looked_at(site_file: Path) -> Verdict:
    """What the doctor says of the weights."""
    (found,) = [
        f for f in SiteDoctor(load_site(site_file), site_file, passphrase_file=None).findings() if f.name == "weights"
    ]
    return found.verdict


def gone(site_file: Path, folder: Path) -> None:
    """It was deleted."""
    (folder / "w.safetensors").unlink()
    assert site_file.is_file()


def another(site_file: Path, folder: Path) -> None:
    """One of another digest has its name."""
    (folder / "other.safetensors").rename(folder / "w.safetensors")
    assert site_file.is_file()


def unnamed(site_file: Path, _folder: Path) -> None:
    """The site file names none."""
    content = yaml.safe_load(site_file.read_text(encoding="utf-8"))
    del content["weights"]
    site_file.write_text(yaml.safe_dump(content), encoding="utf-8")


MISTAKES: list[tuple[Callable[[Path, Path], None], type[FedwardError], str]] = [
    (gone, DataError, "the weights file cannot be read"),
    (another, DataError, "the weights file has sha256"),
    (unnamed, ConfigError, "weights: seen none"),
]


def test_a_weights_file_is_provisioned_and_looked_at(folder: Path) -> None:
    """All hospitals hold it. A plan that needs one is refused without, or with another, before anything is made."""
    shards = ("--shards", folder / "shards")
    for more, sentence in (
        (shards, "--weights: seen none"),
        ((*shards, "--weights", folder / "other.safetensors"), "the weights file has sha256"),
        (("--cards", folder, "--weights", folder / "w.safetensors"), "and --weights go with --shards"),
    ):
        with pytest.raises((OperatorError, DataError), match=sentence):
            provision(folder, *more)
        assert not (folder / "federation").exists()
    provision(folder, *shards, "--weights", folder / "w.safetensors")
    site_file = folder / "federation" / "hospital-1" / "hospital-1.yaml"
    said = "has the plan's digest, and fits its network"
    command = ["check", "--config", str(site_file)]
    assert said in CliRunner().invoke(client_app, command, catch_exceptions=False).output
    found = looked_at(site_file)
    assert (found.status, said in found.seen) == ("pass", True)
    for spoil, kind, sentence in MISTAKES:
        before = {path: path.read_bytes() for path in (site_file, *folder.glob("*.safetensors"))}
        spoil(site_file, folder)
        with pytest.raises(kind, match=sentence):
            CliRunner().invoke(client_app, command, catch_exceptions=False)
        found = looked_at(site_file)
        assert (found.status, sentence in f"{found.seen}; {found.advice}") == ("fail", True)
        for path, content in before.items():
            path.write_bytes(content)


def test_a_plan_without_a_weights_file_asks_for_none(folder: Path) -> None:
    """The control."""
    (folder / "plan.yaml").write_text(yaml.safe_dump(TEMPLATE))
    with pytest.raises(OperatorError, match="starts from no weights file; leave it out"):
        provision(folder, "--shards", folder / "shards", "--weights", folder / "w.safetensors")
    provision(folder, "--shards", folder / "shards")
    site_file = folder / "federation" / "hospital-1" / "hospital-1.yaml"
    assert looked_at(site_file).status == "pass"
    said = CliRunner().invoke(client_app, ["check", "--config", str(site_file)], catch_exceptions=False)
    assert (said.exit_code, "weights:" in said.output) == (0, False)
