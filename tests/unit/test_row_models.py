"""Logistic regression, perceptrons and proportional hazards from a site's file of rows to a private step."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from torch import Tensor

from client.clipped_sum import choose_clipped_sum
from client.data.connector import Connector
from client.data.rows import RawRow, Reading
from client.evaluate import hazard_concordance
from client.head_sum import HeadSum
from client.learner import Learner, load_learner, plan_layout
from client.model import load_vector, trainable_vector
from common.config import Settings, parse_settings
from common.plan import Plan
from common.plan_data import GenotypeData, RowData, SurvivalData, TableData
from common.plan_expression import ExpressionData
from common.site_config import SiteConfig, load_site
from tests.support.small_federation import NAMES, TEMPLATE, provision_small

PATIENTS = 120
HELD_OUT = {"held_out": 0.3, "held_out_salt": "salt"}
NUMBER = {"kind": "number", "unit": "1", "low": -1.0, "high": 1.0, "missing": "flag"}
FEATURES = [{**NUMBER, "name": "a"}, {**NUMBER, "name": "b"}]
TABLE = {"kind": "table", "classes": ["no", "yes"], **HELD_OUT, "features": FEATURES}
BASES = {"chromosome": "1", "reference": "A", "alternate": "C"}
GENOTYPES = {
    "kind": "genotypes",
    "classes": ["no", "yes"],
    **HELD_OUT,
    "assembly": "GRCh38",
    "variants": [{"id": "rs1", "position": 1, **BASES}, {"id": "rs2", "position": 2, **BASES}],
}
EXPRESSION = {
    "kind": "expression",
    "classes": ["no", "yes"],
    **HELD_OUT,
    "genes": ["a", "b"],
    "scale": "log2_ratio",
    "low": -1.0,
    "high": 1.0,
    "decimals": 3,
    "missing": "flag",
}
SURVIVAL = {"kind": "survival", **HELD_OUT, "features": FEATURES, "time_unit": "mo", "cuts": [3.0, 6.0, 12.0]}
MLP = {"kind": "mlp", "hidden": [8], "seed": 1}
NO_MEAN = np.zeros(0)


class DrawnMapping(Settings):
    """A mapping file of drawn rows."""

    form: Literal["drawn"]


def draw_rows(path: Path, data: RowData, _mapping: DrawnMapping) -> Reading:
    """Patients whose class, and time, hang on the first feature; the seed stands in the file."""
    random = np.random.default_rng(int(path.read_text()))
    reading = Reading()
    for number in range(PATIENTS):
        first, second = random.uniform(-1, 1, 2)
        label = "yes" if first > 0.1 * second else "no"
        values: dict[str, float | str | None] = {"a": first, "b": second if number % 7 else None}
        if isinstance(data, GenotypeData):
            values = {"rs1": 2.0 * (first > 0), "rs2": float(number % 3)}
            label = "yes" if first > 0 else "no"
        if isinstance(data, SurvivalData):
            died, seen_until = random.exponential(6 * np.exp(-2 * first)), random.uniform(2, 15)
            row = RawRow(f"row {number}", str(number), values, time=min(died, seen_until), event=died <= seen_until)
        else:
            row = RawRow(f"row {number}", str(number), values, label)
        reading.rows.append(row)
    return reading


DRAWN = Connector(
    "drawn",
    (TableData, GenotypeData, SurvivalData, ExpressionData),
    DrawnMapping,
    draw_rows,
    lambda _: "patient",
    lambda _: True,
)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hospitals, of another plan."""
    folder = tmp_path_factory.mktemp("federation")
    provision_small(folder, parse_settings(yaml.safe_dump(TEMPLATE), Plan, source="small plan"))
    return folder / "federation" / NAMES[0]


def loaded(
    home: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, data: dict[str, Any], model: dict[str, Any]
) -> tuple[Learner, Plan]:
    """The site's own loading code on drawn rows."""
    monkeypatch.setattr("client.data.registry.CONNECTORS", (DRAWN,))
    (folder / "rows.txt").write_text("5")
    (folder / "mapping.yaml").write_text("form: drawn\n")
    base: SiteConfig = load_site(home / f"{NAMES[0]}.yaml")
    old = parse_settings(base.plan.read_text(), Plan, source="plan")
    content = old.model_dump(mode="json") | {"data": data, "model": model}
    content["privacy"]["unit"] = "patient"
    content["training"] |= {"local_steps": 40, "learning_rate": 4.0, "momentum": 0.5}
    content["metrics"]["released"] = "confusion" if "classes" in data else "none"
    template = parse_settings(yaml.safe_dump(content), Plan, source="plan")
    content["federation"]["trainable_parameters"] = trainable_vector(plan_layout(template)).size
    plan = parse_settings(yaml.safe_dump(content), Plan, source="plan")
    config = base.model_copy(
        update={"data": folder / "rows.txt", "mapping": folder / "mapping.yaml", "state": folder / "state"}
    )
    learner, unit = load_learner(config, plan, on_progress=lambda *_: None)
    assert unit == "patient"
    return learner, plan


def accuracy(counts: NDArray[np.int64]) -> float:
    """Share of held-out patients that were told right."""
    return float(np.trace(counts) / counts.sum())


@pytest.mark.parametrize(
    ("data", "model"),
    [
        (TABLE, {"kind": "linear"}),
        (TABLE, MLP),
        (GENOTYPES, {"kind": "linear"}),
        (GENOTYPES, MLP),
        (EXPRESSION, {"kind": "linear"}),
        (EXPRESSION, MLP),
    ],
    ids=["table linear", "table mlp", "genotypes linear", "genotypes mlp", "expression linear", "expression mlp"],
)
def test_a_model_of_classes_learns(
    data: dict[str, Any], model: dict[str, Any], federation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With little noise it tells held-out patients apart; a linear one by the closed form."""
    learner, _ = loaded(federation, tmp_path, monkeypatch, data, model)
    assert learner.training_units + learner.held_out_units == PATIENTS
    sums = choose_clipped_sum(learner._model, learner._train.x, learner._train.y, clip=1.0)
    assert isinstance(sums, HeadSum) == (model["kind"] == "linear")
    moved = learner.train(learner.initial, feature_mean=NO_MEAN, sigma=0.01)
    counts = learner.confusion(learner.initial + moved, feature_mean=NO_MEAN)
    assert int(counts.sum()) == learner.held_out_units
    before = accuracy(learner.confusion(learner.initial, feature_mean=NO_MEAN))
    assert accuracy(counts) > max(0.85, before + 0.1)


def test_a_model_of_hazards_learns(federation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proportional hazards rank held-out patients; a plan on survival data releases no counts."""
    learner, plan = loaded(federation, tmp_path, monkeypatch, SURVIVAL, {"kind": "cox"})
    assert plan.metric_slots == 0
    assert learner._train.y.shape == (learner.training_units, 2)
    moved = learner.train(learner.initial, feature_mean=NO_MEAN, sigma=0.01)
    held_out = learner._evaluation
    rows = held_out.to_score(NO_MEAN)
    assert isinstance(rows, Tensor)
    scores = []
    for parameters in (learner.initial, learner.initial + moved):
        load_vector(learner._model, parameters)
        scores.append(hazard_concordance(learner._model, rows.double(), held_out.y))
    assert scores[0] == 0.5
    assert scores[1] > 0.65


@pytest.mark.parametrize("model", [{"kind": "linear"}, MLP], ids=["linear", "mlp"])
def test_a_patients_part_of_a_sum_is_its_own(
    model: dict[str, Any], federation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit of a perceptron's, and to the one rounding of the closed form's."""
    learner, _ = loaded(federation, tmp_path, monkeypatch, TABLE, model)
    sums = choose_clipped_sum(learner._model, learner._train.x, learner._train.y, clip=0.1)
    everybody = list(range(learner.training_units))
    apart = sums([3]) + sums([unit for unit in everybody if unit != 3])
    assert np.abs(sums(everybody) - apart).max() <= (1.5 if model["kind"] == "linear" else 0)
    assert np.linalg.norm(sums([3]) * 2.0**-44) <= 1 + 1e-9
