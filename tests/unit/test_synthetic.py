"""The synthetic lesions: honest, seeded, and a task that can be learnt but not by chance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from client.backbone import Compute
from client.data import load_table
from client.features import FeatureRecipe, extract
from client.unit_features import unit_features
from common.errors import AlreadyExists, OperatorError
from scripts.synthetic import CLASSES, draw, is_synthetic, write_synthetic


def test_the_folder_reads_as_nine_classes_with_some_lesions_of_two_images(tmp_path: Path) -> None:
    """Grouping by lesion has something to do, and the loader has nothing to complain of."""
    write_synthetic(tmp_path / "set", images_per_class=14, seed=0)
    table = load_table(tmp_path / "set", CLASSES, on_undecodable="refuse", unit="patient", patient_column="auto")
    assert table.images_per_class() == (14,) * 9
    assert sorted(table.unit_labels().values()) == sorted([*range(9)] * 12)
    assert table.unit_name == "lesion"
    assert not table.warnings
    with Image.open(tmp_path / "set" / table.records[0].path) as image:
        assert image.size == (180, 180)


def test_the_set_says_that_it_is_synthetic(tmp_path: Path) -> None:
    """In a marker file, in every file's name and in every lesion's id."""
    write_synthetic(tmp_path / "set", images_per_class=1, seed=0)
    assert is_synthetic(tmp_path / "set")
    assert not is_synthetic(tmp_path)
    assert "No patient" in (tmp_path / "set" / "SYNTHETIC.txt").read_text(encoding="utf-8")
    assert all(path.name.startswith("synthetic_") for path in (tmp_path / "set" / "Train").rglob("*.jpg"))
    table = load_table(tmp_path / "set", on_undecodable="refuse", unit="patient", patient_column="auto")
    assert all(record.unit.startswith("lesion:synthetic-") for record in table.records)


def test_the_seed_fixes_every_pixel(tmp_path: Path) -> None:
    """A demo is repeated by its seed."""
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_synthetic(tmp_path / name, images_per_class=1, seed=seed)
    a, b, c = (
        {path.name + path.parent.name: path.read_bytes() for path in sorted((tmp_path / name).rglob("*.jpg"))}
        for name in "abc"
    )
    assert a == b
    assert all(a[name] != c[name] for name in a)


def test_two_images_of_a_lesion_show_one_shape_on_another_photograph() -> None:
    """They are alike but not copies: else the loader would drop one."""
    first = draw("nevus", np.random.default_rng(1), np.random.default_rng(2))
    second = draw("nevus", np.random.default_rng(1), np.random.default_rng(3))
    assert first.shape == (180, 180, 3)
    assert first.dtype == np.uint8
    assert not np.array_equal(first, second)
    assert np.array_equal(first, draw("nevus", np.random.default_rng(1), np.random.default_rng(2)))


def test_a_folder_with_anything_in_it_is_not_touched(tmp_path: Path) -> None:
    """Synthetic images must never be mixed with real ones."""
    (tmp_path / "real.jpg").write_bytes(b"x")
    with pytest.raises(AlreadyExists, match="not empty"):
        write_synthetic(tmp_path, images_per_class=1, seed=0)
    assert [entry.name for entry in tmp_path.iterdir()] == ["real.jpg"]


@pytest.mark.parametrize(("count", "seed"), [(0, 0), (10_000, 0), (1, -1)])
def test_senseless_numbers_are_refused(tmp_path: Path, count: int, seed: int) -> None:
    """One sentence, nothing written."""
    with pytest.raises(OperatorError, match="allowed"):
        write_synthetic(tmp_path / "set", images_per_class=count, seed=seed)
    assert not list(tmp_path.iterdir())


def test_classes_can_be_told_apart_by_the_demos_features(tmp_path: Path) -> None:
    """Nearest class mean on half of the lesions: far above chance (1 in 9), far from trivial."""
    write_synthetic(tmp_path / "set", images_per_class=14, seed=1)
    table = load_table(tmp_path / "set", CLASSES, on_undecodable="refuse", unit="patient", patient_column="auto")
    recipe = FeatureRecipe(image_size=96, views=1, compute=Compute(torch.device("cpu"), "float32"))
    pooled = extract(
        table, recipe, cache_dir=tmp_path / "cache", on_progress=lambda _done, _total: None, on_undecodable="refuse"
    )
    features = unit_features(pooled, projection=512, seed=0)
    known = np.arange(len(features.units)) % 2 == 0
    means = np.stack([features.x[known & (features.y == label)].mean(axis=0) for label in range(9)])
    guesses = (features.x[~known] @ (means - means.mean(axis=0)).T).argmax(axis=1)
    assert 0.3 < float((guesses == features.y[~known]).mean()) < 0.99
