"""What a demo leaves behind: the results folder, the table, the JSON."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from client.status import read_status
from common.coverage import NOT_COVERED
from common.errors import DeploymentError, FedwardError, OperatorError
from common.plan import Plan
from scripts.demo_display import size
from scripts.demo_run import FinishedRun
from scripts.evaluate import evaluate
from scripts.whole_folder import whole_folder
from server.store import Exchange, Store

SYNTHETIC_NOTE = "synthetic data drawn by a program: these numbers say nothing about medicine"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished demo before its results are written."""

    plan: Plan
    run: FinishedRun
    synthetic: bool
    test: Path | None
    weights: Path | None
    options: dict[str, Any]


def require_results_folder(results: Path) -> None:
    """Refuse a results folder before the run, not after it. Leaves nothing behind.

    Raises:
        OperatorError: If it cannot be made or written.
    """
    try:
        missing = [folder for folder in (results, *results.parents) if not folder.exists()]
        results.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=results):
            pass
        for folder in missing:
            folder.rmdir()
    except OSError as error:
        raise OperatorError(
            f"--results {results}: cannot be written ({error.strerror}); name a folder that can be made and written"
        ) from error


def collect(federation: Path, outcome: Outcome, *, results: Path, started: float) -> dict[str, Any]:
    """Write the results folder and return what `--json` holds.

    Raises:
        AlreadyExists: If the results folder of this run is there already.
        DeploymentError: If no hospital wrote a model.
        OperatorError: If the disk refuses.
    """
    plan, run = outcome.plan, outcome.run.run
    target = results / f"{plan.name}-{run[:8]}"
    finished = [federation / h.name / "results" / run for h in plan.roster]
    source = next((folder for folder in finished if (folder / "model.safetensors").exists()), None)
    if source is None:
        raise DeploymentError("no hospital wrote a model; see the sites' logs")
    report = _report(federation, outcome, json.loads((source / "metrics.json").read_text()))
    report["seconds"] = time.monotonic() - started
    report["results"] = str(target)
    with whole_folder(target, mode=0o755) as partial:
        shutil.copytree(source, partial, dirs_exist_ok=True)
        _copy_files(federation, plan, partial)
        _write_metrics(partial, report)
    if outcome.test is not None:
        # The results lie on the disk already: a score that fails takes nothing with it.
        _score(outcome.test, target, report, weights=outcome.weights)
        report["seconds"] = time.monotonic() - started
        _write_metrics(target, report)
    return report


def _score(test: Path, target: Path, report: dict[str, Any], *, weights: Path | None) -> None:
    """Add the score on the official test folder to the report, or a note that says why there is none."""
    before = time.monotonic()
    try:
        report["official_test"] = evaluate(target, test, weights=weights).as_json()
    except (FedwardError, OSError) as error:
        report["notes"].append(f"the official test folder could not be scored: {error}")
    report["seconds_by_phase"]["official_test"] = time.monotonic() - before


def _write_metrics(target: Path, report: dict[str, Any]) -> None:
    (target / "metrics.json").write_text(json.dumps(report, indent=1))


def _report(federation: Path, outcome: Outcome, metrics: dict[str, Any]) -> dict[str, Any]:
    plan = outcome.plan
    store = Store(federation / "coordinator" / "work")
    try:
        exchanges = store.exchanges(outcome.run.run)
    finally:
        store.close()
    return {
        "run": outcome.run.run,
        "plan": plan.digest,
        "synthetic": outcome.synthetic,
        "notes": [*([SYNTHETIC_NOTE] if outcome.synthetic else []), NOT_COVERED],
        "options": outcome.options,
        "unit": metrics["privacy"]["unit"],
        "trainable_parameters": plan.agreed.trainable_parameters,
        "rounds": _rounds(plan, exchanges, metrics),
        "exchanges": [
            {"kind": e.kind, "round": e.round, "attempt": e.attempt, "seconds": e.seconds} for e in exchanges
        ],
        "hospitals": [_hospital(federation, plan, h.name, run=outcome.run.run) for h in plan.roster],
        "seconds_by_phase": dict(outcome.run.seconds),
    }


def _rounds(plan: Plan, exchanges: tuple[Exchange, ...], metrics: dict[str, Any]) -> list[dict[str, Any]]:
    scores = {row["round"]: row for row in metrics["rounds"]}
    rows = []
    for number in range(plan.stat_rounds + 1, plan.last_training_round + 1):
        attempts = [e for e in exchanges if e.round == number]
        outcomes = {o.hospital: o.outcome for e in attempts if e.kind == "train" for o in e.outcomes}
        score = scores.get(number, {})
        rows.append(
            {
                "round": number,
                "balanced_accuracy": score.get("balanced_accuracy"),
                "accuracy": score.get("accuracy"),
                "held_out_units": score.get("held_out_units"),
                "contributors": score.get("contributors", []),
                "seconds": sum(e.seconds for e in attempts),
                "up_bytes": sum(o.up_bytes for e in attempts for o in e.outcomes),
                "down_bytes": sum(o.down_bytes for e in attempts for o in e.outcomes),
                "by_hospital": {
                    name: _moved(attempts, name) | {"outcome": outcome} for name, outcome in outcomes.items()
                },
            }
        )
    return rows


def _moved(exchanges: list[Exchange], hospital: str) -> dict[str, Any]:
    mine = [o for e in exchanges for o in e.outcomes if o.hospital == hospital]
    return {"up_bytes": sum(o.up_bytes for o in mine), "down_bytes": sum(o.down_bytes for o in mine)}


def _hospital(federation: Path, plan: Plan, name: str, *, run: str) -> dict[str, Any]:
    own = federation / name / "results" / run / "metrics.json"
    privacy = json.loads(own.read_text())["privacy"] if own.exists() else {}
    status = read_status(federation / name / "state" / "status.json")
    epsilon, delta = plan.budget(plan.roster[plan.agreed.position(name)])
    return {
        "name": name,
        "epsilon_spent": status.epsilon_spent if status else None,
        # Of the hospital's own results: its status holds the promised one alone.
        "epsilon_spent_if_all_others_collude": privacy.get("epsilon_spent_if_all_others_collude"),
        "epsilon_budget": epsilon,
        "delta": delta,
        "sigma": status.sigma if status else None,
        "units": status.units if status else None,
        "held_out_units": status.held_out if status else None,
        "peak_rss_bytes": status.peak_rss_bytes if status else None,
        "message": status.message if status else "",
    }


def _copy_files(federation: Path, plan: Plan, target: Path) -> None:
    """The YAML files and the log of each process; no key and no data."""
    homes = {"coordinator": federation / "coordinator"} | {h.name: federation / h.name for h in plan.roster}
    for name, home in homes.items():
        for path in home.rglob("*"):
            if path.is_file() and (path.suffix == ".log" or (path.suffix == ".yaml" and path.parent == home)):
                folder = target / ("logs" if path.suffix == ".log" else "config") / name
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, folder / path.name)


def print_report(report: dict[str, Any], console: Console) -> None:
    """The table per round, and what to read with it."""
    hospitals = len(report["hospitals"])
    table = Table(
        "round", "balanced accuracy", "accuracy", "up per hospital", "down per hospital", "hospitals", "seconds"
    )
    for row in report["rounds"]:
        table.add_row(
            str(row["round"]),
            _share(row["balanced_accuracy"]),
            _share(row["accuracy"]),
            size(row["up_bytes"] / hospitals),
            size(row["down_bytes"] / hospitals),
            str(len(row["contributors"])),
            f"{row['seconds']:.1f}",
        )
    console.print(table)
    spent = ", ".join(f"{h['name']} {h['epsilon_spent']:.3f} of {h['epsilon_budget']:g}" for h in report["hospitals"])
    console.print(
        f"epsilon spent per {report['unit']}: {spent} (delta {report['hospitals'][0]['delta']:g})", soft_wrap=True
    )
    if "official_test" in report:
        test = report["official_test"]
        console.print(
            f"official Test folder ({test['images']} images, some related to training images): accuracy "
            f"{_share(test['accuracy'])}, balanced accuracy {_share(test['balanced_accuracy'])}"
        )
    for note in report["notes"]:
        console.print(f"note: {note}", soft_wrap=True)
    phases = ", ".join(f"{name} {seconds:.0f}" for name, seconds in report["seconds_by_phase"].items())
    console.print(f"{report['seconds']:.0f} s in all ({phases}); results: {report['results']}", soft_wrap=True)


def _share(value: float | None) -> str:
    return "not released" if value is None else f"{value:.3f}"
