"""What a hospital's image folder becomes, and the one clear error that each kind of wrong folder gets."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client.data import load_table
from client.data.table import ImageTable
from common.errors import DataError

SKIN9 = Path(__file__).parents[2].parent / "shared" / "data" / "skin9"


def _write_image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def _write_index(root: Path, header: str, *lines: str) -> None:
    (root / "index.csv").write_text("\n".join((header, *lines)) + "\n", encoding="utf-8")


def _load(root: Path, classes: tuple[str, ...] | None = None) -> ImageTable:
    return load_table(root, classes, on_undecodable="refuse", unit="patient", patient_column="auto")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of three images."""
    for label, start in (("mole", 0), ("wart", 10)):
        for number in range(3):
            _write_image(tmp_path / label / f"{number}.png", start + number)
    return tmp_path


def test_images_are_listed_by_class_and_count_as_units_of_their_own(root: Path) -> None:
    """Without an index.csv nothing is known about lesions: the unit is the image, and says so."""
    table = _load(root)
    assert table.classes == ("mole", "wart")
    assert table.images_per_class() == (3, 3)
    assert sorted(table.unit_labels().values()) == [0, 0, 0, 1, 1, 1]
    assert table.unit_name == "image"
    assert not table.warnings
    assert not table.left_out
    assert [record.path for record in table.records][:2] == ["mole/0.png", "mole/1.png"]


def test_the_train_folder_is_found_and_the_test_folder_left_alone(root: Path, tmp_path: Path) -> None:
    """Both layouts of the issue: `Train/<class>` and `<class>`."""
    source = tmp_path / "set"
    for part in ("Train", "Test"):
        shutil.copytree(root / "mole", source / part / "mole")
    _write_image(source / "Test" / "mole" / "only-in-test.jpg", 99)
    assert _load(source).images_per_class() == (3,)
    official = load_table(source, on_undecodable="refuse", unit="patient", patient_column="auto", folder="Test")
    assert official.images_per_class() == (4,)


def test_a_hospital_may_have_no_image_of_a_class(root: Path) -> None:
    """The plan names the classes; label indices follow the plan's order, not the folders'."""
    table = _load(root, ("wart", "freckle", "mole"))
    assert table.images_per_class() == (3, 0, 3)
    assert {record.label_index for record in table.records if record.path.startswith("wart")} == {0}


def test_images_of_a_lesion_are_one_unit_and_blank_ids_fall_back(root: Path) -> None:
    """A lesion with several images must not count several times; a blank lesion id falls back on isic_id."""
    _write_index(
        root,
        "path,label,lesion_id,isic_id",
        "mole/0.png,mole,L1,I0",
        "mole/1.png,mole,L1,I1",
        "mole/2.png,mole,,I2",
        "wart/0.png,wart,,",
    )
    table = _load(root)
    units = {record.path: record.unit for record in table.records}
    assert units["mole/0.png"] == units["mole/1.png"] == "lesion:L1"
    assert units["mole/2.png"] == "isic:I2"
    assert units["wart/0.png"].startswith("sha256:")
    assert table.unit_name == "lesion"
    assert any("2 images are not in index.csv" in warning for warning in table.warnings)


def test_the_record_unit_ignores_lesions_only_when_asked_for(root: Path) -> None:
    """`unit: record` is weaker; it must never be what the default gives."""
    _write_index(root, "path,label,lesion_id", *(f"mole/{n}.png,mole,L1" for n in range(3)))
    by_record = load_table(root, on_undecodable="refuse", unit="record", patient_column="auto")
    assert sorted(by_record.unit_labels().values()) == [0, 0, 0, 1, 1, 1]
    assert by_record.unit_name == "image"
    assert sorted(_load(root).unit_labels().values()) == [0, 1, 1, 1]


def test_a_lesion_with_two_labels_gets_the_label_of_most_of_its_images(root: Path) -> None:
    """Otherwise one patient would be two samples."""
    _write_index(root, "path,label,lesion_id", "mole/0.png,mole,L", "wart/0.png,wart,L", "wart/1.png,wart,L")
    table = _load(root)
    assert {record.label_index for record in table.records if record.unit == "lesion:L"} == {1}
    assert any("1 lesion carries more than one label" in warning for warning in table.warnings)


def test_a_tie_between_labels_goes_to_the_first_by_name(root: Path) -> None:
    """All hospitals and all runs must decide alike."""
    _write_index(root, "path,label,lesion_id", "mole/0.png,mole,L", "wart/0.png,wart,L")
    assert _load(root).unit_labels()["lesion:L"] == 0


def test_copies_with_conflicting_labels_are_left_out_with_counts(root: Path) -> None:
    """Nobody can say which label is right: neither file may teach."""
    shutil.copy(root / "mole" / "0.png", root / "wart" / "copy.png")
    table = _load(root)
    assert table.left_out == {"conflicting_label": 2}
    assert table.images_per_class() == (2, 3)
    assert "1 image lies byte-identical in folders of different classes (1 mole = wart)" in table.warnings[0]


def test_the_index_decides_between_conflicting_copies(root: Path) -> None:
    """keep_clean marks the right one; the other is left out."""
    shutil.copy(root / "mole" / "0.png", root / "wart" / "copy.png")
    _write_index(root, "path,label,keep_clean", "mole/0.png,mole,False", "wart/copy.png,wart,True")
    table = _load(root)
    assert table.left_out == {"not_clean": 1}
    assert "wart/copy.png" in {record.path for record in table.records}
    assert "mole/0.png" not in {record.path for record in table.records}
    assert any("decides 1, 0 are left out" in warning for warning in table.warnings)


def test_a_copy_with_the_same_label_counts_once(root: Path) -> None:
    """A picture that is there twice would weigh twice and look like two patients."""
    shutil.copy(root / "mole" / "0.png", root / "mole" / "copy.png")
    table = _load(root)
    assert table.images_per_class() == (3, 3)
    assert table.left_out == {"duplicate": 1}


def test_a_file_that_is_no_image_is_refused_by_name_or_skipped(root: Path) -> None:
    """The hospital chooses; in both cases it reads which file it was."""
    (root / "mole" / "broken.jpg").write_bytes(b"not a jpeg")
    with pytest.raises(
        DataError, match=r"1 image file cannot be decoded: mole/broken\.jpg \(is no JPEG, .*\); replace"
    ):
        _load(root)
    table = load_table(root, on_undecodable="skip", unit="patient", patient_column="auto")
    assert table.images_per_class() == (3, 3)
    assert table.left_out == {"undecodable": 1}
    assert "mole/broken.jpg" in table.warnings[0]


def test_every_file_that_is_passed_over_is_counted_and_told(root: Path) -> None:
    """Stray files are no reason to stop, but whoever has a folder per patient must learn that they are not used."""
    (root / "mole" / "notes.txt").write_text("x")
    (root / "mole" / "gone.png").symlink_to(root / "nowhere.png")
    _write_image(root / "mole" / "patient-7" / "a.png", 50)
    _write_image(root / "mole" / "patient-7" / "again" / "b.JPG", 51)
    (root / "mole" / "patient-7" / "scan.dcm").write_text("x")
    _write_image(root / "loose.png", 52)
    table = _load(root)
    assert table.images_per_class() == (3, 3)
    assert table.left_out == {"not_an_image": 3, "in_subfolder": 2, "outside_class_folders": 1}
    told = " ".join(table.warnings)
    for words in ("2 images in subfolders", "1 image outside of class folders", "3 files of another kind"):
        assert words in told
    assert not any(name in told for name in ("patient-7", "loose", "gone", "notes"))


def test_a_folder_whose_images_all_lie_too_deep_says_where_they_are(root: Path) -> None:
    """The words "no images" alone would send the operator to look for a wrong path."""
    for label in ("mole", "wart"):
        (root / label).rename(root / "moved")
        (root / label).mkdir()
        (root / "moved").rename(root / label / "patient-7")
    with pytest.raises(DataError, match=r"but 6 images in subfolders of class folders; put images directly"):
        _load(root)


@pytest.mark.parametrize(
    ("folders", "classes", "message"),
    [
        (None, None, "does not exist"),
        ((), None, "has no class folder"),
        (("mole",), None, "holds no .jpg"),
        (("mole", "typo"), ("mole", "wart"), "has 1 class folder that the plan does not name: typo"),
    ],
)
def test_a_wrong_folder_gets_one_clear_error(
    tmp_path: Path, folders: tuple[str, ...] | None, classes: tuple[str, ...] | None, message: str
) -> None:
    """Missing, empty, without images, or of another plan."""
    root = tmp_path / "data"
    for name in folders or ():
        (root / name).mkdir(parents=True)
    if folders == ():
        root.mkdir()
    with pytest.raises(DataError, match=message):
        _load(root, classes)


@pytest.mark.parametrize(
    ("header", "line", "message"),
    [
        ("file,label", "mole/0.png,mole", "no column path"),
        ("path,label", "mole/0.png,wart", "gives mole/0.png another label than its folder's"),
        ("path,label", "mole/0.png,mole\nmole/0.png,mole", "line 3 names an image a second time"),
        ("path,label,keep_clean", "mole/0.png,mole,perhaps", "line 2: keep_clean is neither true nor false"),
        ("path,label", "mole/0.png,mole,more", "line 2 has more cells than the first line"),
        ("path,label", ",mole", "no path or no label"),
        ("path,label", "mole/0.png", "no path or no label"),
        ("path,label", '"mole/0.png,mole', "cannot be read as UTF-8"),
    ],
)
def test_a_wrong_index_gets_one_clear_error(root: Path, header: str, line: str, message: str) -> None:
    """index.csv decides who is one patient: nothing about it is guessed."""
    _write_index(root, header, line)
    with pytest.raises(DataError, match=message):
        _load(root)


@pytest.mark.parametrize("name", ["INDEX.CSV", "Index.csv", "index.csv ", "index.tsv", "Index.xlsx", "index.csv.txt"])
@pytest.mark.parametrize("inside", [False, True])
def test_an_index_by_another_name_is_not_passed_over(root: Path, tmp_path: Path, name: str, *, inside: bool) -> None:
    """Without its column of patients each image would be a unit of its own; the control is read as index.csv."""
    source, prefix = tmp_path / "set", "" if inside else "Train/"
    lines = ["path,label,patient_id"]
    lines += [f"{prefix}{label}/{k}.png,{label},{label}-{k}" for label in ("mole", "wart") for k in range(3)]
    for label in ("mole", "wart"):
        shutil.copytree(root / label, source / "Train" / label)
    folder = source / "Train" if inside else source
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(
        DataError, match=rf"^the data folder holds '{name}', but only index\.csv, in small letters, says"
    ):
        _load(source)
    (folder / name).rename(folder / "index.csv")
    assert _load(source).patient_column == "patient_id"


def test_a_second_index_in_another_case_is_refused_and_a_source_beside_it_is_not(root: Path) -> None:
    """Which of the two counts nobody can say; the workbook that index.csv was saved from may lie there."""
    _write_index(root, "path,label", "mole/0.png,mole")
    (root / "index.xlsx").write_bytes(b"PK")
    (root / "indexed.csv").write_text("a,b\n")
    assert _load(root).images_per_class() == (3, 3)
    (root / "Index.csv").write_text("path,label,patient_id\n")
    with pytest.raises(DataError, match=r"^the data folder holds 'Index\.csv'"):
        _load(root)


def test_an_index_in_another_encoding_is_refused(root: Path) -> None:
    """A spreadsheet saved as UTF-16 must not turn into an empty index."""
    (root / "index.csv").write_bytes("path,label\nmole/0.png,mole\n".encode("utf-16"))
    with pytest.raises(DataError, match="cannot be read as UTF-8"):
        _load(root)


def test_rows_of_absent_files_are_told(root: Path) -> None:
    """An index of another copy of the data is worth a word."""
    _write_index(root, "path,label", "mole/0.png,mole", "mole/gone.png,mole")
    assert any("names 1 file beyond those" in warning for warning in _load(root).warnings)


@pytest.mark.skipif(not SKIN9.is_dir(), reason="the skin9 data set is not on this machine")
def test_skin9s_traps_are_found() -> None:
    """The counts of the design's data page, restricted to the training folder.

    Two more stay than there: pictures under two lesion ids, of which each lesion keeps its own.
    """
    table = _load(SKIN9)
    assert len(table.records) == 2084
    assert table.unit_name == "lesion"
    assert table.left_out == {"not_clean": 155}
    assert any("2 images lie byte-identical in several lesions" in warning for warning in table.warnings)
    assert "75 melanoma = seborrheic keratosis, 62 actinic keratosis = nevus" in table.warnings[0]
    assert any("1 lesion carries more than one label" in warning for warning in table.warnings)
