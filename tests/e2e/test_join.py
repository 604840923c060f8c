"""Joining a federation as real hospitals do: keys made at home, kits, approval, the key ceremony over the network."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from client.key_ceremony import epoch_key_name
from client.unlock import read_passphrase
from client.vault import Vault
from client.vault_lock import Unlock, read_key_file
from common.key_messages import dealer_of
from common.plan import Plan
from scripts.federation import free_ports
from scripts.synthetic import write_synthetic
from tests.support.deployment import Deployment, succeed
from tests.support.small_plan import write_small_plan

HOSPITALS = ("hospital-1", "hospital-2", "hospital-3")
LOCKED = "hospital-2"
"""Its vault has a passphrase."""


@dataclass(frozen=True)
class Joined:
    """A federation after its first run."""

    folder: Path
    plan: Plan
    log: str
    public_files: dict[str, bytes]

    def vault(self, name: str) -> Vault:
        """A hospital's vault."""
        home = self.folder / name
        unlock = (
            Unlock("passphrase", read_passphrase(home.with_suffix(".phrase")))
            if name == LOCKED
            else read_key_file(home / "vault.key")
        )
        return Vault.open(home / "vault", hospital=name, unlock=unlock)


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Joined:
    """Three hospitals that share no folder with each other; one round."""
    base = tmp_path_factory.mktemp("join")
    write_synthetic(base / "images", images_per_class=12, seed=0)
    succeed("fedward", "split", str(base / "images"), "--out", str(base / "shards"), "--hospitals", "3")
    write_small_plan(base / "template.yaml", rounds=1, round_timeout_s=60, attempts=2)
    folder = base / "fed"
    folder.mkdir()
    phrase = (folder / LOCKED).with_suffix(".phrase")
    phrase.write_text("seven plain words that nobody guesses\n")
    phrase.chmod(0o600)
    locked = {LOCKED: ("--passphrase-file", str(phrase))}
    for name in HOSPITALS:
        counted = ("--plan", str(base / "template.yaml"), "--data", str(base / "shards" / name / "data"))
        succeed("fedward-client", "keygen", name, "--site", str(folder / name), *counted, *locked.get(name, ()))
    public_files = organise(base, folder)
    ports = free_ports(len(HOSPITALS))
    plan = Plan.model_validate(yaml.safe_load((folder / "plan.yaml").read_text()))
    for name, port in zip(HOSPITALS, ports, strict=True):
        said = succeed(
            *("fedward-client", "approve", str(base / "kits" / f"{name}.kit.zip"), "--site", str(folder / name)),
            *("--data", str(base / "shards" / name / "data"), "--cap-epsilon", "8", "--runtime-port", str(port)),
            *("--metrics", "aggregate", "--public-data", "--digest", plan.digest, *locked.get(name, ())),
        )
        assert "Compare the fingerprints" in said
    with Deployment(folder) as deployment:
        deployment.start_coordinator()
        for name in HOSPITALS:
            config = str(folder / name / "site.yaml")
            deployment.start(name, "fedward-client", "start", "--config", config, *locked.get(name, ()))
        for name in HOSPITALS:
            deployment.until_printed(name, "hospital ready")
        run = ("fedward-server", "run", str(folder / "plan.yaml"), "--config", str(deployment.server_yaml))
        deployment.start("run", *run)
        assert deployment.processes.pop("run").wait(timeout=150) == 0, deployment.log("run").read_text()
        log = next((folder / "coordinator" / "work" / "runs").glob("*/serverapp.log")).read_text()
    return Joined(folder, plan, log, public_files)


def organise(base: Path, folder: Path) -> dict[str, bytes]:
    """What the organiser does, with nothing but the cards; returns all that it saw and made."""
    cards = base / "cards"
    cards.mkdir()
    for name in HOSPITALS:
        shutil.copy(folder / name / f"{name}.card.yaml", cards)
    address = f"127.0.0.1:{free_ports(1)[0]}"
    out = base / "organised"
    succeed(
        "fedward",
        "provision",
        str(base / "template.yaml"),
        "--cards",
        str(cards),
        "--out",
        str(out),
        "--address",
        address,
    )
    seen = {str(path): path.read_bytes() for place in (cards, out) for path in place.rglob("*") if path.is_file()}
    shutil.move(out / "coordinator", folder / "coordinator")
    shutil.move(out / "kits", base / "kits")
    shutil.copy(out / "plan.yaml", folder / "plan.yaml")
    return seen


def test_the_dealer_is_the_one_that_the_plan_fixes_and_all_hold_its_key(joined: Joined) -> None:
    """Each opened its own box; the vaults end with one key."""
    dealer = dealer_of(joined.plan.digest, HOSPITALS, epoch=1)
    held = "now held by hospital-1, hospital-2, hospital-3; no error"
    assert f"key ceremony of epoch 1: dealt by {dealer}, {held}" in joined.log
    keys = {joined.vault(name).require(epoch_key_name(joined.plan.digest, 1)) for name in HOSPITALS}
    assert len(keys) == 1


def test_every_hospital_finds_the_finished_model(joined: Joined) -> None:
    """One round, by three, under the key of the ceremony."""
    for name in HOSPITALS:
        assert list((joined.folder / name / "results").glob("*/model.safetensors"))


def test_no_secret_of_a_hospital_passes_the_organiser_or_the_coordinator(joined: Joined) -> None:
    """Searched raw and in hex; the control is a public key, which is found."""
    places = joined.public_files | {
        str(path): path.read_bytes() for path in (joined.folder / "coordinator").rglob("*") if path.is_file()
    }
    everything = b"\0".join(places.values())
    for name in HOSPITALS:
        vault = joined.vault(name)
        secrets = (
            *(vault.require(n) for n in ("identity", "box")),
            vault.require(epoch_key_name(joined.plan.digest, 1))[40:],
        )
        for secret in secrets:
            assert secret not in everything
            assert secret.hex().encode() not in everything
        assert joined.plan.roster[0].identity.encode() in everything
