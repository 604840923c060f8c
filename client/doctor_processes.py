"""Finds this site's own running processes, whichever user started them, by their command lines."""

from __future__ import annotations

from pathlib import Path

import psutil

from common.site_config import GatewaySettings


def running_gateway(gateway: GatewaySettings) -> int | None:
    """Process id of the SuperNode that runs with this site's node key."""
    for process, words in _command_lines():
        if str(gateway.node_key) in words and any(Path(word).name == "flower-supernode" for word in words):
            return process
    return None


def running_service(config_file: Path) -> int | None:
    """Process id of the site service that runs with this site file."""
    own = config_file.resolve()
    for process, words in _command_lines():
        if "service" in words and any(Path(word).name == own.name and Path(word).resolve() == own for word in words):
            return process
    return None


def _command_lines() -> list[tuple[int, list[str]]]:
    # A process that has just ended, or is hidden from this user, has none.
    return [(process.pid, process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
