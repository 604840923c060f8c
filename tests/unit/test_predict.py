"""`fedward predict`: what a finished model says of images and rows without labels, told with a word of warning."""

from __future__ import annotations

import csv
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from typer.testing import CliRunner

from client.data.source import DataPlace, read_data
from client.learner import plan_model
from client.model import named_tensors, trainable_vector
from client.unit_data import load_units
from common.canonical import canonical_bytes
from common.config import parse_settings
from common.errors import AlreadyExists, ConfigError, DataError
from common.plan import Plan
from common.plan_data import SurvivalData
from scripts.cli import app
from scripts.row_files import write_rows
from scripts.synthetic_rows import draw_rows
from tests.support.small_federation import TEMPLATE, write_images
from tests.unit.test_demo_rows import survival, table


def finished(folder: Path, changes: dict[str, Any], *, seed: int = 0) -> tuple[Path, Plan]:
    """A results folder with drawn weights."""
    plan = parse_settings(yaml.safe_dump(TEMPLATE | changes), Plan, source="test")
    model = plan_model(plan)
    weights = np.random.default_rng(seed).normal(size=trainable_vector(model).size)
    results = folder / "results"
    results.mkdir()
    (results / "plan.yaml").write_text(yaml.safe_dump(plan.model_dump(mode="json")))
    metadata = {"fedward": canonical_bytes({"classes": list(plan.data.classes)}).decode()}
    save_file(named_tensors(model, weights), results / "model.safetensors", metadata=metadata)
    return results, plan


def said(*arguments: object) -> str:
    """What the command prints."""
    return CliRunner().invoke(app, ["predict", *map(str, arguments)], catch_exceptions=False).output


def lines(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_rows_are_told_apart_without_labels(tmp_path: Path) -> None:
    """The probabilities are the softmax of the model's outputs, which torch computes here; a control has labels."""
    rows = draw_rows(table(), 40, seed=1)
    place = write_rows(tmp_path / "rows", rows, table())
    results, plan = finished(tmp_path, {"data": table().model_dump(mode="json"), "model": {"kind": "linear"}})
    assert place.mapping is not None
    mapping = yaml.safe_load(place.mapping.read_text())
    known = read_data(place, plan.data, unit="record")
    del mapping["label"]
    place.mapping.write_text(yaml.safe_dump(mapping))
    text = place.path.read_text().splitlines()
    place.path.write_text("\n".join(line.rsplit(",", 1)[0] for line in text))
    output = said(results, place.path, "--mapping", place.mapping, "--out", tmp_path / "out.csv")
    assert "40 predictions" in output
    assert "no medical device" in output
    found = lines(tmp_path / "out.csv")
    assert [line["record"] for line in found] == [f"rows.csv line {number}" for number in range(2, 42)]
    weights = torch.from_numpy(np.random.default_rng(0).normal(size=2 * known.rows.shape[1]))  # type: ignore[attr-defined]
    inputs = torch.from_numpy(known.rows)  # type: ignore[attr-defined]
    due = torch.softmax(inputs @ weights.view(2, -1).T, dim=1)
    np.testing.assert_allclose([[float(line[c]) for c in ("ill", "well")] for line in found], due, atol=2e-4)
    assert all(line["prediction"] == max(("ill", "well"), key=lambda c: float(line[c])) for line in found)
    with pytest.raises(ConfigError, match="seen no label"):
        read_data(place, plan.data, unit="record")
    assert stat.S_IMODE((tmp_path / "out.csv").stat().st_mode) == 0o600


def test_events_by_each_time_are_those_of_the_hazards(tmp_path: Path) -> None:
    """1 - exp(-integral of the hazard), integrated here by small steps."""
    place = write_rows(tmp_path / "rows", draw_rows(survival(), 20, seed=1), survival())
    content = {"data": survival().model_dump(mode="json"), "model": {"kind": "cox"}, "metrics": {"released": "none"}}
    results, plan = finished(tmp_path, content)
    said(results, place.path, "--mapping", place.mapping, "--out", tmp_path / "out.csv")
    assert isinstance(plan.data, SurvivalData)
    data, _ = load_units(
        read_data(place, plan.data, unit="record"), plan, device="cpu", cache=tmp_path, on_progress=lambda *_: None
    )
    model = plan_model(plan)
    model.load_state_dict(named_tensors(model, np.random.default_rng(0).normal(size=trainable_vector(model).size)))
    hazards = model(data.to_score(np.zeros(0))[list(range(20))]).exp().detach().double().numpy()
    first, last = plan.data.cuts
    times = np.arange(0, last, 0.5) + 0.25
    of_interval = np.where(times < first, 0, 1)
    found = lines(tmp_path / "out.csv")
    told = sorted((float(line["event_by_100_d"]), float(line["event_by_365_d"])) for line in found)
    due = []
    for row in hazards:
        steps = row[of_interval] * 0.5 / last
        due.append((1 - np.exp(-steps[times < first].sum()), 1 - np.exp(-steps.sum())))
    np.testing.assert_allclose(told, sorted(due), atol=2e-4)


def test_images_anywhere_below_a_folder_are_told(tmp_path: Path) -> None:
    """Equal files get equal lines; one that is no image is counted, and stops nothing."""
    results, plan = finished(tmp_path, {})
    write_images(tmp_path / "images", per_class=2, seed=0)
    first = min((tmp_path / "images").glob("*/*.png"))
    (tmp_path / "images" / "again.png").write_bytes(first.read_bytes())
    (tmp_path / "images" / "broken.png").write_bytes(b"no image")
    output = said(results, tmp_path / "images", "--out", tmp_path / "out.csv")
    assert "left out: 1 undecodable" in output
    found = {line.pop("record"): line for line in lines(tmp_path / "out.csv")}
    assert len(found) == 2 * len(plan.data.classes) + 1
    assert found["again.png"] == found[first.relative_to(tmp_path / "images").as_posix()]
    sums = [sum(float(line[name]) for name in plan.data.classes) for line in found.values()]
    np.testing.assert_allclose(sums, 1.0, atol=1e-3)
    said(results, first, "--out", tmp_path / "one.csv")
    assert lines(tmp_path / "one.csv")[0]["prediction"] == found["again.png"]["prediction"]


def test_a_mistake_is_one_sentence_and_nothing_is_written(tmp_path: Path) -> None:
    """An earlier file stays as it is."""
    results, _ = finished(tmp_path, {})
    with pytest.raises(DataError, match="there is no such file or folder"):
        said(results, tmp_path / "absent", "--out", tmp_path / "out.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no \.jpg"):
        said(results, tmp_path / "empty", "--out", tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()
    (tmp_path / "out.csv").write_text("mine")
    with pytest.raises(AlreadyExists, match="is there already"):
        said(results, tmp_path / "empty", "--out", tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == "mine"


def test_the_place_of_rows_says_how_they_are_read(tmp_path: Path) -> None:
    """Images need no mapping, rows do."""
    place = write_rows(tmp_path / "rows", draw_rows(table(), 20, seed=1), table())
    results, _ = finished(tmp_path, {"data": table().model_dump(mode="json"), "model": {"kind": "linear"}})
    with pytest.raises(ConfigError, match="mapping: seen none"):
        said(results, place.path, "--out", tmp_path / "out.csv")
    assert DataPlace(place.path).mapping is None
