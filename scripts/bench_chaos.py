"""`fedward bench chaos`: rounds of a real federation while sites, lines and the coordinator fail at random."""

from __future__ import annotations

import asyncio
import hashlib
import random
import secrets
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from common.config import parse_settings
from common.plan import Plan
from scripts.chaos_run import COORDINATOR, START_TIMEOUT_S, ChaosFederation, contributions, until
from scripts.demo_work import WorkFolder
from scripts.federation import local_options, provision
from scripts.split import split_dataset
from scripts.synthetic import write_synthetic
from scripts.tcp_proxy import OPEN, Condition
from server.store import Exchange, Store

IMAGES_PER_CLASS = 12
ROUND_TIMEOUT_S = 30
ATTEMPTS = 3
MIN_COHORT = 3
RUN_TIMEOUT_S = 3600.0
# 1 Mbit/s, and 300 ms there and back.
SLOW_LINE = Condition(bytes_per_s=125_000.0, delay_s=0.15)
ON_SITES = ("site killed", "line cut", "line slow")
ON_COORDINATOR = ("ServerApp killed", "coordinator killed")


@dataclass(frozen=True, slots=True)
class ChaosOptions:
    """What the command line says; `fault_seconds` is how long a line stays cut or slow."""

    rounds: int
    hospitals: int
    fault_seconds: float
    seed: int
    work: Path | None


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: after which round it strikes, and whom."""

    kind: str
    hospital: str
    after_round: int


@dataclass(frozen=True, slots=True)
class Recovered:
    """A fault and its cost.

    Args:
        fault: What happened.
        seconds: From the fault (a line: from its mending) until the hospital contributed again, or until the next round
            was complete; None: not before the end of the run.
    """

    fault: Fault
    seconds: float | None


def schedule(options: ChaosOptions, hospitals: tuple[str, ...]) -> list[Fault]:
    """Each kind of fault once, in the first half of the run, in an order and on hospitals chosen by the seed."""
    choice = random.Random(options.seed)  # noqa: S311 -- chooses accidents, nothing secret
    struck = choice.sample(hospitals, len(ON_SITES))
    targets = [*zip(ON_SITES, struck, strict=True), *((kind, "") for kind in ON_COORDINATOR)]
    choice.shuffle(targets)
    rounds = sorted(choice.choices(range(1, max(2, options.rounds // 2)), k=len(targets)))
    return [Fault(kind, hospital, number) for (kind, hospital), number in zip(targets, rounds, strict=True)]


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
        report = asyncio.run(_Chaos(federation, options, say).run(port))
    return report | {"seed": options.seed, "hospitals": len(names), "seconds": round(time.monotonic() - started, 1)}


def chaos_plan(rounds: int) -> Plan:
    """The demo's plan on small images, so that a round is seconds."""
    content = yaml.safe_load((files("configs") / "plans" / "demo.yaml").read_text(encoding="utf-8"))
    content["model"] |= {"image_size": 64, "projection": 32}
    content["training"] |= {"rounds": rounds}
    content["cohort"] = {"min_cohort": MIN_COHORT, "round_timeout_s": ROUND_TIMEOUT_S, "attempts": ATTEMPTS}
    return parse_settings(yaml.safe_dump(content), Plan, source="the chaos plan")


def _provision(options: ChaosOptions, work: Path) -> tuple[int, Plan]:
    write_synthetic(work / "images", images_per_class=IMAGES_PER_CLASS, seed=options.seed)
    template = chaos_plan(options.rounds)
    shares = split_dataset(
        work / "images",
        work / "shards",
        hospitals=options.hospitals,
        seed=options.seed,
        on_undecodable=template.data.unreadable_images,
    ).shares
    made = local_options(options.hospitals, device="cpu", patience_s=600.0)
    plan = provision(template, {s.name: s.data for s in shares}, work / "federation", options=made)
    return int(made.fleet_address.rpartition(":")[2]), plan


class _Chaos:
    """One run under faults."""

    def __init__(self, federation: ChaosFederation, options: ChaosOptions, say: Callable[[str], None]) -> None:
        self._federation, self._options, self._say = federation, options, say
        self._before_restart: dict[str, list[tuple[int, str]]] = {}

    async def run(self, port: int) -> dict[str, Any]:
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
        return self._report(exchanges, reason=known.reason if known else "") | {
            "faults": [asdict(one.fault) | {"seconds_to_recover": one.seconds} for one in recovered],
            "models": self._models(),
            "ledger": self._ledgers(exchanges),
            "orphans": len(federation.orphans()),
        }

    async def _strike(self, fault: Fault, store: Store) -> Recovered:
        federation = self._federation
        await self._while_running(store, lambda: self._complete(store) >= fault.after_round)
        if self._state(store) != "running":
            return Recovered(fault, None)
        self._say(f"after round {fault.after_round}: {fault.kind} {fault.hospital}".rstrip())
        struck = time.monotonic()
        if fault.kind in ("line cut", "line slow"):
            federation.links[fault.hospital].become(SLOW_LINE if fault.kind == "line slow" else Condition(state="hold"))
            await asyncio.sleep(self._options.fault_seconds)
            federation.links[fault.hospital].become(OPEN)
            struck = time.monotonic()
        elif fault.kind == "site killed":
            await federation.kill(fault.hospital)
            self._before_restart[fault.hospital] = federation.charges(fault.hospital)
            await federation.start(fault.hospital)
        elif fault.kind == "coordinator killed":
            await federation.kill(COORDINATOR)
            await federation.start(COORDINATOR)
        elif not federation.kill_serverapp():
            # Between two ServerApps, after another fault.
            return Recovered(fault, None)
        before = self._mark(store, fault)
        if not await self._while_running(store, lambda: self._mark(store, fault) > before):
            return Recovered(fault, None)
        seconds = round(time.monotonic() - struck, 1)
        self._say(f"{fault.kind} {fault.hospital}".rstrip() + f": recovered after {seconds:g} s")
        return Recovered(fault, seconds)

    def _mark(self, store: Store, fault: Fault) -> int:
        """The last round that the struck one has to show: its own contribution, or any complete round."""
        if not fault.hospital:
            return self._complete(store)
        return max(contributions(store.exchanges(self._federation.run), fault.hospital), default=0)

    async def _while_running(self, store: Store, condition: Callable[[], bool]) -> bool:
        """Wait for a condition as long as the run goes on; whether it holds."""
        await until(lambda: condition() or self._state(store) != "running", "the run goes on", RUN_TIMEOUT_S)
        return condition()

    def _complete(self, store: Store) -> int:
        return min(store.last_complete_round(self._federation.run), self._options.rounds)

    def _state(self, store: Store) -> str:
        known = store.run(self._federation.run)
        return "stopped" if known is None else known.state

    def _report(self, exchanges: tuple[Exchange, ...], *, reason: str) -> dict[str, Any]:
        rounds = [e for e in exchanges if e.kind == "train"]
        complete = {e.round for e in rounds if sum(o.outcome == "contributed" for o in e.outcomes) >= MIN_COHORT}
        asked = range(1, self._options.rounds + 1)
        return {
            "rounds": {
                "asked": len(asked),
                "completed": len(complete),
                "skipped": [{"round": number, "reason": reason} for number in asked if number not in complete],
                "attempts": len(rounds),
                "median_s": statistics.median(e.seconds for e in rounds) if rounds else None,
                "longest_s": max((e.seconds for e in rounds), default=None),
            },
            "contributions": {n: len(contributions(exchanges, n)) for n in self._federation.hospitals},
        }

    def _models(self) -> dict[str, Any]:
        """Which hospitals hold a finished model, and whether it is one and the same."""
        federation = self._federation
        found = {}
        for name in federation.hospitals:
            path = federation.folder / name / "results" / federation.run / "model.safetensors"
            if path.is_file():
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return {"finished_at": list(found), "equal": len(found) > 0 and len(set(found.values())) == 1}

    def _ledgers(self, exchanges: tuple[Exchange, ...]) -> dict[str, Any]:
        """Charges and releases of all hospitals; what a killed one had charged must stand, unchanged, at the end."""
        charges = {name: self._federation.charges(name) for name in self._federation.hospitals}
        releases = {name: contributions(exchanges, name) for name in self._federation.hospitals}
        uncharged = [(n, r) for n, rounds in releases.items() for r in rounds if r not in {x for x, _ in charges[n]}]
        forgotten = [n for n, before in self._before_restart.items() if charges[n][: len(before)] != before]
        return {
            "charges": sum(map(len, charges.values())),
            "releases": sum(map(len, releases.values())),
            "uncharged_releases": len(uncharged),
            "ledgers_that_forgot": forgotten,
        }
