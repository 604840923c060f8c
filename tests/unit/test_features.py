"""One vector per lesion: cached by content, made of public constants, blind to the other patients."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from client.backbone import Compute, load_lite0
from client.data import ImageTable, load_table
from client.feature_cache import read_cache, write_cache
from client.features import FeatureRecipe, PooledFeatures, extract, pool
from client.lite0 import Lite0
from client.unit_features import UnitFeatures, project, random_signs, unit_features
from common.errors import DataError, LocalProtocolError, SiteStorageError

CPU = Compute(torch.device("cpu"), "float32")
RECIPE = FeatureRecipe(image_size=32, views=1, compute=CPU)


def _write_image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    grid = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(grid).resize((32, 32), Image.Resampling.BICUBIC).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of four images; images 0 and 1 show one mole."""
    root = tmp_path / "data"
    for label, start in (("mole", 0), ("wart", 10)):
        for number in range(4):
            _write_image(root / label / f"{number}.png", start + number)
    lines = [f"mole/{n}.png,mole,mole-{max(n, 1)}" for n in range(4)]
    (root / "index.csv").write_text("\n".join(("path,label,lesion_id", *lines)) + "\n", encoding="utf-8")
    return root


def _table(root: Path) -> ImageTable:
    return load_table(root, on_undecodable="refuse", unit="patient", patient_column="auto")


def _extract(root: Path, cache: Path, recipe: FeatureRecipe = RECIPE) -> PooledFeatures:
    return extract(
        _table(root), recipe, cache_dir=cache, on_progress=lambda _done, _total: None, on_undecodable="refuse"
    )


def _units(root: Path, cache: Path) -> UnitFeatures:
    return unit_features(_extract(root, cache), projection=64, seed=1)


@pytest.fixture(scope="module")
def trunk() -> Lite0:
    """The backbone in float32."""
    return load_lite0(CPU)


def test_a_second_pass_computes_nothing_and_gives_the_same(root: Path, tmp_path: Path) -> None:
    """The pass is paid once per site."""
    first, second = _extract(root, tmp_path / "cache"), _extract(root, tmp_path / "cache")
    assert (first.computed, second.computed) == (8, 0)
    assert np.array_equal(first.vectors, second.vectors)
    assert first.vectors.shape == (8, 1280)
    assert first.vectors.dtype == np.float32


def test_the_pass_forbids_tf32(root: Path, tmp_path: Path) -> None:
    """By default cuDNN allows it; hospitals with other GPUs would get other features."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    _extract(root, tmp_path / "cache")
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_a_changed_image_is_recomputed_alone(root: Path, tmp_path: Path) -> None:
    """The cache goes by content, so neither a stale vector nor a whole new pass."""
    before = _extract(root, tmp_path / "cache")
    _write_image(root / "wart" / "2.png", 999)
    after = _extract(root, tmp_path / "cache")
    assert after.computed == 1
    changed = [not np.array_equal(a, b) for a, b in zip(before.vectors, after.vectors, strict=True)]
    assert [r.path for r, c in zip(after.table.records, changed, strict=True) if c] == ["wart/2.png"]


def test_an_image_that_left_the_folder_leaves_the_cache(root: Path, tmp_path: Path) -> None:
    """A patient who withdraws must not live on in a cache file."""
    gone = {record.path: record.sha256 for record in _extract(root, tmp_path / "cache").table.records}["wart/2.png"]
    path = next((tmp_path / "cache").glob("*.npz"))
    assert gone in read_cache(path, width=1280)
    (root / "wart" / "2.png").unlink()
    _extract(root, tmp_path / "cache")
    assert gone not in read_cache(path, width=1280)


def test_another_recipe_has_another_cache_file() -> None:
    """Vectors of other views, sizes or number formats must never be mixed."""
    recipes = [
        RECIPE,
        FeatureRecipe(image_size=64, views=1, compute=CPU),
        FeatureRecipe(image_size=32, views=2, compute=CPU),
        FeatureRecipe(image_size=32, views=1, compute=Compute(torch.device("cpu"), "bfloat16")),
        FeatureRecipe(image_size=32, views=1, compute=Compute(torch.device("cuda"), "float32")),
    ]
    assert len({recipe.key() for recipe in recipes}) == len(recipes)


def test_a_damaged_cache_is_computed_anew_and_told(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A power cut may leave anything in a file; it costs a pass, never a run."""
    first = _extract(root, tmp_path / "cache")
    path = next((tmp_path / "cache").glob("*.npz"))
    path.write_bytes(path.read_bytes()[:1000])
    with caplog.at_level(logging.WARNING):
        second = _extract(root, tmp_path / "cache")
    assert second.computed == 8
    assert np.array_equal(first.vectors, second.vectors)
    assert "damaged" in caplog.text


@pytest.mark.parametrize("width", [1280, 7])
def test_a_cache_of_another_shape_is_not_used(tmp_path: Path, width: int) -> None:
    """Only vectors of the asked length are."""
    write_cache(tmp_path / "c.npz", {"ab" * 32: np.ones(1280, dtype=np.float32)})
    assert len(read_cache(tmp_path / "c.npz", width=width)) == (1 if width == 1280 else 0)


def test_a_cache_with_a_nan_is_not_used(tmp_path: Path) -> None:
    """It would silence its patient in every round."""
    write_cache(tmp_path / "c.npz", {"ab" * 32: np.full(4, np.nan, dtype=np.float32)})
    assert read_cache(tmp_path / "c.npz", width=4) == {}


def test_the_cache_is_readable_by_its_owner_only(root: Path, tmp_path: Path) -> None:
    """Features tell about patients."""
    _extract(root, tmp_path / "cache")
    path = next((tmp_path / "cache").iterdir())
    assert path.stat().st_mode & 0o077 == 0
    assert (tmp_path / "cache").stat().st_mode & 0o077 == 0


def test_a_disk_that_refuses_is_one_clear_error(root: Path, tmp_path: Path) -> None:
    """A file stands where the cache folder should be: the site stops before training."""
    (tmp_path / "cache").write_text("")
    with pytest.raises(SiteStorageError, match="feature cache cannot be written"):
        _extract(root, tmp_path / "cache")


def test_progress_rises_to_the_number_of_images(root: Path, tmp_path: Path) -> None:
    """The demo draws a bar from it."""
    for _ in range(2):
        calls: list[tuple[int, int]] = []
        extract(
            _table(root),
            RECIPE,
            cache_dir=tmp_path / "cache",
            on_progress=lambda done, total, calls=calls: calls.append((done, total)),  # type: ignore[misc]
            on_undecodable="refuse",
        )
        assert calls[-1] == (8, 8)
        assert calls == sorted(calls)


def test_a_cut_off_image_is_refused_or_skipped_by_choice(root: Path, tmp_path: Path) -> None:
    """Found while the features are computed, without a second decoding."""
    photograph = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8))
    photograph.save(root / "wart" / "cut.jpg")
    whole = (root / "wart" / "cut.jpg").read_bytes()
    (root / "wart" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"wart/cut\.jpg \(is damaged\)"):
        _extract(root, tmp_path / "cache")
    skipped = extract(
        _table(root),
        RECIPE,
        cache_dir=tmp_path / "cache",
        on_progress=lambda _done, _total: None,
        on_undecodable="skip",
    )
    assert len(skipped.table.records) == len(skipped.vectors) == 8
    assert skipped.computed == 0, "the refused pass had already saved the good ones"
    assert skipped.table.left_out == {"undecodable": 1}


def test_eight_views_do_not_depend_on_how_the_lesion_lay(trunk: Lite0) -> None:
    """The mean over all symmetries of the square is the same for a turned or mirrored image; one view's is not."""
    image = np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    turned = np.ascontiguousarray(np.rot90(image))
    mirrored = np.ascontiguousarray(image[::-1])
    eight = replace(RECIPE, views=8)
    straight = pool(trunk, image, recipe=eight)
    for other in (turned, mirrored):
        assert np.allclose(straight, pool(trunk, other, recipe=eight), atol=1e-4)
        assert not np.allclose(pool(trunk, image, recipe=RECIPE), pool(trunk, other, recipe=RECIPE), atol=1e-2)


def test_units_are_rows_of_norm_one_with_one_label_each(root: Path, tmp_path: Path) -> None:
    """Seven units of eight images, in sorted order: the linear head's clipping relies on the norm."""
    features = _units(root, tmp_path / "cache")
    assert features.x.shape == (7, 64)
    assert features.x.dtype == np.float32
    assert features.y.dtype == np.int64
    assert list(features.units) == sorted(features.units)
    assert np.allclose(np.linalg.norm(features.x, axis=1), 1, atol=1e-6)
    labels = dict(zip(features.units, features.y, strict=True))
    assert all(labels[unit] == 0 for unit in features.units if unit.startswith("lesion:mole"))
    assert sum(labels.values()) == 4


@pytest.mark.parametrize(("precision", "views"), [("float32", 1), ("bfloat16", 3)])
def test_a_units_vector_does_not_depend_on_other_patients(
    tmp_path: Path, precision: Literal["float32", "bfloat16"], views: int
) -> None:
    """The privacy proof needs it to the last bit: whoever else is there, each in a folder and a cache of its own."""
    recipe = FeatureRecipe(image_size=64, views=views, compute=Compute(torch.device("cpu"), precision))
    rows: dict[str, list[bytes]] = {}
    for number, others in enumerate([(), (1,), (2, 3), range(1, 8)]):
        root = tmp_path / f"data-{number}"
        for image in (0, *others):
            _write_image(root / "mole" / f"{image}.png", image)
        pooled = _extract(root, tmp_path / f"cache-{number}", recipe)
        assert pooled.computed == 1 + len(others), "a shared cache would make this test blind"
        features = unit_features(pooled, projection=64, seed=1)
        for unit, row in zip(features.units, features.x, strict=True):
            rows.setdefault(unit, []).append(row.tobytes())
    seen = [len(copies) for copies in rows.values()]
    assert len(seen) == 8
    assert max(seen) == 4
    assert all(len(set(copies)) == 1 for copies in rows.values())


def test_a_batch_of_several_patients_would_not_do(trunk: Lite0) -> None:
    """Control: through one batch the same image's vector does change with the number of others, in some kernel."""
    images = np.random.default_rng(4).integers(0, 256, (24, 3, 64, 64)).astype(np.float32)
    batch = torch.from_numpy((images - 127) / 128).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        sizes = [trunk(batch[:size])[0].numpy() for size in (1, 2, 3, 8, 24)]
    if all(np.array_equal(sizes[0], other) for other in sizes):
        pytest.skip("this machine's kernels sum in one order for every batch size")
    assert max(float(np.abs(sizes[0] - other).max()) for other in sizes) < 1e-3


def test_a_units_vector_is_that_of_the_mean_of_its_images(root: Path, tmp_path: Path) -> None:
    """Two images of a lesion share one row; it is neither image's own."""
    pooled = _extract(root, tmp_path / "cache")
    unit = "lesion:mole-1"
    rows = [n for n, record in enumerate(pooled.table.records) if record.unit == unit]
    assert len(rows) == 2
    joint = unit_features(pooled, projection=64, seed=1)
    mixed = pooled.vectors.copy()
    mixed[rows] = mixed[rows].mean(axis=0)
    same = unit_features(PooledFeatures(pooled.table, mixed, 0), projection=64, seed=1)
    assert np.allclose(joint.x, same.x, atol=1e-6)
    mixed[rows] = pooled.vectors[rows[0]]
    other = unit_features(PooledFeatures(pooled.table, mixed, 0), projection=64, seed=1)
    row = joint.units.index(unit)
    assert not np.allclose(joint.x[row], other.x[row], atol=1e-3)


def test_the_projection_is_exact_so_no_row_depends_on_the_number_of_rows() -> None:
    """Against whole numbers in Python; the control shows that a plain product of float64 does round."""
    rows = np.random.default_rng(6).normal(size=(300, 1280))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    signs = random_signs(64, 1)
    columns = [[int(sign) for sign in column] for column in signs.T]
    for count in (1, 2, 3, 64, 300):
        seen = project(rows[:count], width=64, seed=1)[count - 1]
        whole = [round(float(value) * 2**40) for value in rows[count - 1]]
        due = [sum(n * sign for n, sign in zip(whole, column, strict=True)) for column in columns]
        assert seen.tolist() == due
        assert (rows[:count] @ signs * 2**40)[count - 1].tolist() != due
        np.testing.assert_allclose(seen / 2**40, rows[count - 1] @ signs, atol=1e-9)


def _philox_words(key: int, count: int) -> list[int]:
    """Philox4x64-10 as published (Salmon et al., 2011), counter from 1; written out here as the oracle."""
    mask = 2**64 - 1
    words: list[int] = []
    counter = 1
    while len(words) < count:
        x = [(counter >> (64 * n)) & mask for n in range(4)]
        k0, k1 = key & mask, key >> 64
        for _ in range(10):
            p0, p1 = 0xD2E7470EE14C6C93 * x[0], 0xCA5A826395121157 * x[2]
            x = [(p1 >> 64) ^ x[1] ^ k0, p1 & mask, (p0 >> 64) ^ x[3] ^ k1, p0 & mask]
            k0, k1 = (k0 + 0x9E3779B97F4A7C15) & mask, (k1 + 0xBB67AE8584CAA73B) & mask
        words += x
        counter += 1
    return words[:count]


@pytest.mark.parametrize(("seed", "width"), [(0, 8), (7, 5), (2**127 + 3, 1)])
def test_the_projection_is_the_same_on_every_machine(seed: int, width: int) -> None:
    """Against the generator's published definition: hospitals with other numpy versions train in the same space."""
    words = _philox_words(seed, -(-1280 * width // 64))
    signs = np.array([1.0 if (words[n // 64] >> (n % 64)) & 1 else -1.0 for n in range(1280 * width)])
    assert np.array_equal(random_signs(width, seed), signs.reshape(1280, width))


def test_the_projection_keeps_angles() -> None:
    """Johnson and Lindenstrauss: at 512 dimensions an inner product of unit vectors is off by about .04."""
    vectors: NDArray[np.float64] = np.random.default_rng(5).normal(size=(20, 1280))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    projected = vectors @ random_signs(512, 3) / np.sqrt(512)
    assert float(np.abs(projected @ projected.T - vectors @ vectors.T).max()) < 0.25
    assert not np.array_equal(random_signs(512, 3), random_signs(512, 4))


@pytest.mark.parametrize(("width", "seed"), [(0, 1), (1281, 1), (8, -1), (8, 2**128)])
def test_a_senseless_projection_is_refused(width: int, seed: int) -> None:
    """The plan's bounds are checked where they matter, too."""
    with pytest.raises(LocalProtocolError, match="projection"):
        random_signs(width, seed)


@pytest.mark.parametrize(("image_size", "views"), [(31, 1), (64, 0), (64, 9)])
def test_a_senseless_recipe_is_refused(image_size: int, views: int) -> None:
    """Nine views of a square would count one twice."""
    with pytest.raises(LocalProtocolError, match="views"):
        FeatureRecipe(image_size=image_size, views=views, compute=CPU)
