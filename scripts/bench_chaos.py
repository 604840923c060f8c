"""`fedward bench chaos`: rounds of a real federation while sites, lines and the coordinator fail at random."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from client.data.source import DataPlace
from common.config import parse_settings
from common.plan import Plan
from scripts.chaos_faults import ChaosOptions, Fault, Recovered, disturbed, fault_row, schedule
from scripts.chaos_run import COORDINATOR, START_TIMEOUT_S, ChaosFederation, until
from scripts.chaos_verdict import Charges, Evidence, contributions, judge
from scripts.demo_work import WorkFolder
from scripts.federation import local_options, provision
from scripts.split import split_dataset
from scripts.synthetic import write_synthetic
from scripts.tcp_proxy import OPEN, Condition
from server.store import Store

IMAGES_PER_CLASS = 12
ROUND_TIMEOUT_S = 30
ATTEMPTS = 3
RUN_TIMEOUT_S = 3600.0
# 1 Mbit/s, and 300 ms there and back.
SLOW_LINE = Condition(bytes_per_s=125_000.0, delay_s=0.15)
MODEL = "model.safetensors"


def run_chaos(options: ChaosOptions, say: Callable[[str], None]) -> dict[str, Any]:
    """Make a federation, run it under faults, and say what it cost.

    Returns:
        The content of `--json`.

    Raises:
        FedwardError: One sentence; every process has been stopped.
    """
    started = time.monotonic()
    with WorkFolder(options.work, keep=False) as work:
        port, plan = _provision(options, work.path)
        names = tuple(hospital.name for hospital in plan.roster)
        federation = ChaosFederation(work.path / "federation", names, secrets.token_hex(16))
        report = asyncio.run(_Chaos(federation, options, say).run(port, plan.min_cohort))
    return report | {"seed": options.seed, "hospitals": len(names), "seconds": round(time.monotonic() - started, 1)}


def chaos_plan(rounds: int) -> Plan:
    """The demo's plan on small images, so that a round is seconds."""
    content = yaml.safe_load((files("configs") / "plans" / "demo.yaml").read_text(encoding="utf-8"))
    content["model"] |= {"image_size": 64, "projection": 32}
    content["training"] |= {"rounds": rounds}
    content["cohort"] |= {"round_timeout_s": ROUND_TIMEOUT_S, "attempts": ATTEMPTS}
    return parse_settings(yaml.safe_dump(content), Plan, source="the chaos plan")


def _provision(options: ChaosOptions, work: Path) -> tuple[int, Plan]:
    write_synthetic(work / "images", images_per_class=IMAGES_PER_CLASS, seed=options.seed)
    template = chaos_plan(options.rounds)
    shares = split_dataset(
        work / "images",
        work / "shards",
        hospitals=options.hospitals,
        seed=options.seed,
        on_undecodable=template.images.unreadable_images,
    ).shares
    made = local_options(options.hospitals, device="cpu", patience_s=600.0)
    plan = provision(template, {s.name: DataPlace(s.data) for s in shares}, work / "federation", options=made)
    return int(made.fleet_address.rpartition(":")[2]), plan


class _Chaos:
    """One run under faults."""

    def __init__(self, federation: ChaosFederation, options: ChaosOptions, say: Callable[[str], None]) -> None:
        self._federation, self._options, self._say = federation, options, say
        self._before_restart: dict[str, Charges] = {}

    async def run(self, port: int, min_cohort: int) -> dict[str, Any]:
        federation = self._federation
        async with federation.up(port) as store:
            await until(lambda: store.run(federation.run) is not None, "the run is taken", START_TIMEOUT_S)
            strikes = [
                asyncio.create_task(self._strike(fault, store))
                for fault in schedule(self._options, federation.hospitals)
            ]
            try:
                await until(lambda: self._state(store) != "running", "the end of the run", RUN_TIMEOUT_S)
                # A hospital that is back in time has its last aggregate by now; nothing more will come.
                recovered = await asyncio.gather(*strikes)
            finally:
                for strike in strikes:
                    strike.cancel()
            exchanges, known = store.exchanges(federation.run), store.run(federation.run)
        evidence = Evidence(
            rounds=self._options.rounds,
            min_cohort=min_cohort,
            hospitals=federation.hospitals,
            exchanges=exchanges,
            reason=known.reason if known else "",
            models=self._models(),
            charges={name: federation.charges(name) for name in federation.hospitals},
            charges_before=self._before_restart,
            disturbed=[rounds for one in recovered if (rounds := disturbed(one)) is not None],
            unstruck=[one.fault.kind for one in recovered if one.first is None],
            orphans=len(federation.orphans()),
        )
        return judge(evidence) | {"faults": [fault_row(one) for one in recovered]}

    async def _strike(self, fault: Fault, store: Store) -> Recovered:
        await self._while_running(store, lambda: self._complete(store) >= fault.after_round)
        first = self._complete(store) + 1
        if self._state(store) != "running":
            return Recovered(fault, None, None, None)
        self._say(f"after round {first - 1}: {fault.kind} {fault.hospital}".rstrip())
        struck = await self._apply(fault, store)
        if struck is None:
            return Recovered(fault, None, None, None)
        before = self._mark(store, fault)
        if not await self._while_running(store, lambda: self._mark(store, fault) > before):
            return Recovered(fault, None, first, None)
        seconds = round(time.monotonic() - struck, 1)
        self._say(f"{fault.kind} {fault.hospital}".rstrip() + f": recovered after {seconds:g} s")
        return Recovered(fault, seconds, first, self._mark(store, fault))

    async def _apply(self, fault: Fault, store: Store) -> float | None:
        """Do it, and mend what somebody outside has to mend.

        Returns:
            When it happened (a line: when it was mended), seconds on the monotonic clock; None if the run ended first.
        """
        federation, kind, name = self._federation, fault.kind, fault.hospital or COORDINATOR
        if kind in ("line cut", "line slow"):
            federation.links[name].become(SLOW_LINE if kind == "line slow" else Condition(state="hold"))
            await asyncio.sleep(self._options.fault_seconds)
            federation.links[name].become(OPEN)
            return time.monotonic()
        if kind == "ServerApp killed":
            # After another fault there may be none for a while.
            killed = await self._while_running(store, federation.kill_serverapp)
            return time.monotonic() if killed else None
        struck = time.monotonic()
        await federation.kill(name)
        if fault.hospital:
            self._before_restart[name] = federation.charges(name)
        await federation.start(name)
        return struck

    def _mark(self, store: Store, fault: Fault) -> int:
        """The last round that the struck one has to show: its own contribution, or any complete round."""
        if not fault.hospital:
            return self._complete(store)
        return max(contributions(store.exchanges(self._federation.run), fault.hospital), default=0)

    async def _while_running(self, store: Store, condition: Callable[[], bool]) -> bool:
        """Wait for a condition as long as the run goes on; whether it held."""
        held = False

        def over() -> bool:
            nonlocal held
            held = condition()
            return held or self._state(store) != "running"

        await until(over, "the run goes on", RUN_TIMEOUT_S)
        return held

    def _complete(self, store: Store) -> int:
        return min(store.last_complete_round(self._federation.run), self._options.rounds)

    def _state(self, store: Store) -> str:
        known = store.run(self._federation.run)
        return "stopped" if known is None else known.state

    def _models(self) -> dict[str, str]:
        """SHA-256 of the finished model at each hospital that has one."""
        federation = self._federation
        paths = {n: federation.folder / n / "results" / federation.run / MODEL for n in federation.hospitals}
        return {n: hashlib.sha256(path.read_bytes()).hexdigest() for n, path in paths.items() if path.is_file()}
