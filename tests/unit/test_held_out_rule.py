"""The held-out rule that a ledger charges under: another one wherever the same people may be on the other side."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from client.data import held_out
from client.data.rows import RowTable
from client.data.source import DataPlace, read_data
from client.declare import held_out_rule, site_held_out_rule
from client.learner import load_learner
from common.config import parse_settings
from common.plan import Plan
from common.site_config import load_site
from tests.support.dicom_files import write_dicom
from tests.support.small_federation import CLASSES, NAMES, provision_small, template, write_images

AGE = {"kind": "number", "name": "age", "unit": "a", "low": 0, "high": 100, "missing": "flag"}
DOSE = {"kind": "number", "name": "dose", "unit": "mg", "low": 0, "high": 100, "missing": "flag"}
MAPPING: dict[str, Any] = {
    "form": "csv",
    "patient": "row",
    "label": {"column": "state", "classes": {"0": "well", "1": "ill"}},
    "features": {"age": {"column": "age", "unit": "a"}},
}
BOTH = {"age": {"column": "age", "unit": "a"}, "dose": {"column": "dose", "unit": "mg"}}
PEOPLE = 60
INDEX: dict[str, Any] = {"form": "image-index", "index": "list.csv", "path": "file", "label": "dx"}


def plan_of_rows(*features: dict[str, Any], unit: str = "patient") -> Plan:
    """The breast plan on other features."""
    content = yaml.safe_load((Path(__file__).parents[2] / "configs" / "plans" / "breast.yaml").read_text())
    content["data"] |= {"classes": ["well", "ill"], "features": list(features), "held_out": 0.5}
    content["privacy"]["unit"] = unit
    return parse_settings(yaml.safe_dump(content), Plan, source="plan of rows")


def rows_in(folder: Path, **changes: Any) -> DataPlace:  # noqa: ANN401 -- YAML values
    """Sixty people, no two alike, and a mapping."""
    folder.mkdir(exist_ok=True)
    lines = (f"{number},{number},{number % 7},{number % 2}" for number in range(PEOPLE))
    (folder / "ward.csv").write_text("\n".join(("pid,age,dose,state", *lines)) + "\n")
    (folder / "mapping.yaml").write_text(yaml.safe_dump(MAPPING | changes))
    return DataPlace(folder / "ward.csv", folder / "mapping.yaml")


def sides(place: DataPlace, plan: Plan) -> dict[str, bool]:
    """Who is held out, by line of the file."""
    table = read_data(place, plan.data, unit=plan.privacy.unit)
    assert isinstance(table, RowTable)
    salt, fraction = plan.data.held_out_salt, plan.data.held_out
    return {each.place: held_out(each.unit, salt=salt, fraction=fraction) for each in table.records}


def people_who_change_sides(first: dict[str, bool], second: dict[str, bool]) -> int:
    """How many are held out under one and trained on under the other."""
    assert len(first) == len(second) == PEOPLE
    return sum(first[line] != second[line] for line in first)


@pytest.mark.parametrize("unit", ["patient", "record"])
def test_rows_of_nobody_change_sides_with_the_plans_features_and_so_does_the_rule(tmp_path: Path, unit: str) -> None:
    """Such a row is named by what the plan reads of it. The plan's own rule, the control, does not see the change."""
    first, second = plan_of_rows(AGE, unit=unit), plan_of_rows(AGE, DOSE, unit=unit)
    one, both = rows_in(tmp_path / "one"), rows_in(tmp_path / "both", features=BOTH)
    assert people_who_change_sides(sides(one, first), sides(both, second)) > 0
    assert first.held_out_rule == second.held_out_rule
    assert site_held_out_rule(one, first) != site_held_out_rule(both, second)


def test_rows_of_nobody_change_sides_with_the_mapping_and_so_does_the_rule(tmp_path: Path) -> None:
    """One plan, another column for its feature."""
    plan = plan_of_rows(AGE)
    one = rows_in(tmp_path / "one")
    other = rows_in(tmp_path / "other", features={"age": {"column": "dose", "unit": "a"}})
    assert people_who_change_sides(sides(one, plan), sides(other, plan)) > 0
    assert site_held_out_rule(one, plan) != site_held_out_rule(other, plan)


def test_rows_of_named_patients_keep_side_and_rule(tmp_path: Path) -> None:
    """The control: whom a column names stays where they are, whatever is read of them; and a moved folder is none."""
    first, second = plan_of_rows(AGE), plan_of_rows(AGE, DOSE)
    one = rows_in(tmp_path / "one", patient="pid")
    both = rows_in(tmp_path / "both", patient="pid", features=BOTH)
    assert people_who_change_sides(sides(one, first), sides(both, second)) == 0
    assert site_held_out_rule(one, first) == site_held_out_rule(both, second) == held_out_rule(first, "pid")
    here, there = (rows_in(tmp_path / name) for name in ("here", "there"))
    assert site_held_out_rule(here, first) == site_held_out_rule(there, first)


def listed(folder: Path, mapping: Path, **changes: str) -> DataPlace:
    """The images of class folders as an index lists them, with the columns of index.csv beside."""
    images = sorted(each for each in folder.rglob("*") if each.parent.name in CLASSES and each.is_file())
    for name, header in (("list.csv", ("file", "dx", "lesion_id")), ("index.csv", ("path", "label", "lesion_id"))):
        with (folder / name).open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(header)
            writer.writerows(
                (each.relative_to(folder).as_posix(), each.parent.name, f"L{number // 2}")
                for number, each in enumerate(images)
            )
    mapping.write_text(yaml.safe_dump(INDEX | changes))
    return DataPlace(folder, mapping)


def test_an_index_instead_of_class_folders_is_another_rule_unless_files_are_units(tmp_path: Path) -> None:
    """A lesion of index.csv, and each of its images by an index, are held out apart; the plan's rule is the same."""
    plan = template(privacy={"unit": "patient"})
    write_images(tmp_path / "data", per_class=6, seed=1)
    place = listed(tmp_path / "data", tmp_path / "mapping.yaml")
    folders = DataPlace(place.path)
    names = [read_data(each, plan.data, unit="patient").unit_name for each in (folders, place)]
    assert names == ["lesion", "image"]
    assert site_held_out_rule(folders, plan) == plan.held_out_rule
    by_index = site_held_out_rule(place, plan)
    by_column = site_held_out_rule(listed(place.path, tmp_path / "other.yaml", patient="lesion_id"), plan)
    assert len({plan.held_out_rule, by_index, by_column}) == 3
    by_file = template(privacy={"unit": "record"})
    assert site_held_out_rule(place, by_file) == site_held_out_rule(folders, by_file) == by_file.held_out_rule


def test_patients_of_the_dicom_tag_are_another_rule_than_files_of_nobody(tmp_path: Path) -> None:
    """The tag names units where index.csv does not; a file without one, the control, leaves the plan's rule."""
    plan = template(privacy={"unit": "patient"})
    random = np.random.default_rng(0)
    for folder, tags in (("tagged", {"PatientID": "17"}), ("bare", {"PatientID": ""})):
        for number, name in enumerate(CLASSES):
            pixels = random.integers(0, 256, (16, 16), dtype=np.uint8)
            write_dicom(tmp_path / folder / name / f"{number}.dcm", pixels, **tags)
    tagged, bare = DataPlace(tmp_path / "tagged"), DataPlace(tmp_path / "bare")
    names = [read_data(each, plan.data, unit="patient").unit_name for each in (tagged, bare)]
    assert names == ["patient", "image"]
    assert site_held_out_rule(bare, plan) == plan.held_out_rule != site_held_out_rule(tagged, plan)
    by_file = template(privacy={"unit": "record"})
    assert site_held_out_rule(tagged, by_file) == by_file.held_out_rule


def test_a_site_charges_under_the_rule_that_is_told_without_its_data(tmp_path: Path) -> None:
    """`ledger show` asks before data are read; a learner charges under the same, by class folders and by an index."""
    provision_small(tmp_path, template(privacy={"unit": "patient"}))
    home = tmp_path / "federation" / NAMES[0]
    config = load_site(home / f"{NAMES[0]}.yaml")
    plan = Plan.model_validate(yaml.safe_load(config.plan.read_text()))
    place = listed(config.data, tmp_path / "mapping.yaml")
    by_index = config.model_copy(update={"mapping": place.mapping})
    rules = []
    for site in (config, by_index):
        learner, _ = load_learner(site, plan, on_progress=lambda *_: None)
        rules.append(learner.held_out_rule)
        shutil.rmtree(site.state, ignore_errors=True)
    assert rules == [plan.held_out_rule, site_held_out_rule(place, plan)]
    assert len(set(rules)) == 2
