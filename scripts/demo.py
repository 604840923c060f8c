"""`fedward demo`: a whole federation on one machine, from data to a finished model."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from client.plan_in_words import cohort_in_words
from client.plan_weights import check_weights, named_weights
from common.config import load_settings
from common.errors import FedwardError, OperatorError
from common.plan import Plan
from scripts.demo_data import adapt, demo_data, is_drawn, test_images
from scripts.demo_options import DEFAULT_HOSPITALS, DemoOptions
from scripts.demo_results import Outcome, collect, require_results_folder
from scripts.demo_run import FinishedRun, run_federation
from scripts.demo_work import MadeWith, WorkFolder, remember_options, require_same_options
from scripts.federation import local_options, provision


@dataclass(frozen=True, slots=True)
class Prepared:
    """A federation on disk, ready to start."""

    folder: Path
    plan: Plan
    synthetic: bool
    test: Path | None
    weights: Path | None
    made_with: MadeWith


def run_demo(options: DemoOptions) -> dict[str, Any]:
    """Make a federation, run its plan, write the results.

    Returns:
        The content of `--json`; docs/demo.md describes it.

    Raises:
        FedwardError: One sentence; every process has been stopped.
    """
    started = time.monotonic()
    with WorkFolder(options.work, keep=options.keep) as work:
        prepared = prepare(options, work.path)
        prepare_s = time.monotonic() - started
        run = asyncio.run(run_federation(prepared.folder, prepared.plan, synthetic=prepared.synthetic))
        seconds = {"prepare": prepare_s, **run.seconds}
        return deliver(prepared, replace(run, seconds=seconds), work, results=options.results, started=started)


def deliver(prepared: Prepared, run: FinishedRun, work: WorkFolder, *, results: Path, started: float) -> dict[str, Any]:
    """Write the results of a run that ended; where that fails, keep what the hospitals wrote.

    Raises:
        OperatorError: If the results cannot be written; says where the hospitals' own lie.
    """
    outcome = Outcome(
        plan=prepared.plan,
        run=run,
        synthetic=prepared.synthetic,
        test=prepared.test,
        weights=prepared.weights,
        options=prepared.made_with.model_dump(mode="json"),
    )
    try:
        return collect(prepared.folder, outcome, results=results, started=started)
    except (OSError, FedwardError) as error:
        work.keep = True
        raise OperatorError(
            f"run {run.run} finished, but its results could not be collected: {error}; "
            f"what the hospitals wrote stays in {prepared.folder}"
        ) from error


def prepare(options: DemoOptions, work: Path) -> Prepared:
    """Deal the data and make the federation's files, or find those of an earlier demo in `work`.

    A second demo in one work folder is a new run of the same hospitals: their ledgers remember what was spent.

    Raises:
        FedwardError: If the data, the plan or a folder is wrong.
    """
    require_results_folder(options.results)
    folder = work / "federation"
    asked = load_settings(options.plan, Plan)
    options.require_fitting(asked)
    check_weights(asked, named_weights(asked, options.weights))
    # A wrong wish is refused before anything is drawn.
    made_with = _made_with(options, adapt(asked, options, ()))
    drawn = is_drawn(options, work)
    if (folder / "plan.yaml").exists():
        require_same_options(work, made_with)
        plan = load_settings(folder / "plan.yaml", Plan)
        print(f"using the federation in {folder} again: same plan, same hospitals, same ledgers", file=sys.stderr)
        return Prepared(folder, plan, drawn, test_images(options, work, plan), options.weights, made_with)
    data = demo_data(asked, options, work)
    remember_options(work, made_with)
    made = local_options(len(data.places), device="auto", weights=options.weights)
    plan = provision(data.template, data.places, folder, options=made)
    print("\n".join(cohort_in_words(plan)), file=sys.stderr)
    return Prepared(folder, plan, drawn, test_images(options, work, data.template), options.weights, made_with)


def _made_with(options: DemoOptions, template: Plan) -> MadeWith:
    given = (None if options.embedded else options.data, options.mapping, options.sites)
    # A name, unlike a path, is the same from every folder.
    named = str(options.data) if options.embedded else "synthetic"
    return MadeWith(
        data=" ".join(str(path.resolve()) for path in given if path) or named,
        seed=options.seed,
        hospitals=options.hospitals or DEFAULT_HOSPITALS,
        rounds=template.training.rounds,
        epsilon=template.privacy.epsilon,
        template=template.digest,
    )
