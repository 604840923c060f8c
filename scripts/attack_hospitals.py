"""Hospitals of a federation in one process: their data, their keys, their services, and copies of their folders."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from client.data.source import DataPlace
from client.keys import Keys, open_keys
from client.round import Hospital
from client.site import open_hospital
from client.site_plan import load_plan
from client.status import StatusFile
from client.unlock import find_unlock
from client.vault import Vault
from common.config import parse_settings
from common.grid import Grid
from common.plan import Plan
from common.site_config import SiteConfig, load_site
from scripts.federation import FederationOptions, provision

IMAGE_SIDE = 16
CLASSES = ("dark", "light")


@dataclass(frozen=True, slots=True)
class StageOptions:
    """How large a stage is.

    Args:
        hospitals: n.
        rounds: Training rounds of the plan.
        width: Of the small network; 16 has 60,818 parameters, 4 has 3,974.
        seed: Of the drawn images.
        colluders: c of the plan.
        page_kib: Length of a page, KiB; what is longer goes in pages.
    """

    hospitals: int = 5
    rounds: int = 4
    width: int = 4
    seed: int = 0
    colluders: int = 1
    page_kib: int = 4096


@dataclass(slots=True)
class Site:
    """A hospital's service, and its keys as a thief of its vault would have them; `path` is its site file."""

    path: Path
    config: SiteConfig
    hospital: Hospital
    vault: Vault
    keys: Keys

    @classmethod
    def open(cls, path: Path) -> Site:
        """Start the service of a site file."""
        config = load_site(path)
        config.state.mkdir(parents=True, exist_ok=True)
        hospital = open_hospital(config, StatusFile(config.state / "status.json", config.hospital))
        unlock = find_unlock(config.vault, key_file=config.vault_key, passphrase_file=None)
        vault = Vault.open(config.vault, hospital=config.hospital, unlock=unlock)
        return cls(path, config, hospital, vault, open_keys(config, vault, load_plan(config)))

    def close(self) -> None:
        """Let go of the ledger."""
        self.hospital._contributor.ledger.close()  # noqa: SLF001 -- the service has no end but the process's

    @property
    def charges(self) -> int:
        """Entries of its ledger."""
        return self.hospital._contributor.ledger.sequence()  # noqa: SLF001 -- only read

    @property
    def grid(self) -> Grid:
        """The plan's grid."""
        return self.hospital._contributor.grid  # noqa: SLF001 -- only read

    @property
    def files(self) -> tuple[Path, ...]:
        """What a round may change."""
        return (self.config.state, self.config.ledger)


@dataclass(slots=True)
class Snapshot:
    """Hospitals' folders at one moment, to which they can be set back; a ledger is opened again if it was charged."""

    sites: dict[str, Site]
    folder: Path
    charges: dict[str, int]

    @classmethod
    def of(cls, sites: dict[str, Site], folder: Path) -> Snapshot:
        """Copy all sites' files to a new folder."""
        for name, site in sites.items():
            for path in site.files:
                _copy(path, folder / name / path.name)
        return cls(sites, folder, {name: site.charges for name, site in sites.items()})

    def restore(self, *names: str) -> None:
        """Set some sites back, or all."""
        for name in names or self.sites:
            site = self.sites[name]
            charged = site.charges != self.charges[name]
            if charged:
                site.close()
            for path in site.files if charged else (site.config.state,):
                _copy(self.folder / name / path.name, path)
            if charged:
                self.sites[name] = Site.open(site.path)


def _copy(source: Path, target: Path) -> None:
    if source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
        return
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)


def provision_sites(folder: Path, options: StageOptions) -> tuple[Plan, dict[str, Site]]:
    """Draw images, provision a federation in `folder`/federation and start its hospitals.

    Returns:
        The plan, and the hospitals in roster order; whoever asked closes them.
    """
    names = [f"hospital-{k}" for k in range(1, options.hospitals + 1)]
    for index, name in enumerate(names):
        _draw_images(folder / "data" / name, per_class=5 + index % 3, seed=options.seed * 1000 + index)
    settings = FederationOptions(
        fleet_address="127.0.0.1:9092",
        ports=range(20_000, 20_001 + len(names)),
        metrics="aggregate",
        public_data=True,
        threads=1,
        device="cpu",
    )
    data = {name: DataPlace(folder / "data" / name) for name in names}
    plan = provision(_template(options), data, folder / "federation", options=settings)
    return plan, {name: Site.open(folder / "federation" / name / f"{name}.yaml") for name in names}


def _draw_images(folder: Path, *, per_class: int, seed: int) -> None:
    """Noise of two brightnesses."""
    draw = np.random.default_rng(seed)
    for index, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            low = 40 + 110 * index
            pixels = draw.integers(low, low + 65, (IMAGE_SIDE, IMAGE_SIDE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{seed}-{number}.png")


def _template(options: StageOptions) -> Plan:
    content = {
        "name": "attack",
        "data": {
            "kind": "image-folder",
            "classes": list(CLASSES),
            "held_out": 0.4,
            "held_out_salt": "seed-0",
            "unreadable_images": "skip",
        },
        "model": {"kind": "groupnorm-cnn", "image_size": IMAGE_SIDE, "width": options.width, "seed": 0},
        "training": {
            "rounds": options.rounds,
            "local_steps": 1,
            "sampling": {"kind": "full"},
            "learning_rate": 0.5,
            "momentum": 0.0,
            "server_optimiser": {"kind": "fedavgm", "momentum": 0.5, "learning_rate": 1.0},
        },
        "privacy": {"mode": "local", "unit": "record", "epsilon": 8.0, "delta": 1.0e-5, "clip": 0.5, "mean_share": 0.0},
        "encryption": {"preset": "compact", "update_norm_bound": "auto", "epoch_rounds": 50, "verification": "auto"},
        "cohort": {
            "threshold": "auto",
            "min_cohort": "auto",
            "assumed_colluders": options.colluders,
            "round_timeout_s": 60,
            "attempts": 3,
            "page_kib": options.page_kib,
            "whole_kib": options.page_kib,
        },
        "metrics": {"released": "confusion"},
    }
    return parse_settings(yaml.safe_dump(content), Plan, source="the attack's plan")
