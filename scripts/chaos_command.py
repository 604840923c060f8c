"""`fedward bench chaos`: the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

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
    round is missing, models differ, a charge is missing or a process is left over.
    """
    if json_path is not None:
        require_writable(json_path)
    # torch and the like load only for the commands that need them.
    from scripts.bench_chaos import ChaosOptions, run_chaos  # noqa: PLC0415

    options = ChaosOptions(rounds, hospitals, fault_seconds, seed, work)
    report = run_chaos(options, say=lambda text: print(text, file=sys.stderr))
    if json_path is not None:
        write_json(json_path, report)
    done, models, ledger = report["rounds"], report["models"], report["ledger"]
    for fault in report["faults"]:
        cost = fault["seconds_to_recover"]
        after = "not before the end of the run" if cost is None else f"{cost:g} s"
        print(f"{fault['kind']} {fault['hospital']} after round {fault['after_round']}: recovered: {after}")
    print(
        f"rounds: {done['completed']} of {done['asked']}; models equal: {models['equal']} at "
        f"{len(models['finished_at'])} of {report['hospitals']}; charges {ledger['charges']}, releases "
        f"{ledger['releases']}, uncharged {ledger['uncharged_releases']}; left-over processes: {report['orphans']}"
    )
    lost = ledger["uncharged_releases"] or ledger["ledgers_that_forgot"]
    if done["skipped"] or not models["equal"] or lost or report["orphans"]:
        raise typer.Exit(1)
