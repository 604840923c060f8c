"""Starts a federation's processes, runs its plan, shows it, stops everything."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from common.child import GAVE_UP, Child, ChildEvent
from common.errors import DeploymentError, OperatorError
from common.plan import Plan
from common.spawn import spawn
from common.supervise import supervise
from scripts.demo_display import Display

START_TIMEOUT_S = 3600.0
STOP_TIMEOUT_S = 40.0
POLL_S = 0.25
READY_LINE = r"(?m)^(coordinator|hospital) ready: "


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A run that ended, and where the seconds went."""

    run: str
    seconds: dict[str, float]


def command(name: str) -> str:
    """Path of one of our console scripts, in the environment that runs this process."""
    return str(Path(sys.executable).with_name(name))


async def run_federation(folder: Path, plan: Plan, *, synthetic: bool) -> FinishedRun:
    """Start coordinator and hospitals, run the plan, stop all of them.

    Args:
        folder: A provisioned federation.
        plan: Its plan.
        synthetic: Whether the images are drawn; said in the display.

    Raises:
        DeploymentError: If a process cannot run, or the run failed; everything was stopped.
        OperatorError: If a signal ended it; everything was stopped.
    """
    display = Display(folder, plan, console=Console(stderr=True), synthetic=synthetic)
    started = time.monotonic()
    finished: list[FinishedRun] = []

    async def work() -> None:
        ready = time.monotonic()
        run = await _submit_and_wait(folder, display)
        done = time.monotonic()
        finished.append(FinishedRun(run, {"start": ready - started, "rounds": done - ready}))

    stages = ((_coordinator(folder),), tuple(_hospital(folder, h.name) for h in plan.roster))
    with display.shown():
        ticker = asyncio.create_task(_tick(display))
        try:
            number = await supervise(stages, on_event=lambda event: _tell(display, event), restart=True, work=work)
        finally:
            ticker.cancel()
    if number is not None:
        raise OperatorError(f"stopped by {signal.Signals(number).name}; all processes are down, nothing was lost")
    run = finished[0]
    return FinishedRun(run.run, run.seconds | {"stop": time.monotonic() - started - sum(run.seconds.values())})


async def _submit_and_wait(folder: Path, display: Display) -> str:
    """Run the plan with `fedward-server run`; returns the run's id."""
    coordinator = folder / "coordinator"
    log = coordinator / "work" / "logs" / "run.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    words = (command("fedward-server"), "run", str(folder / "plan.yaml"), "--config", str(coordinator / "server.yaml"))
    process = await start_tied(words, log)
    try:
        while process.returncode is None:
            display.run = display.run or _newest_run(coordinator / "work" / "runs")
            try:
                await asyncio.wait_for(asyncio.shield(process.wait()), POLL_S)
            except TimeoutError:
                continue
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    if process.returncode != 0:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        last = lines[-1].removeprefix("error: ") if lines else "no output"
        said = "".join(f"\n  {message}" for message in display.messages())
        raise DeploymentError(f"the run did not finish: {last}; the log of its command is {log}{said}")
    return display.run


async def start_tied(words: Sequence[str], log: Path) -> asyncio.subprocess.Process:
    """Start a command that the kernel kills when this process is killed; its output is appended to `log`."""
    with log.open("ab") as output:
        return await spawn(Path(words[0]).name, words, output=output.fileno())


def _newest_run(runs: Path) -> str:
    folders = sorted(runs.iterdir(), key=lambda p: p.stat().st_mtime) if runs.is_dir() else []
    return folders[-1].name if folders else ""


async def _tick(display: Display) -> None:
    while True:
        display.refresh()
        await asyncio.sleep(POLL_S)


def _tell(display: Display, event: ChildEvent) -> None:
    if event.kind in ("ready", "died"):
        display.say(f"{event.name}: {event.kind}{' (' + event.detail + ')' if event.detail else ''}")


def _coordinator(folder: Path) -> Child:
    home = folder / "coordinator"
    return _child("coordinator", ("fedward-server", "start", "--config", str(home / "server.yaml")), home)


def _hospital(folder: Path, name: str) -> Child:
    home = folder / name
    return _child(name, ("fedward-client", "start", "--config", str(home / f"{name}.yaml")), home)


def _child(name: str, words: tuple[str, ...], home: Path) -> Child:
    return Child(
        name=name,
        argv=(command(words[0]), *words[1:]),
        env=dict(os.environ),
        cwd=home,
        log_path=home / "start.log",
        ready_pattern=READY_LINE,
        ready_timeout_s=START_TIMEOUT_S,
        refusals=(GAVE_UP,),
        grace_s=STOP_TIMEOUT_S,
    )
