"""`fedward bench chaos`: the command line."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from scripts.report_file import require_writable, write_json


def chaos(  # noqa: PLR0913 -- one parameter per option
    *,
    rounds: Annotated[int, typer.Option(min=2, help="Training rounds.")] = 20,
    hospitals: Annotated[int, typer.Option(min=4, max=50, help="Hospitals; each takes about 1 GB of memory.")] = 5,
    fault_seconds: Annotated[float, typer.Option(min=0.0, help="How long a line stays cut or slow.")] = 20.0,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the faults; never noise.")] = 0,
    work: Annotated[Path | None, typer.Option(help="Folder for the federation's files and logs; kept.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the result to this file.")] = None,
) -> None:
    """Run a federation on drawn images while processes are killed and lines are cut at random.

    In the first half of the run a site is killed, one line is cut, one is slow (1 Mbit/s, 300 ms), the ServerApp is
    killed, and the whole coordinator. What was killed from outside is started again at once. Ends with status 1 if a
    round is missing, a hospital has no finished model or another one, a charge or a release stands alone, a ledger
    forgot, a fault never struck, or a process is left over.
    """
    require_writable(json_path)
    # torch and the like load only for the commands that need them.
    from scripts.bench_chaos import run_chaos  # noqa: PLC0415
    from scripts.chaos_faults import ChaosOptions  # noqa: PLC0415

    options = ChaosOptions(rounds, hospitals, fault_seconds, seed, work)
    report = run_chaos(options, say=lambda text: print(text, file=sys.stderr))
    write_json(json_path, report)
    for line in summary(report):
        print(line)
    if not report["passed"]:
        raise typer.Exit(1)


def summary(report: Mapping[str, Any]) -> Iterator[str]:
    """What the command prints: faults, totals, verdict."""
    done, models, ledger = report["rounds"], report["models"], report["ledger"]
    for fault in report["faults"]:
        cost = fault["seconds_to_recover"]
        after = "not before the end of the run" if cost is None else f"{cost:g} s"
        yield (
            f"{fault['kind']} {fault['hospital']}".rstrip() + f" after round {fault['after_round']}: recovered: {after}"
        )
    yield (
        f"rounds: {done['completed']} of {done['asked']}; models equal: {'yes' if models['equal'] else 'no'}, at "
        f"{len(models['finished_at'])} of {report['hospitals']}; left-over processes: {report['orphans']}"
    )
    yield (
        f"charges {ledger['charges']}, releases {ledger['releases']}; releases without a charge "
        f"{len(ledger['uncharged_releases'])}, charges without a release: {len(ledger['lost_to_a_fault'])} at a fault, "
        f"{len(ledger['unreleased_charges'])} without; ledgers that forgot: "
        f"{', '.join(ledger['ledgers_that_forgot']) or 'none'}"
    )
    for failure in report["failures"]:
        yield f"failed: {failure}"
    yield "passed" if report["passed"] else "not passed"
