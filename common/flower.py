"""How Flower 1.39's commands are started: paths and environment. The only place that knows their variables."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# An empty environment but for these, so that a secret in the operator's shell does not reach pushed code.
INHERITED = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH", "TMPDIR", "TZ", "USER")
# What gRPC reads, in lower case only.
PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
NO_PROXY = ("no_grpc_proxy", "no_proxy")
LOOPBACK = "127.0.0.1,localhost"


def flower_command(name: str) -> str:
    """Path of one of Flower's console scripts, in the environment that runs this process."""
    return str(Path(sys.executable).with_name(name))


def flower_environment(home: Path, *, first_on_path: Path | None = None) -> dict[str, str]:
    """Environment of a Flower process.

    Args:
        home: Writable folder for Flower's own files (FLWR_HOME).
        first_on_path: Folder searched for commands before all others.
    """
    folders = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    if first_on_path is not None:
        folders.insert(0, str(first_on_path))
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return inherited | {
        "PATH": os.pathsep.join(folders),
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
        # Freed buffers of messages go back to the system. By default glibc raises this threshold with the first large
        # one that is freed, and keeps those that come later in an arena for each thread.
        "MALLOC_MMAP_THRESHOLD_": str(1 << 20),
        "PYTHONUNBUFFERED": "1",
    }


def proxy_environment() -> dict[str, str]:
    """Variables that lead a Flower process through the HTTP proxy of the operator's environment; none without one.

    Flower's traffic within the machine never takes it. For a process alone that has to leave the machine: a proxy's
    address may hold a password.
    """
    proxies = {name: os.environ[name] for name in PROXIES if os.environ.get(name)}
    if not proxies:
        return {}
    exceptions = {name: os.environ[name] for name in NO_PROXY if os.environ.get(name)} or {"no_proxy": ""}
    return proxies | {name: f"{LOOPBACK},{value}".rstrip(",") for name, value in exceptions.items()}
