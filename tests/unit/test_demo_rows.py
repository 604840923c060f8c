"""Demos on rows: dealt, named by a sites file, or drawn; each hospital's rows are those that were dealt to it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from client.data.rows import RawRow, RowTable
from client.data.source import DataPlace, read_data, read_rows
from common.config import parse_settings
from common.errors import ConfigError, DataError, OperatorError
from common.plan_data import RowData, SurvivalData, TableData
from scripts.cli import app
from scripts.demo_sites import read_sites
from scripts.row_files import write_rows
from scripts.split_rows import deal_rows, split_rows
from scripts.synthetic_rows import draw_rows, write_synthetic_rows
from tests.support.genotypes import VARIANTS, genotype_data
from tests.support.small_federation import TEMPLATE

FEATURES: list[dict[str, Any]] = [
    {"kind": "number", "name": "age", "unit": "a", "low": 20.0, "high": 90.0, "missing": "flag"},
    {"kind": "category", "name": "sex", "values": ["female", "male"], "missing": "leave-out"},
]
HELD_OUT = {"held_out": 0.2, "held_out_salt": "s", "features": FEATURES}


def table() -> TableData:
    """Two features, two classes."""
    text = yaml.safe_dump({"kind": "table", "classes": ["ill", "well"], **HELD_OUT})
    return parse_settings(text, TableData, source="test")


def survival() -> SurvivalData:
    """The same, with times."""
    text = yaml.safe_dump({"kind": "survival", "time_unit": "d", "cuts": [100.0, 365.0], **HELD_OUT})
    return parse_settings(text, SurvivalData, source="test")


def row(number: int, patient: str | None, label: str = "ill") -> RawRow:
    """A row."""
    return RawRow(f"test row {number}", patient, {"age": 20.0 + number % 70, "sex": "female"}, label)


@given(
    owners=st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["ill", "well"])), min_size=1, max_size=60),
    hospitals=st.integers(1, 6),
    seed=st.integers(0, 3),
)
def test_all_rows_are_dealt_once_and_a_patients_together(
    owners: list[tuple[int, str]], hospitals: int, seed: int
) -> None:
    """A patient at two hospitals would have two budgets."""
    rows = [row(number, f"p{owner}", label) for number, (owner, label) in enumerate(owners)]
    if len({each.patient for each in rows}) < hospitals:
        with pytest.raises(DataError, match=f"patients for {hospitals} hospitals"):
            deal_rows(rows, hospitals, seed=seed)
        return
    parts = deal_rows(rows, hospitals, seed=seed)
    assert sorted(each.place for part in parts for each in part) == sorted(each.place for each in rows)
    assert all(parts)
    where: dict[str | None, set[int]] = {}
    for number, part in enumerate(parts):
        for each in part:
            where.setdefault(each.patient, set()).add(number)
    assert all(len(numbers) == 1 for numbers in where.values())


def test_classes_are_dealt_in_equal_parts() -> None:
    """As for images: to within one patient."""
    rows = [row(number, None, "ill" if number % 3 else "well") for number in range(90)]
    counts = [Counter(each.label for each in part) for part in deal_rows(rows, 5, seed=1)]
    for label in ("ill", "well"):
        assert max(c[label] for c in counts) - min(c[label] for c in counts) <= 1


@pytest.mark.parametrize("declared", [table(), survival()], ids=lambda each: each.kind)
def test_drawn_rows_are_read_as_they_were_written(tmp_path: Path, declared: RowData) -> None:
    """Through the connector that hospitals use; the same seed draws the same, another one does not."""
    drawn = draw_rows(declared, 200, seed=4)
    place = write_rows(tmp_path / "one", drawn, declared)
    for wrote, found in zip(drawn, read_rows(place, declared).rows, strict=True):
        assert {k: v for k, v in wrote.values.items() if v is not None} == {
            k: v for k, v in found.values.items() if v is not None
        }
        assert (wrote.label, wrote.time, wrote.event) == (found.label, found.time, found.event)
    assert draw_rows(declared, 200, seed=4) == drawn != draw_rows(declared, 200, seed=5)


@pytest.mark.parametrize("owners", [("p1", "p1", "p2", "p3", "p3"), (None,) * 5])
def test_samples_of_one_patient_are_dealt_and_read_as_theirs(tmp_path: Path, owners: tuple[str | None, ...]) -> None:
    """A patient may have been sequenced twice; without patients each sample is one."""
    declared = genotype_data()
    values = {variant.id: 1.0 for variant in declared.variants}
    rows = [RawRow("test", owner, values, "EUR") for owner in owners]
    source = write_rows(tmp_path / "source", rows, declared)
    places, _ = split_rows(source, declared, tmp_path / "parts", hospitals=2, seed=0)
    parts = [read_data(place, declared, unit="patient") for place in places.values()]
    assert sum(len(part.records) for part in parts) == 5
    assert sum(len(part.unit_labels()) for part in parts) == (3 if owners[0] else 5)
    read = [row.patient for row in read_rows(source, declared).rows]
    assert read == (list(owners) if owners[0] else [f"S{k}" for k in range(1, 6)])


def test_drawn_classes_can_be_learned(tmp_path: Path) -> None:
    """Else a demo would show nothing: least squares tells them apart far better than by chance."""
    content = table().model_dump(mode="json")
    content["features"] = [{**FEATURES[0], "name": f"age_{k}"} for k in range(8)]
    declared = parse_settings(yaml.safe_dump(content), TableData, source="test")
    places = write_synthetic_rows(tmp_path / "parts", declared, hospitals=3, seed=0)
    tables = [read_data(place, declared, unit="patient") for place in places.values()]
    assert all(isinstance(each, RowTable) for each in tables)
    x = np.concatenate([each.rows for each in tables if isinstance(each, RowTable)])
    y = np.array([record.label_index for each in tables for record in each.records]) * 2.0 - 1.0
    weights = np.linalg.lstsq(x, y, rcond=None)[0]
    assert np.mean(np.sign(x @ weights) == y) > 0.7


def test_drawn_genotypes_are_neither_hopeless_nor_plain() -> None:
    """With 127 variants least squares reaches what it does on real people; 1.000 would hide what noise costs."""
    variants = [VARIANTS[0].model_copy(update={"id": f"rs{k}", "position": 100 + k}) for k in range(127)]
    declared = genotype_data(variants).model_copy(update={"classes": ("AFR", "AMR", "EAS", "EUR", "SAS")})
    for seed in range(3):
        rows = draw_rows(declared, 1000, seed=seed)
        x = np.array([[row.values[variant.id] for variant in variants] + [1.0] for row in rows])
        y = np.array([declared.classes.index(row.label) for row in rows])
        weights = np.linalg.lstsq(x[:800], np.eye(5)[y[:800]], rcond=None)[0]
        assert 0.9 < np.mean(np.argmax(x[800:] @ weights, axis=1) == y[800:]) < 1.0


def test_a_source_is_dealt_into_parts_that_a_sites_file_names(tmp_path: Path) -> None:
    """`fedward split` and `fedward demo --sites` go together."""
    source = write_rows(tmp_path / "source", [row(k, f"p{k // 2}") for k in range(40)], table())
    places, reading = split_rows(source, table(), tmp_path / "parts", hospitals=4, seed=0)
    assert len(reading.rows) == 40
    assert read_sites(tmp_path / "parts" / "sites.yaml", None) == places
    found = [each.patient for place in places.values() for each in read_rows(place, table()).rows]
    assert sorted(map(str, found)) == sorted(f"p{k // 2}" for k in range(40))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"name": "hospital-1"}, "seen the name 'hospital-1' twice"),
        ({"data": "absent.csv"}, "data of hospital-3: seen .*absent.csv, which does not exist"),
        ({"mapping": "absent.yaml"}, "mapping of hospital-3: seen .*absent.yaml, which does not exist"),
        ({"path": "x"}, "path"),
    ],
)
def test_a_wrong_sites_file_is_one_sentence(tmp_path: Path, change: dict[str, str], sentence: str) -> None:
    """File, key, what was seen."""
    (tmp_path / "rows.csv").touch()
    (tmp_path / "m.yaml").touch()
    sites = [{"name": f"hospital-{k}", "data": "rows.csv", "mapping": "m.yaml"} for k in (1, 2, 3)]
    path = tmp_path / "sites.yaml"
    path.write_text(yaml.safe_dump({"sites": sites}))
    assert read_sites(path, None)["hospital-3"] == DataPlace(tmp_path / "rows.csv", tmp_path / "m.yaml")
    path.write_text(yaml.safe_dump({"sites": [*sites[:2], sites[2] | change]}))
    with pytest.raises(ConfigError, match=sentence):
        read_sites(path, None)


def test_the_command_deals_a_table_and_says_how_to_go_on(tmp_path: Path) -> None:
    """`fedward split` with a plan and a mapping; one without the other is one sentence."""
    place = write_rows(tmp_path / "source", draw_rows(table(), 60, seed=0), table())
    plan = tmp_path / "plan.yaml"
    plan.write_text(yaml.safe_dump(TEMPLATE | {"data": table().model_dump(mode="json"), "model": {"kind": "linear"}}))
    command = ["split", str(place.path), "--out", str(tmp_path / "parts"), "--plan", str(plan)]
    with pytest.raises(OperatorError, match="need both --plan and --mapping"):
        CliRunner().invoke(app, command, catch_exceptions=False)
    said = CliRunner().invoke(app, [*command, "--mapping", str(place.mapping)], catch_exceptions=False).output
    assert "hospital-5: 12 rows" in said
    assert f"--sites {tmp_path / 'parts' / 'sites.yaml'}" in said.replace("\n", "")
