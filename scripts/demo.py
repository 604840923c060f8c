"""`fedward demo`: a whole federation on one machine, from images to a finished model."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from client.data import load_table
from client.data.source import DataPlace
from client.plan_in_words import cohort_in_words
from common.config import load_settings, parse_settings
from common.errors import DataError, FedwardError, OperatorError
from common.plan import Plan
from common.site_config import AUTO_COLUMN
from scripts.demo_results import Outcome, collect, require_results_folder
from scripts.demo_run import FinishedRun, run_federation
from scripts.demo_work import MadeWith, WorkFolder, remember_options, require_same_options
from scripts.federation import local_options, provision
from scripts.split import HospitalShare, split_dataset
from scripts.synthetic import is_synthetic, write_synthetic

SYNTHETIC_IMAGES_PER_CLASS = 150


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the demo's command line says; None: as the plan says."""

    data: Path | None
    plan: Path
    hospitals: int
    rounds: int | None
    epsilon: float | None
    seed: int
    work: Path | None
    results: Path
    keep: bool


@dataclass(frozen=True, slots=True)
class Prepared:
    """A federation on disk, ready to start."""

    folder: Path
    plan: Plan
    synthetic: bool
    test: Path | None
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
    folder, source = work / "federation", options.data or work / "synthetic"
    asked = load_settings(options.plan, Plan)
    # A wrong wish is refused before anything is drawn.
    made_with = _made_with(options, adapt(asked, options, ()))
    if (folder / "plan.yaml").exists():
        require_same_options(work, made_with)
        plan = load_settings(folder / "plan.yaml", Plan)
        print(f"using the federation in {folder} again: same plan, same hospitals, same ledgers", file=sys.stderr)
        return Prepared(folder, plan, is_synthetic(source), test_folder(source, plan), made_with)
    if options.data is None:
        print("no --data: drawing synthetic lesions (toy images; results say nothing about medicine)", file=sys.stderr)
        write_synthetic(source, images_per_class=SYNTHETIC_IMAGES_PER_CLASS, seed=options.seed)
    template = adapt(asked, options, class_folders(source))
    test = test_folder(source, template)
    shares = _deal(source, work / "shards", options, template)
    remember_options(work, made_with)
    made = local_options(options.hospitals, device="auto")
    plan = provision(template, {share.name: DataPlace(share.data) for share in shares}, folder, options=made)
    print("\n".join(cohort_in_words(plan)), file=sys.stderr)
    return Prepared(folder, plan, is_synthetic(source), test, made_with)


def _deal(source: Path, target: Path, options: DemoOptions, template: Plan) -> tuple[HospitalShare, ...]:
    report = split_dataset(
        source,
        target,
        hospitals=options.hospitals,
        seed=options.seed,
        on_undecodable=template.images.unreadable_images,
    )
    for warning in report.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for share in report.shares:
        print(f"{share.name}: {sum(share.images)} images of {sum(share.units)} {report.unit_name}s", file=sys.stderr)
    return report.shares


def _made_with(options: DemoOptions, template: Plan) -> MadeWith:
    return MadeWith(
        data=str(options.data.resolve()) if options.data else "synthetic",
        seed=options.seed,
        hospitals=options.hospitals,
        rounds=template.training.rounds,
        epsilon=template.privacy.epsilon,
        template=template.digest,
    )


def class_folders(source: Path) -> tuple[str, ...]:
    """Names of the class folders of a data set, sorted; empty where there are none."""
    root = source / "Train" if (source / "Train").is_dir() else source
    if not root.is_dir():
        return ()
    return tuple(sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")))


def adapt(template: Plan, options: DemoOptions, classes: tuple[str, ...]) -> Plan:
    """The plan with the command line's wishes, and with the data's own classes where they differ.

    Raises:
        OperatorError: If the plan already names its hospitals, or a wish is out of range.
        PlanError: If the plan's own numbers do not go with so many hospitals.
    """
    if template.federation is not None:
        raise OperatorError(f"{options.plan}: names its hospitals already; the demo makes its own: give it a template")
    template.cohort.filled(options.hospitals)
    content = template.model_dump(mode="json")
    if len(classes) >= 2 and set(classes) != set(template.data.classes):
        print(f"the data has {len(classes)} classes of its own; the plan's are replaced", file=sys.stderr)
        content["data"]["classes"] = list(classes)
    content["data"]["held_out_salt"] = f"seed-{options.seed}"
    content["model"]["seed"] = options.seed
    if options.rounds is not None:
        content["training"]["rounds"] = options.rounds
    if options.epsilon is not None:
        content["privacy"]["epsilon"] = options.epsilon
    return parse_settings(yaml.safe_dump(content), Plan, source=f"{options.plan} with the command line's options")


def test_folder(source: Path, plan: Plan) -> Path | None:
    """The official `Test` folder beside `Train`, if there is one.

    Raises:
        DataError: If the finished model could not be scored on it; said before the run, not after it.
    """
    test = source / "Test"
    if not (source / "Train").is_dir() or not test.is_dir():
        return None
    settings = plan.images
    try:
        load_table(
            test,
            settings.classes,
            on_undecodable=settings.unreadable_images,
            unit=plan.privacy.unit,
            patient_column=AUTO_COLUMN,
        )
    except DataError as error:
        raise DataError(f"the official test folder cannot be scored: {error}, or move {test} elsewhere") from error
    return test
