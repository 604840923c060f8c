"""Asks the coordinator for a run and follows it to its end; attempts are handed to Flower from here."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil

from common.errors import DeploymentError
from common.server_config import ServerConfig
from server.processes import CONNECTION, flwr
from server.progress import FILE_NAME, read_progress
from server.run_folder import CONNECT_TIMEOUT_KEY, RUN_KEY, run_folder, write_flower_app
from server.store import Exchange, RunState, Store

PROGRESS_POLL_S = 0.2
# Each look costs a second of CPU, and is needed only until the ServerApp has written its first progress.
FLOWER_POLL_S = 15.0
LAST_WRITE_S = 2.0
STOPPED_BY_OPERATOR = "stopped by the operator"


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
            f"the run was not taken: {_last_line(answer.get('error-message'))}; look into logs/superlink.log"
        )
    return str(answer["run-id"])


@dataclass(frozen=True, slots=True)
class Ended:
    """Why a Flower run is over before the run is finished.

    Args:
        reason: What to tell the operator.
        again: Whether trying once more may help.
        by_operator: The store said that the run is not wanted; it may say otherwise by now.
    """

    reason: str
    again: bool
    by_operator: bool = False


async def follow(config: ServerConfig, run: str, flower_run: str, *, state: Callable[[], RunState]) -> Ended | None:
    """Wait for the end of a Flower run.

    Args:
        config: The server file.
        run: Run id.
        flower_run: Flower's id of it.
        state: What the store says of the run.

    Returns:
        None if the run is finished, else why it ended.

    Raises:
        DeploymentError: If the SuperLink stops answering.
    """
    folder, next_look = run_folder(config, run), time.monotonic() + FLOWER_POLL_S
    while state() == "running":
        progress = read_progress(folder)
        if progress is not None and progress.state == "stopped":
            return Ended(progress.reason, again=progress.again)
        reason = ""
        if progress is not None and progress.state == "running":
            # While it lives it decides: it waits for a SuperLink that is being restarted.
            reason = "" if _lives(progress.pid) else "the ServerApp was killed"
        elif time.monotonic() > next_look:
            reason = await _end_seen_by_flower(config, flower_run)
            next_look = time.monotonic() + FLOWER_POLL_S
        if reason:
            # It may have said how it ended, a moment before.
            await asyncio.sleep(LAST_WRITE_S)
            last = read_progress(folder)
            if last is None or last.state == "running":
                return Ended(reason, again=True)
        await asyncio.sleep(PROGRESS_POLL_S)
    return None if state() == "finished" else Ended(STOPPED_BY_OPERATOR, again=False, by_operator=True)


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


async def _end_seen_by_flower(config: ServerConfig, flower_run: str) -> str:
    """Why the run is over, as Flower sees it; empty if it does run."""
    answer = await flwr(config, "list", CONNECTION, "--run-id", flower_run)
    rows = answer.get("runs") or [{}]
    status = str(rows[0].get("status", ""))
    if not answer.get("success"):
        raise DeploymentError(f"the SuperLink does not answer: {_last_line(answer.get('error-message'))}")
    if not status.startswith("finished"):
        return ""
    return f"the ServerApp ended ({status}): {_last_line(rows[0].get('status-details'))}"


def _lives(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked about yet does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _last_line(text: object) -> str:
    """What Flower's commands say last; before it they name the connection."""
    lines = [line.strip() for line in str(text or "").splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else "no details"
