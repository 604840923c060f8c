"""Writes a hospital's site file: what only this hospital decides, beside what the kit says of the coordinator."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from common.config import parse_settings
from common.site_config import AUTO_COLUMN, SiteConfig
from common.socket_path import socket_path


def site_file_path(folder: Path, hospital: str) -> Path:
    """Where a hospital's site file lies in its folder: site.yaml, but for demos, which name it after the hospital."""
    named = folder / f"{hospital}.yaml"
    return named if named.exists() else folder / "site.yaml"


@dataclass(frozen=True, slots=True)
class SiteChoices:
    """What a hospital decides when it joins a federation.

    Args:
        data: Its data folder.
        source: Name of the data source; one ledger per source.
        cap_epsilon: Epsilon that no unit of the source may ever pass.
        cap_delta: Delta at which that is counted.
        metrics: none, final-dp or aggregate.
        public_data: Whether the held-out data is public.
        min_cohort: Fewest hospitals that it is added up with.
        device: auto, cpu or cuda.
        threads: torch threads, 0 for all cores.
        runtime_port: Loopback port of the gateway's SuperNode; another one for each site of one machine.
        patient_column: Column of index.csv that says whose an image is, or auto.
        mapping: File that maps its columns, codes and units to the plan's; None for images.
        weights: Weights file of the plan's `network`; None where the plan needs none.
    """

    data: Path
    source: str
    cap_epsilon: float
    cap_delta: float
    metrics: str
    public_data: bool
    min_cohort: int
    device: str = "auto"
    threads: int = 0
    runtime_port: int = 9094
    patient_column: str = AUTO_COLUMN
    mapping: Path | None = None
    weights: Path | None = None


def _entry(folder: Path, path: Path) -> str:
    """A file beside the site file by its name, so that the folder may move; any other one by its whole path."""
    whole = path.absolute()
    return whole.name if whole.parent == folder.absolute() else str(whole)


def _relative(folder: Path, path: Path) -> str:
    return os.path.relpath(path.resolve(), folder.resolve())


def new_site_file(folder: Path, *, hospital: str, superlink: str, key_file: Path | None, choices: SiteChoices) -> str:
    """Text of a site file for a folder that `client.keygen` has made, or will have made.

    Args:
        folder: Where the file will lie; paths in it are relative to that.
        hospital: Name in the roster.
        superlink: host:port of the coordinator.
        key_file: What opens the vault; None: a passphrase does.
        choices: What the hospital decides.

    Raises:
        ConfigError: If a choice is out of its range.
    """
    endpoint = socket_path(folder, "site.sock")
    content: dict[str, Any] = {
        "hospital": hospital,
        "plan": "plan.yaml",
        "approvals": "approvals",
        "data": _relative(folder, choices.data),
        **({} if choices.mapping is None else {"mapping": _relative(folder, choices.mapping)}),
        "patient_column": choices.patient_column,
        **({} if choices.weights is None else {"weights": _relative(folder, choices.weights)}),
        "vault": "vault",
        **({} if key_file is None else {"vault_key": _entry(folder, key_file)}),
        "ledger": "ledger.sqlite",
        "state": "state",
        "results": "results",
        "socket": endpoint.name if endpoint.parent == folder.resolve() else str(endpoint),
        "device": choices.device,
        "threads": choices.threads,
        "privacy": {
            "source": choices.source,
            "cap_epsilon": choices.cap_epsilon,
            "cap_delta": choices.cap_delta,
            "metrics": choices.metrics,
            "public_data": choices.public_data,
            "min_cohort": choices.min_cohort,
        },
        "gateway": {
            "superlink": superlink,
            "root_certificates": "gateway/ca.crt",
            "node_key": "gateway/node.key",
            "superexec_secret": "gateway/superexec.secret",
            "runtime_port": choices.runtime_port,
            "folder": "gateway/work",
        },
    }
    parse_settings(yaml.safe_dump(content), SiteConfig, source=f"{hospital}.yaml")
    return "# Every key is explained in docs/configuration.md.\n" + yaml.safe_dump(content, sort_keys=False)
