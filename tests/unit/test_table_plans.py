"""The shipped plans on tables, with the mappings that are shipped for them, read the real tables whole."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from client.data.rows import RowTable
from client.data.source import DataPlace, read_data
from common.config import load_settings
from common.errors import AlreadyExists, OperatorError
from common.plan import Plan
from scripts.embedded import write_breast_cancer

CONFIGS = Path(__file__).parents[2] / "configs"
HEART = Path(__file__).parents[2].parent / "shared" / "data" / "heart"


def read(path: Path, *, plan: str, mapping: str) -> RowTable:
    """A file as a site of the plan reads it."""
    data = load_settings(CONFIGS / "plans" / plan, Plan).data
    table = read_data(DataPlace(path, CONFIGS / "mappings" / mapping), data, unit="patient")
    assert isinstance(table, RowTable)
    return table


def test_the_breast_cancer_table_is_dealt_whole_and_evenly(tmp_path: Path) -> None:
    """Every patient to one hospital, both classes in equal shares, the same parts from the same seed."""
    parts = write_breast_cancer(tmp_path / "a", 5, seed=0)
    assert list(parts) == [f"hospital-{k}" for k in range(1, 6)]
    tables = [read(path, plan="breast.yaml", mapping="breast.yaml") for path in parts.values()]
    units = [unit for table in tables for unit in table.unit_labels()]
    assert len(units) == len(set(units)) == 569
    malignant = [sum(table.unit_labels().values()) for table in tables]
    assert sum(malignant) == 212
    assert max(malignant) - min(malignant) <= 1
    assert not any(table.left_out for table in tables)
    again = write_breast_cancer(tmp_path / "b", 5, seed=0)
    assert all(again[name].read_bytes() == parts[name].read_bytes() for name in parts)
    other = write_breast_cancer(tmp_path / "c", 5, seed=1)
    assert other["hospital-1"].read_bytes() != parts["hospital-1"].read_bytes()


def test_the_breast_cancer_plan_covers_the_table(tmp_path: Path) -> None:
    """Few numbers lie outside of the plan's public ranges, and each feature uses a good part of its own."""
    (part,) = write_breast_cancer(tmp_path / "all", 1, seed=0).values()
    table = read(part, plan="breast.yaml", mapping="breast.yaml")
    assert sum(table.clipped.values()) < 0.005 * table.rows.size
    assert np.ptp(table.rows, axis=0)[:-1].min() > 0.5 * 2 / np.sqrt(31)
    assert np.linalg.norm(table.rows, axis=1).max() <= 1


def test_the_survival_plan_reads_a_table_of_the_study_that_it_was_made_for(tmp_path: Path) -> None:
    """Made-up patients in GBSG2's columns and codes: every column is used, and nobody is left out."""
    table = tmp_path / "gbsg2.csv"
    table.write_text(
        "horTh,age,menostat,tsize,tgrade,pnodes,progrec,estrec,time,cens\n"
        "no,70,Post,21,II,3,48,66,1814,1\n"
        "yes,31,Pre,90,I,1,0,9,200,0\n"
        "yes,55,Post,12,III,25,800,700,2600,1\n"
    )
    seen = read(table, plan="survival.yaml", mapping="survival-gbsg2.yaml")
    assert not seen.left_out
    assert seen.clipped == {"tumour_size": 1, "positive_nodes": 1, "progesterone_receptor": 1, "oestrogen_receptor": 1}
    rows, times = seen.unit_rows()
    assert sorted(zip(times.tolist(), seen.unit_labels().values(), strict=True)) == [(200, 0), (1814, 1), (2600, 1)]
    assert np.linalg.norm(rows, axis=1).max() <= 1
    first = rows[times.tolist().index(1814)] * 3
    by_hand = [1, 0, 0, 2 * (70 - 20) / 70 - 1, 0, 0, 1, 0, 2 * 21 / 80 - 1, 0, 0, 1, 0, 0, 2 * 3 / 20 - 1, 0]
    np.testing.assert_allclose(first[:16], by_hand)
    np.testing.assert_allclose(first[16:], [2 * 48 / 500 - 1, 0, 2 * 66 / 500 - 1, 0, 1])


def test_parts_are_not_written_over_and_need_a_number(tmp_path: Path) -> None:
    """Each a sentence."""
    write_breast_cancer(tmp_path / "a", 2, seed=0)
    with pytest.raises(AlreadyExists):
        write_breast_cancer(tmp_path / "a", 2, seed=0)
    for number in (0, 201):
        with pytest.raises(OperatorError, match=f"hospitals: seen {number}; 1 to 200 are allowed"):
            write_breast_cancer(tmp_path / "b", number, seed=0)


@pytest.mark.skipif(not HEART.is_dir(), reason="the heart data set is not here")
def test_the_four_hospitals_of_the_heart_data_are_read_whole() -> None:
    """All 920 patients; each cell that is `?`, and each cholesterol or pressure of 0, is missing and no other."""
    counts = {"cleveland": (303, 139), "hungarian": (294, 106), "switzerland": (123, 115), "va": (200, 149)}
    for name, (patients, ill) in counts.items():
        path = HEART / f"processed.{name}.data"
        table = read(path, plan="heart.yaml", mapping="heart-uci.yaml")
        assert (len(table.records), sum(table.unit_labels().values()), table.left_out) == (patients, ill, {})
        with path.open(encoding="ascii", newline="") as stream:
            rows = [row for row in csv.reader(stream) if row]
        unknown = sum(row[:13].count("?") + (row[3] in ("0", "0.0")) + (row[4] in ("0", "0.0")) for row in rows)
        features = load_settings(CONFIGS / "plans" / "heart.yaml", Plan).data.features  # type: ignore[union-attr]
        flags = np.cumsum([feature.inputs for feature in features]) - 1
        assert np.count_nonzero(table.rows[:, flags]) == unknown
