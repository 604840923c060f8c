"""How well the product learns skin9 with a network of timm or torchvision from a local weights file.

`pytest -s -m slow tests/e2e/test_network_accuracy.py`: some minutes. The sites' own code with a coordinator in one
process. What is shown is that the whole way from a file to a trained model works on real images, and learns; small
images, one view and no choice of settings keep it short, so the numbers are no measure of the product.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
import yaml
from safetensors.torch import load_file

from client.data.source import DataPlace
from client.network import trained_part
from common.config import parse_settings
from common.plan import Plan
from common.plan_models import NetworkModel
from scripts.evaluate import Score, evaluate
from scripts.split import split_dataset
from tests.support.published_networks import TIMM_LITE0, save_weights, timm_lite0_state
from tests.support.skin9_parts import SKIN9, clean_rows, write_part
from tests.support.whole_runs import finished_run

PLANS = Path(__file__).parents[2] / "configs" / "plans"
NAMES = tuple(f"hospital-{k}" for k in range(1, 4))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not SKIN9.is_dir(), reason="the skin9 data set is not here"),
]


@dataclass(frozen=True, slots=True)
class Parts:
    """Real images: seven lesions of ten at the hospitals, two others to score."""

    places: Mapping[str, DataPlace]
    test: Path


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """Dealt by lesion; an image without one is its own."""
    folder = tmp_path_factory.mktemp("skin9")
    tenths: list[list[dict[str, str]]] = [[] for _ in range(10)]
    for row in clean_rows():
        tenths[zlib.crc32((row["lesion_id"] or row["path"]).encode()) % 10].append(row)
    write_part(folder / "test", tenths[0] + tenths[9])
    write_part(folder / "train", [row for tenth in tenths[1:8] for row in tenth])
    split_dataset(folder / "train", folder / "shards", hospitals=len(NAMES), seed=0, on_undecodable="refuse")
    return Parts({name: DataPlace(folder / "shards" / name / "data") for name in NAMES}, folder / "test")


def plan_of(model: dict[str, Any], **changes: dict[str, Any]) -> Plan:
    """The shipped plan of skin9 with a network."""
    content: dict[str, Any] = yaml.safe_load((PLANS / "skin9.yaml").read_text(encoding="utf-8"))
    content["model"] = {"kind": "network", "views": 1, "std": [0.5, 0.5, 0.5], "mean": [0.5, 0.5, 0.5], **model}
    content["data"]["held_out"] = 0.0
    content["privacy"]["mean_share"] = 0.0
    content["cohort"]["min_cohort"] = len(NAMES)
    content["metrics"]["released"] = "none"
    for section, values in changes.items():
        content[section] |= values
    return parse_settings(yaml.safe_dump(content), Plan, source="network")


def scored(plan: Plan, parts: Parts, folder: Path, weights: Path) -> tuple[Path, Score]:
    """One whole run at three hospitals, and its model's score."""
    results = finished_run(plan, parts.places, folder, spent=0.9, weights=weights)
    return results, evaluate(results, parts.test, weights=weights)


@pytest.fixture(scope="module")
def lite0(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A local file of timm's EfficientNet-Lite0 with ImageNet's weights, and the plan's section that names it."""
    pytest.importorskip("timm", reason="timm is not installed")
    path = tmp_path_factory.mktemp("weights") / "tf_efficientnet_lite0.safetensors"
    digest = save_weights(timm_lite0_state(), path)
    return path, {"architecture": TIMM_LITE0, "weights_sha256": digest, "image_size": 96}


# What is trained, changes of the shipped plan's training, and the least accuracy.
SETTINGS: list[tuple[str, dict[str, Any], float]] = [
    ("head", {}, 0.36),
    ("last:1", {"rounds": 6, "learning_rate": 1.0}, 0.36),
]


@pytest.mark.parametrize(("trainable", "training", "least"), SETTINGS)
def test_timms_network_learns_from_a_local_file(  # noqa: PLR0913, PLR0917 -- pytest's fixtures and parameters
    trainable: str,
    training: dict[str, Any],
    least: float,
    lite0: tuple[Path, dict[str, Any]],
    parts: Parts,
    tmp_path: Path,
) -> None:
    """Epsilon 8, as the shipped plan has it; guessing the most frequent class is the control."""
    weights, model = lite0
    plan = plan_of({**model, "trainable": trainable}, training=training)
    _, score = scored(plan, parts, tmp_path / "run", weights)
    most_frequent = int(score.confusion.sum(axis=1).max()) / score.units
    summary = f"{trainable}: {score.accuracy:.3f} of {score.units} units, the most frequent class {most_frequent:.3f}"
    print(summary)  # noqa: T201 -- what the run is for
    assert score.accuracy >= least > most_frequent + 0.1, summary


def test_a_network_of_torchvision_is_trained_with_its_batchnorms_as_constants(parts: Parts, tmp_path: Path) -> None:
    """Its last block, from a file of random weights: what leaves a hospital has no statistics, and all of it moves."""
    torch.manual_seed(0)
    weights = tmp_path / "shufflenet.safetensors"
    digest = save_weights(torchvision.models.get_model("shufflenet_v2_x0_5").state_dict(), weights)
    plan = plan_of(
        {
            "architecture": "torchvision:shufflenet_v2_x0_5",
            "weights_sha256": digest,
            "trainable": "last:1",
            "image_size": 32,
        },
        training={"rounds": 1, "local_steps": 1, "learning_rate": 1.0},
    )
    results, score = scored(plan, parts, tmp_path / "run", weights)
    assert isinstance(plan.model, NetworkModel)
    initial = trained_part(plan.model, classes=len(plan.data.classes), weights=weights).state_dict()
    trained = load_file(results / "model.safetensors")
    assert trained.keys() == initial.keys()
    assert not any(name.endswith(("running_mean", "running_var")) for name in trained)
    assert all((trained[name] - tensor).abs().max() > 0 for name, tensor in initial.items())
    assert score.units == int(score.confusion.sum()) > 0
