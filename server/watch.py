"""Submits a run to the coordinator and follows it to its end."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.errors import DeploymentError
from common.server_config import ServerConfig
from server.processes import CONNECTION, flwr
from server.progress import FILE_NAME, Progress, read_progress
from server.run_folder import CONNECT_TIMEOUT_KEY, RUN_KEY, run_folder, write_flower_app
from server.store import Exchange, Store

PROGRESS_POLL_S = 0.2
# Each look costs a second of CPU; the progress file says the same sooner, unless the ServerApp was killed.
FLOWER_POLL_S = 15.0
LAST_WRITE_S = 2.0


async def submit(config: ServerConfig, run: str, *, connect_timeout_s: float) -> str:
    """Hand the run to Flower; returns Flower's own id of it.

    Raises:
        DeploymentError: If the SuperLink does not take it.
    """
    (run_folder(config, run) / FILE_NAME).unlink(missing_ok=True)
    overrides = f"{RUN_KEY}={json.dumps(run)} {CONNECT_TIMEOUT_KEY}={connect_timeout_s:.3f}"
    answer = await flwr(config, "run", str(write_flower_app(config)), CONNECTION, "--run-config", overrides)
    if not answer.get("success"):
        raise DeploymentError(
            f"the run was not taken: {_last_line(answer.get('error-message'))}; "
            "is the coordinator up (`fedward-server start`)?"
        )
    return str(answer["run-id"])


async def follow(
    config: ServerConfig, run: str, flower_run: str, *, on_progress: Callable[[Progress], None]
) -> tuple[str, str]:
    """Wait for the end of a run.

    Args:
        config: The server file.
        run: Run id.
        flower_run: Flower's id of it.
        on_progress: Called at each change.

    Returns:
        State (finished or stopped) and the reason of a stop.

    Raises:
        DeploymentError: If the SuperLink stops answering.
    """
    folder, shown, next_look = run_folder(config, run), 0.0, time.monotonic() + FLOWER_POLL_S
    while True:
        progress = read_progress(folder)
        if progress is not None and progress.updated != shown:
            shown = progress.updated
            on_progress(progress)
        if progress is not None and progress.state != "running":
            return progress.state, progress.reason
        if time.monotonic() > next_look:
            reason = await _end_seen_by_flower(config, flower_run, folder)
            if reason is not None:
                return "stopped", reason
            next_look = time.monotonic() + FLOWER_POLL_S
        await asyncio.sleep(PROGRESS_POLL_S)


async def cancel(config: ServerConfig, flower_run: str) -> None:
    """Have Flower stop the run; what is complete stays in the store."""
    await flwr(config, "stop", flower_run, CONNECTION)


def run_summary(store: Store, run: str) -> dict[str, Any]:
    """What a run did, for `--json` and for tables: state, and per exchange seconds and bytes of each hospital."""
    known = store.run(run)
    if known is None:
        raise DeploymentError(f"run {run}: not in {store.path}; see `fedward-server status`")
    return {
        "run": run,
        "plan": known.plan_digest,
        "started": known.started,
        "state": known.state,
        "reason": known.reason,
        "exchanges": [_exchange_summary(exchange) for exchange in store.exchanges(run)],
    }


def _exchange_summary(exchange: Exchange) -> dict[str, Any]:
    return {
        "kind": exchange.kind,
        "round": exchange.round,
        "attempt": exchange.attempt,
        "seconds": exchange.seconds,
        "hospitals": [
            {
                "name": outcome.hospital,
                "outcome": outcome.outcome,
                "code": outcome.code,
                "up_bytes": outcome.up_bytes,
                "down_bytes": outcome.down_bytes,
                "seconds": outcome.seconds,
            }
            for outcome in exchange.outcomes
        ],
    }


async def _end_seen_by_flower(config: ServerConfig, flower_run: str, folder: Path) -> str | None:
    """Why the run is over although its progress file says that it runs; None if it does run."""
    answer = await flwr(config, "list", CONNECTION, "--run-id", flower_run)
    rows = answer.get("runs") or [{}]
    status = str(rows[0].get("status", ""))
    if not answer.get("success"):
        raise DeploymentError(f"{_last_line(answer.get('error-message'))}; start the coordinator, then resume the run")
    if not status.startswith("finished"):
        return None
    await asyncio.sleep(LAST_WRITE_S)
    progress = read_progress(folder)
    if progress is not None and progress.state != "running":
        # It did say how it ended, a moment after Flower did; `follow` reads that.
        return None
    return f"the ServerApp ended ({status}): {_last_line(rows[0].get('status-details'))}"


def _last_line(text: object) -> str:
    """What Flower's commands say last; before it they name the connection."""
    lines = [line.strip() for line in str(text or "").splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else "no details"
