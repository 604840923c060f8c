"""How well the product learns skin9 under differential privacy: five folds by lesion, five hospitals, both modes.

`pytest -s -m slow tests/e2e/test_skin9_accuracy.py`: half an hour and more. The sites' own code with a coordinator in
one process; each setting must reach the mean minus one standard deviation of the design's simulation. One setting also
runs as a deployment, which must learn the same. FEDWARD_FEATURES may name a folder that keeps the backbone's features
between runs.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from client.data import ImageTable, load_table
from client.data.source import DataPlace
from client.unit_data import load_units
from common.config import parse_settings
from common.plan import Plan
from scripts.evaluate import evaluate
from scripts.split import deal, split_dataset
from tests.support.deployment import command
from tests.support.skin9_parts import SKIN9, clean_rows, part_name, write_part
from tests.support.whole_runs import finished_run

PLANS = Path(__file__).parents[2] / "configs" / "plans"
NAMES = tuple(f"hospital-{k}" for k in range(1, 6))
FOLDS = 5

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(7200),
    pytest.mark.skipif(not SKIN9.is_dir(), reason="the skin9 data set is not here"),
]

# Mode, epsilon, learning rate, and the least mean accuracy over the folds.
SETTINGS = [
    ("local", 1.0, 16.0, 0.315),
    ("local", 3.0, 24.0, 0.425),
    ("local", 8.0, 64.0, 0.515),
    ("distributed", 1.0, 8.0, 0.397),
    ("distributed", 3.0, 16.0, 0.509),
    ("distributed", 8.0, 32.0, 0.529),
]


def template(mode: str, epsilon: float, learning_rate: float) -> Plan:
    """The shipped plan of a mode with another budget; all units are trained on, the fold is what is scored."""
    name = {"local": "skin9.yaml", "distributed": "skin9-distributed.yaml"}[mode]
    content: dict[str, Any] = yaml.safe_load((PLANS / name).read_text(encoding="utf-8"))
    content["data"]["held_out"] = 0.0
    content["training"]["learning_rate"] = learning_rate
    content["privacy"]["epsilon"] = epsilon
    content["cohort"]["min_cohort"] = len(NAMES)
    content["metrics"]["released"] = "none"
    return parse_settings(yaml.safe_dump(content), Plan, source=name)


@pytest.fixture(scope="module")
def clean() -> list[dict[str, str]]:
    """The rows of index.csv whose images have one label."""
    return clean_rows()


@pytest.fixture(scope="module")
def table(clean: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> ImageTable:
    """All clean images."""
    folder = tmp_path_factory.mktemp("all")
    write_part(folder, clean)
    return load_table(folder, on_undecodable="refuse", unit="patient", patient_column="auto")


@pytest.fixture(scope="module")
def features(table: ImageTable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The features of all images: one pass, which takes minutes."""
    named = os.environ.get("FEDWARD_FEATURES")
    folder = Path(named) if named else tmp_path_factory.mktemp("features")
    load_units(table, template(*SETTINGS[0][:3]), device="cpu", cache=folder, on_progress=lambda _done, _total: None)
    return folder


@pytest.fixture(scope="module")
def folds(table: ImageTable, clean: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One folder per fold: `test`, and the rest dealt to five hospitals in `shards`."""
    folder = tmp_path_factory.mktemp("folds")
    fold_of = deal(table, FOLDS, seed=0)
    by_name = {record.path: fold_of[record.unit] for record in table.records}
    assert len(by_name) == len(clean) == 2202
    parts = []
    for fold in range(FOLDS):
        part = folder / f"fold-{fold}"
        chosen = [by_name[part_name(row)] == fold for row in clean]
        write_part(part / "test", [row for row, here in zip(clean, chosen, strict=True) if here])
        write_part(part / "train", [row for row, here in zip(clean, chosen, strict=True) if not here])
        split_dataset(part / "train", part / "shards", hospitals=len(NAMES), seed=0, on_undecodable="refuse")
        parts.append(part)
    return parts


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A place for federations, removed at once: thirty of them are large."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def accuracy_on(part: Path, plan: Plan, folder: Path, features: Path) -> float:
    """One whole run on four folds, and its model's score on the fifth; each site within the plan's budget."""
    places = {name: DataPlace(part / "shards" / name / "data") for name in NAMES}
    results = finished_run(plan, places, folder, spent=0.99, features=features)
    assert json.loads((results / "metrics.json").read_text(encoding="utf-8"))["privacy"]["unit"] == "lesion"
    return evaluate(results, part / "test", cache=shutil.copytree(features, folder / "features")).accuracy


@pytest.mark.parametrize(("mode", "epsilon", "learning_rate", "least"), SETTINGS)
def test_the_accuracy_is_that_of_the_design(  # noqa: PLR0913, PLR0917 -- pytest's fixtures and parameters
    mode: str, epsilon: float, learning_rate: float, least: float, folds: list[Path], features: Path, folder: Path
) -> None:
    """Mean over five folds; the noise differs in each run, by about .01 of it."""
    plan = template(mode, epsilon, learning_rate)
    scores = [accuracy_on(part, plan, folder / part.name, features) for part in folds]
    summary = f"{mode} epsilon {epsilon:g}: {np.mean(scores):.4f} sd {np.std(scores):.4f} {np.round(scores, 3)}"
    print(summary)  # noqa: T201 -- what the run is for
    assert np.mean(scores) >= least, summary


# Of a run's accuracy on one fold, over 21 runs in one process: the noise is another in each.
SD = 0.02
RUNS = 4


def test_a_deployment_learns_the_same(folds: list[Path], features: Path, folder: Path) -> None:
    """Processes, gRPC, TLS and CKKS between the hospitals; means of four runs each, within three standard errors."""
    plan, part = template("distributed", 3.0, 16.0), folds[0]
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan.model_dump(mode="json")), encoding="utf-8")
    together = [accuracy_on(part, plan, folder / f"process-{run}", features) for run in range(RUNS)]
    apart = []
    for run in range(RUNS):
        results = folder / f"results-{run}"
        source = ("--data", str(part / "train"), "--plan", str(folder / "plan.yaml"), "--seed", "0")
        done = command("fedward", "demo", *source, "--results", str(results), timeout_s=1200)
        assert done.returncode == 0, done.stderr
        (model,) = results.glob("*/model.safetensors")
        cache = shutil.copytree(features, folder / f"features-{run}")
        apart.append(evaluate(model.parent, part / "test", cache=cache).accuracy)
    summary = f"in one process {np.round(together, 3)}, deployed {np.round(apart, 3)}"
    print(summary)  # noqa: T201 -- what the run is for
    assert abs(np.mean(apart) - np.mean(together)) <= 3 * SD * np.sqrt(2 / RUNS), summary
