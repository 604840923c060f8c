"""How well the product learns UCI's heart disease: four real hospitals, five folds, with next to no noise and with DP.

`pytest -s -m slow tests/e2e/test_heart_accuracy.py`: some minutes. The sites' own code with a coordinator in one
process. "Without noise" is epsilon 500 with a clip that no gradient reaches, so that each step's noise has 0.6 of one
patient's gradient: a mode without differential privacy does not exist. "Complete" patients are the 740 that have no `?`
in any column but slope, ca and thal, which most hospitals did not record; 79 of them have cholesterol 0, which means
unknown and is flagged.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from client.data.source import DataPlace
from common.config import parse_settings
from common.plan import Plan
from scripts.evaluate import evaluate
from tests.support.whole_runs import finished_run

HEART = Path(__file__).parents[2].parent / "shared" / "data" / "heart"
CONFIGS = Path(__file__).parents[2] / "configs"
NAMES = ("cleveland", "hungarian", "switzerland", "va")
NOT_RECORDED = {"st_slope": 10, "vessels": 11, "thallium_scan": 12}  # features and their columns
FOLDS = 5

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not HEART.is_dir(), reason="the heart data set is not here"),
]

ALMOST_NO_NOISE = {"rounds": 10, "local_steps": 10, "learning_rate": 8.0}
# Patients, mode, epsilon, clip, changes of `training`, and the least mean accuracy over the folds: the for
# epsilon 500, the design's goals for the others (those of 740 patients also for all, where the simulation had none).
SETTINGS: list[tuple[int, str, float, float, dict[str, Any], float]] = [
    (920, "local", 500.0, 1.5, ALMOST_NO_NOISE, 0.81),
    (740, "local", 500.0, 1.5, ALMOST_NO_NOISE, 0.77),
    *((patients, "local", epsilon, 0.5, {}, 0.77) for patients in (920, 740) for epsilon in (1.0, 3.0, 8.0)),
    *((patients, "distributed", epsilon, 0.5, {}, 0.77) for patients in (920, 740) for epsilon in (1.0, 3.0, 8.0)),
]


def template(patients: int, mode: str, *, epsilon: float, clip: float, training: dict[str, Any]) -> Plan:
    """The shipped plan with another budget; all units are trained on, the fold is what is scored."""
    content: dict[str, Any] = yaml.safe_load((CONFIGS / "plans" / "heart.yaml").read_text(encoding="utf-8"))
    content["data"]["held_out"] = 0.0
    if patients == 740:
        content["data"]["features"] = [f for f in content["data"]["features"] if f["name"] not in NOT_RECORDED]
    content["training"] |= training | ({"server_optimiser": {"kind": "fedavg"}} if training else {})
    content["privacy"] |= {"mode": mode, "epsilon": epsilon, "clip": clip}
    content["cohort"]["min_cohort"] = len(NAMES)
    content["metrics"]["released"] = "none"
    if mode == "distributed":
        content["encryption"]["preset"] = "precise"
    return parse_settings(yaml.safe_dump(content), Plan, source="heart.yaml")


def mapping(patients: int) -> dict[str, Any]:
    """The shipped mapping, of the plan's features."""
    content: dict[str, Any] = yaml.safe_load((CONFIGS / "mappings" / "heart-uci.yaml").read_text(encoding="utf-8"))
    if patients == 740:
        content["features"] = {k: v for k, v in content["features"].items() if k not in NOT_RECORDED}
    return content


def lines(patients: int) -> dict[str, list[str]]:
    """Each hospital's patients."""
    files = {name: (HEART / f"processed.{name}.data").read_text(encoding="ascii").splitlines() for name in NAMES}
    if patients == 740:
        recorded = set(range(14)) - set(NOT_RECORDED.values())
        files = {
            name: [line for line in each if all(line.split(",")[column] != "?" for column in recorded)]
            for name, each in files.items()
        }
    assert sum(map(len, files.values())) == patients
    return files


def write_folds(folder: Path, patients: int) -> list[Path]:
    """One folder per fold: `test.data` of all hospitals, and what is left of each."""
    (folder / "mapping.yaml").write_text(yaml.safe_dump(mapping(patients)), encoding="utf-8")
    random = np.random.default_rng(0)
    fold_of = {name: random.permutation(len(each)) % FOLDS for name, each in lines(patients).items()}
    parts = []
    for fold in range(FOLDS):
        part = folder / f"fold-{fold}"
        part.mkdir()
        tested: list[str] = []
        for name, each in lines(patients).items():
            kept = [line for line, own in zip(each, fold_of[name], strict=True) if own != fold]
            tested += [line for line, own in zip(each, fold_of[name], strict=True) if own == fold]
            (part / f"{name}.data").write_text("\n".join(kept) + "\n", encoding="ascii")
        (part / "test.data").write_text("\n".join(tested) + "\n", encoding="ascii")
        parts.append(part)
    return parts


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A place for federations, removed at once."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def accuracy_on(part: Path, plan: Plan, folder: Path) -> float:
    """One whole run on four folds, and its model's score on the fifth; each site within the plan's budget."""
    rules = part.parent / "mapping.yaml"
    places = {name: DataPlace(part / f"{name}.data", rules) for name in NAMES}
    results = finished_run(plan, places, folder, spent=0.9)
    return evaluate(results, part / "test.data", mapping=rules).accuracy


@pytest.mark.parametrize(("patients", "mode", "epsilon", "clip", "training", "least"), SETTINGS)
def test_the_accuracy_is_that_of_the_design(  # noqa: PLR0913, PLR0917 -- pytest's fixtures and parameters
    patients: int, mode: str, epsilon: float, clip: float, training: dict[str, Any], least: float, folder: Path
) -> None:
    """Mean over five folds; the noise differs in each run, by about .01 of it at epsilon 1."""
    plan = template(patients, mode, epsilon=epsilon, clip=clip, training=training)
    parts = write_folds(folder, patients)
    scores = [accuracy_on(part, plan, folder / f"run-{part.name}") for part in parts]
    summary = (
        f"{patients} {mode} epsilon {epsilon:g}: {np.mean(scores):.4f} sd {np.std(scores):.4f} {np.round(scores, 3)}"
    )
    print(summary)  # noqa: T201 -- what the run is for
    assert np.mean(scores) >= least, summary
