"""Dealing a data set: equal parts by class, a lesion never in two hospitals, all of it or nothing."""

from __future__ import annotations

import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client.data import load_table
from common.errors import AlreadyExists, DataError, OperatorError
from scripts.split import SplitReport, deal, split_dataset

SKIN9 = Path(__file__).parents[2].parent / "shared" / "data" / "skin9"


def _write_image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two classes of 23 and 12 images; the first twelve images of moles show six lesions."""
    root = tmp_path / "source"
    lines = ["path,label,lesion_id"]
    for label, count in (("mole", 23), ("wart", 12)):
        for number in range(count):
            name = f"Train/{label}/{number:02d}.png"
            _write_image(root / name, hash((label == "mole", number)) % 2**32)
            lesion = f"M{number // 2 if number < 12 else number}" if label == "mole" else ""
            lines.append(f"{name},{label},{lesion}")
    (root / "index.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    _write_image(root / "Test" / "mole" / "official.png", 5)
    return root


def _split(source: Path, target: Path, *, hospitals: int = 3, seed: int = 0) -> SplitReport:
    return split_dataset(source, target, hospitals=hospitals, seed=seed, on_undecodable="refuse")


def _owners(target: Path) -> dict[str, set[str]]:
    owners: dict[str, set[str]] = defaultdict(set)
    for hospital in sorted(target.iterdir()):
        for record in load_table(
            hospital / "data", on_undecodable="refuse", unit="patient", patient_column="auto"
        ).records:
            owners[record.unit].add(hospital.name)
    return owners


def test_every_class_is_dealt_in_equal_parts(source: Path, tmp_path: Path) -> None:
    """As the founding paper deals: image counts per class differ by no more than a lesion's images."""
    report = _split(source, tmp_path / "out")
    images = np.array([share.images for share in report.shares])
    assert images.sum(axis=0).tolist() == [23, 12]
    assert (images.max(axis=0) - images.min(axis=0)).tolist() <= [1, 0]
    totals = images.sum(axis=1)
    assert totals.max() - totals.min() <= 1


def test_no_lesion_lies_in_two_hospitals(source: Path, tmp_path: Path) -> None:
    """Else its patient would spend two budgets, and one hospital's training would know another's evaluation."""
    _split(source, tmp_path / "out")
    owners = _owners(tmp_path / "out")
    assert len(owners) == 6 + 11 + 12
    assert all(len(hospitals) == 1 for hospitals in owners.values())


def test_without_lesion_ids_lesions_are_torn_apart(source: Path, tmp_path: Path) -> None:
    """Control of the test above: the grouping comes from index.csv and from nothing else."""
    lesions = load_table(source, on_undecodable="refuse", unit="patient", patient_column="auto")
    unit_of = {record.sha256: record.unit for record in lesions.records}
    (source / "index.csv").unlink()
    report = _split(source, tmp_path / "out")
    assert report.unit_name == "image"
    owners = defaultdict(set)
    for share in report.shares:
        for record in load_table(share.data, on_undecodable="refuse", unit="patient", patient_column="auto").records:
            owners[unit_of[record.sha256]].add(share.name)
    assert any(len(hospitals) > 1 for hospitals in owners.values())


def test_a_hospitals_folder_loads_as_it_was_dealt(source: Path, tmp_path: Path) -> None:
    """The site reads the same units, labels and counts as the report states, without a warning."""
    report = _split(source, tmp_path / "out")
    for share in report.shares:
        table = load_table(share.data, report.classes, on_undecodable="refuse", unit="patient", patient_column="auto")
        assert table.images_per_class() == share.images
        labels = list(table.unit_labels().values())
        assert tuple(labels.count(index) for index in range(len(report.classes))) == share.units
        assert table.unit_name == report.unit_name == "lesion"
        assert not table.warnings
    assert report.shares[0].data == tmp_path / "out" / "hospital-1" / "data"


def test_the_official_test_folder_is_not_dealt(source: Path, tmp_path: Path) -> None:
    """It is kept for evaluation beside the held-out lesions."""
    _split(source, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("official.png"))


def test_the_seed_fixes_the_deal_and_another_seed_changes_it(source: Path, tmp_path: Path) -> None:
    """A benchmark is repeated by its seed."""
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        _split(source, tmp_path / name, seed=seed)
    assert _owners(tmp_path / "a") == _owners(tmp_path / "b")
    assert _owners(tmp_path / "a") != _owners(tmp_path / "c")


def test_a_flat_layout_is_dealt_as_well(source: Path, tmp_path: Path) -> None:
    """`<class>/*.jpg` without `Train`."""
    report = _split(source / "Train", tmp_path / "out")
    assert sum(sum(share.images) for share in report.shares) == 35


@pytest.mark.parametrize("relative", [True, False])
def test_linked_images_are_dealt_as_files(source: Path, tmp_path: Path, *, relative: bool) -> None:
    """A data set may be a folder of links; a copied link would lead nowhere, or back into the source."""
    path = source / "Train" / "mole" / "00.png"
    path.rename(tmp_path / "elsewhere.png")
    path.symlink_to(Path("../../../elsewhere.png") if relative else tmp_path / "elsewhere.png")
    _split(source, tmp_path / "out")
    (copy,) = (tmp_path / "out").glob("*/data/mole/00.png")
    assert not copy.is_symlink()
    assert copy.read_bytes() == (tmp_path / "elsewhere.png").read_bytes()


def test_a_target_with_anything_in_it_is_not_touched(source: Path, tmp_path: Path) -> None:
    """A hospital's data is never overwritten or mixed."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("x")
    with pytest.raises(AlreadyExists, match="exists and is not empty"):
        _split(source, tmp_path / "out")
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["precious"]


def test_an_empty_target_is_used(source: Path, tmp_path: Path) -> None:
    """Whoever made the folder beforehand is not punished."""
    (tmp_path / "out").mkdir()
    _split(source, tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_a_class_with_fewer_lesions_than_hospitals_is_refused_and_nothing_is_left(source: Path, tmp_path: Path) -> None:
    """Names the class, its count and the hospitals; counts lesions, not images."""
    with pytest.raises(DataError, match=r"class 'wart' has 12 usable lesions for 13 hospitals"):
        _split(source, tmp_path / "out", hospitals=13)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["source"]


def test_conflicting_copies_are_told_and_dealt_to_nobody(source: Path, tmp_path: Path) -> None:
    """They are resolved before dealing, so that two hospitals cannot hold one picture under two labels."""
    shutil.copy(source / "Train" / "mole" / "00.png", source / "Train" / "wart" / "copy.png")
    report = _split(source, tmp_path / "out")
    assert report.left_out == {"conflicting_label": 2}
    assert "1 mole = wart" in " ".join(report.warnings)
    assert not list((tmp_path / "out").rglob("copy.png"))


def test_what_lies_in_the_wrong_place_is_told(source: Path, tmp_path: Path) -> None:
    """An archive unpacked one folder too deep would otherwise be dealt as a smaller data set."""
    shutil.copytree(source / "Train" / "wart", source / "Train" / "mole" / "wart")
    (source / "Train" / "mole" / "notes.txt").write_text("x")
    report = _split(source, tmp_path / "out")
    assert report.left_out == {"in_subfolder": 12, "not_an_image": 1}
    assert "12 images in subfolders of class folders" in " ".join(report.warnings)


def test_a_cut_off_image_is_refused_or_skipped_by_choice(source: Path, tmp_path: Path) -> None:
    """Found here once, instead of at one of the hospitals later."""
    path = source / "Train" / "mole" / "00.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"Train/mole/00\.png"):
        _split(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    report = split_dataset(source, tmp_path / "out", hospitals=3, seed=0, on_undecodable="skip")
    assert report.left_out == {"undecodable": 1}
    assert "Train/mole/00.png" in " ".join(report.warnings)


def test_a_place_that_cannot_be_written_is_one_clear_error(source: Path, tmp_path: Path) -> None:
    """A file stands where a folder is needed."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OperatorError, match="cannot be written"):
        _split(source, tmp_path / "file" / "out")


def test_no_hospital_is_refused(source: Path, tmp_path: Path) -> None:
    """Zero parts hold nothing."""
    with pytest.raises(DataError, match="at least one"):
        _split(source, tmp_path / "out", hospitals=0)


@pytest.mark.skipif(not SKIN9.is_dir(), reason="the skin9 data set is not on this machine")
def test_skin9_is_dealt_evenly_by_lesion() -> None:
    """Real lesions have one to six images: parts still differ by no more than two images per class."""
    table = load_table(SKIN9, on_undecodable="refuse", unit="patient", patient_column="auto")
    assignment = deal(table, 5, seed=0)
    images = np.zeros((5, len(table.classes)), dtype=int)
    for record in table.records:
        images[assignment[record.unit], record.label_index] += 1
    assert int((images.max(axis=0) - images.min(axis=0)).max()) <= 2
    assert int(images.sum(axis=1).max() - images.sum(axis=1).min()) <= 2
