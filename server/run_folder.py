"""The folder of one run, and the small Flower app that is submitted for it."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from common.errors import ConfigError, StoreError
from common.server_config import ServerConfig

CONFIG_VARIABLE = "FEDWARD_SERVER_CONFIG"
RUN_KEY = "fedward-run"
CONNECT_TIMEOUT_KEY = "fedward-connect-timeout-s"
PLAN_FILE = "plan.yaml"
_TIMEOUT_FILE = "connect-timeout-s"
RESTORED_CONNECT_TIMEOUT_S = 60.0
APP_FOLDER = "flower-app"
RUN_ID_DIGITS = 32

# Only names installed modules: from the repository's root Flower would pack every YAML, JSON and Python file of it.
_BUNDLE = f"""[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "fedward-app"
version = "1.0.0"
description = "Names the installed modules of fedward"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "fedward"

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "client.relay:app"

[tool.flwr.app.config]
{RUN_KEY} = ""
{CONNECT_TIMEOUT_KEY} = 60.0
"""


def run_folder(config: ServerConfig, run: str) -> Path:
    """Folder of a run: plan, progress, log.

    Raises:
        ConfigError: If the run id is not 32 hex digits.
    """
    if len(run) != RUN_ID_DIGITS or set(run) - set("0123456789abcdef"):
        raise ConfigError(f"run id: seen '{run}'; {RUN_ID_DIGITS} hexadecimal digits are allowed")
    return config.folder / "runs" / run


def write_run_folder(config: ServerConfig, run: str, *, plan_text: str, connect_timeout_s: float) -> Path:
    """Make the run's folder with what it needs to be started, also after a crash: its plan, and how long to wait.

    Raises:
        StoreError: If the disk refuses.
    """
    folder = run_folder(config, run)
    _write(folder / _TIMEOUT_FILE, f"{connect_timeout_s:.3f}")
    return _write(folder / PLAN_FILE, plan_text).parent


def restore_run_folder(config: ServerConfig, run: str, *, plan_json: str) -> None:
    """Make the folder of a run again on a machine that was given the store alone, from the plan that the store keeps.

    Raises:
        StoreError: If the disk refuses.
    """
    if not (run_folder(config, run) / PLAN_FILE).is_file():
        # Not the JSON itself: YAML reads its 1e-05 as a word.
        text = yaml.safe_dump(json.loads(plan_json))
        write_run_folder(config, run, plan_text=text, connect_timeout_s=RESTORED_CONNECT_TIMEOUT_S)


def read_connect_timeout(config: ServerConfig, run: str) -> float:
    """How long a run waits for all hospitals before its first exchange, seconds.

    Raises:
        StoreError: If the run's folder is gone.
    """
    path = run_folder(config, run) / _TIMEOUT_FILE
    try:
        return float(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read; restore 'folder' from its backup") from error


def write_flower_app(config: ServerConfig) -> Path:
    """Make the folder that `flwr run` bundles and sends to the hospitals' gateways.

    Raises:
        StoreError: If the disk refuses.
    """
    return _write(config.folder / APP_FOLDER / "pyproject.toml", _BUNDLE).parent


def _write(path: Path, text: str) -> Path:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be written ({error.strerror}); free disk space, or correct 'folder'"
        ) from error
    return path
