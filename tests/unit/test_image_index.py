"""Images that a CSV file lists: which are used, whose they are, and one clear sentence for each wrong index."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from client.data.source import DataPlace, read_data
from client.data.table import ImageTable, PrivacyUnit, SiteTable
from common.errors import ConfigError, DataError, FedwardError
from common.plan_data import ImageData
from tests.support.dicom_files import write_dicom

DATA = ImageData(
    kind="image-folder",
    classes=("mole", "wart", "nævus é"),
    held_out=0.2,
    held_out_salt="s",
    unreadable_images="refuse",
)
MAPPING = {
    "form": "image-index",
    "index": "list.csv",
    "path": "file",
    "label": "dx",
    "labels": {"M": "mole", "W": "wart"},
    "patient": "who",
    "split": {"column": "part", "use": ["train", "val"]},
}
HEADER = "file,dx,who,part,keep"
ROWS = (
    "a/0.png,M,P1,train,yes",
    "1.png,M,P1,val,",
    "b c/2.JPG,W,P2,train,true",
    "3.png,W,P3,test,",
    "4.png,W,P4,train,no",
)


def _pixels(seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (20, 20, 3), dtype=np.uint8)


def _write(root: Path, name: str, seed: int) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(_pixels(seed)).save(path)


def _index(root: Path, *rows: str, header: str = HEADER, encoding: str = "utf-8") -> None:
    (root / "list.csv").write_text("\n".join((header, *rows)) + "\n", encoding=encoding)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Five images that no class folder orders, and their index."""
    folder = tmp_path / "data"
    for seed, row in enumerate(ROWS):
        _write(folder, row.split(",")[0], seed)
    _index(folder, *ROWS)
    return folder


def _read(root: Path, unit: PrivacyUnit = "patient", **changed: Any) -> SiteTable:  # noqa: ANN401 -- of YAML
    mapping = root.parent / "mapping.yaml"
    content = {key: value for key, value in (MAPPING | changed).items() if value is not None}
    mapping.write_text(yaml.safe_dump(content))
    return read_data(DataPlace(root, mapping), DATA, unit=unit)


def _classes(table: SiteTable) -> dict[str, int]:
    assert isinstance(table, ImageTable)
    return {record.path: record.label_index for record in table.records}


def test_rows_of_the_named_splits_are_read_wherever_their_images_lie(root: Path) -> None:
    """Codes become the plan's classes, patients are units, and what is not used is counted."""
    table = _read(root)
    assert _classes(table) == {"1.png": 0, "4.png": 1, "a/0.png": 0, "b c/2.JPG": 1}
    assert list(table.unit_labels()) == ["patient:P1", "patient:P2", "patient:P4"]
    assert (table.unit_name, table.patient_column) == ("patient", "who")
    assert table.left_out == {"other_split": 1, "not_in_index": 1}
    assert "1 row(s) of the index are of another split: they are not used" in table.warnings


def test_keep_clean_and_the_split_are_only_looked_at_if_the_mapping_says_so(root: Path) -> None:
    """Another hospital's column of the same name may mean something else."""
    assert len(_read(root, split=None).records) == 5
    assert _read(root, keep_clean="keep").left_out == {"other_split": 1, "not_in_index": 1, "not_clean": 1}


def test_without_a_column_of_patients_each_image_is_a_unit(root: Path) -> None:
    """Nobody can say more; the ledger and the plan in words call the unit an image."""
    table = _read(root, patient=None)
    assert table.unit_name == "image"
    assert table.patient_column is None
    by_record = _read(root, unit="record")
    assert by_record.unit_name == "image"
    assert by_record.records[0].ids == ("patient:P1",)


def test_class_names_need_no_code_and_accents_may_be_written_in_two_ways(root: Path) -> None:
    """A Mac writes decomposed accents (NFD) into file names, an editor composed ones (NFC) into the CSV."""
    name = "ä ö.png"
    assert unicodedata.normalize("NFD", name) != name
    _write(root, unicodedata.normalize("NFD", name), 9)
    _index(root, *ROWS, f"{name},{unicodedata.normalize('NFD', 'nævus é')},P9,train,")
    assert _classes(_read(root))[unicodedata.normalize("NFD", name)] == 2


def test_a_bom_semicolons_and_backslashes_are_what_spreadsheets_write(root: Path) -> None:
    """The mapping says which character stands between cells; a byte-order mark is no part of a column's name."""
    rows = [row.replace(",", ";").replace("/", "\\") for row in ROWS]
    _index(root, *rows, header=HEADER.replace(",", ";"), encoding="utf-8-sig")
    assert len(_read(root, delimiter="semicolon").records) == 4


def test_dicom_files_are_found_by_their_uid_and_patient_tag(root: Path) -> None:
    """Archives' lists name images by UID; the tag says whose they are unless the index does."""
    lines = []
    for number in range(3):
        uid = f"1.2.3.{number}"
        write_dicom(root / "deep" / f"IM{number}", _pixels(number), SOPInstanceUID=uid, PatientID=f"T{number % 2}")
        lines.append(f"{uid},M,P{number}")
    _index(root, *lines, "1.2.3.99,M,P9", header="uid,dx,who")
    changed: dict[str, Any] = {"path": None, "sop_instance_uid": "uid", "split": None}
    table = _read(root, **changed)
    assert list(table.unit_labels()) == ["patient:P0", "patient:P1", "patient:P2"]
    assert table.left_out == {"no_file": 1, "not_in_index": 5}
    assert list(_read(root, **changed, patient=None).unit_labels()) == ["patient:T0", "patient:T1"]
    write_dicom(root / "again.dcm", _pixels(7), SOPInstanceUID="1.2.3.0")
    with pytest.raises(DataError, match=r"list\.csv: 1 SOPInstanceUID\(s\) of it stand in several files that differ"):
        _read(root, **changed)


def test_a_tag_that_the_index_overrules_stays_known(root: Path) -> None:
    """For the ledger's marks: behind the patient, who is the unit; a picture has no tag."""
    write_dicom(root / "x.dcm", _pixels(8), PatientID="T7")
    _index(root, *ROWS, "x.dcm,M,P7,train,")
    ids = {each.unit: each.ids for each in _read(root).records}
    assert ids["patient:P7"] == ("patient:P7", "dicom:T7")
    assert ids["patient:P2"] == ("patient:P2",)


def test_images_of_nobody_beside_dicom_files_with_patients_are_refused(root: Path) -> None:
    """As in class folders."""
    write_dicom(root / "x.dcm", _pixels(8))
    _index(root, *ROWS, "x.dcm,M,,train,")
    with pytest.raises(
        DataError,
        match=r"list\.csv: 4 of 5 images do not say whose they are, while .*: 1\.png, 4\.png, file 3 of 5 \(by",
    ):
        _read(root, patient=None)


def test_the_same_images_are_the_same_units_in_class_folders_and_by_an_index(root: Path, tmp_path: Path) -> None:
    """Digests, ids and labels agree: cache, ledger marks and held-out side do not change with the form."""
    folders = tmp_path / "folders"
    for seed, row in enumerate(ROWS[:3]):
        _write(folders, f"{'mole' if ',M,' in row else 'wart'}/{Path(row.split(',')[0]).name}", seed)
    (folders / "index.csv").write_text("path,label,who\nmole/0.png,mole,P1\nmole/1.png,mole,P1\nwart/2.JPG,wart,P2\n")
    _index(root, *ROWS[:3])
    by_folder = read_data(DataPlace(folders, None, "who"), DATA, unit="patient")
    by_index = _read(root)
    said = [
        sorted((each.unit, each.label_index, each.sha256, each.ids) for each in table.records)
        for table in (by_folder, by_index)
    ]
    assert said[0] == said[1]
    assert by_folder.patient_column == by_index.patient_column


WRONG_ROWS = {
    r"list\.csv line 2: the label is none of the plan's classes \(mole, .*\(it lists M, W\)": "1.png,Secret,P,train,",
    r"list\.csv line 2: the column 'who' is blank": "1.png,M, ,train,",
    r"list\.csv line 2 names no image": ",M,P,train,",
    r"list\.csv line 2 names an image outside of the data folder": "../secret.png,M,P,train,",
    r"list\.csv line 2 names an image outside of .*": "/etc/a.png,M,P,train,",
    r"list\.csv line 3 names an image a second time": "1.png,M,P,train,\n./1.png,M,P,train,",
    r"list\.csv line 2 has more or fewer cells": "1.png,M",
    r"list\.csv line 2 has more or fewer cells than": "1.png,M,P,train,,,",
    r"list\.csv: none of its 1 used row\(s\) names one of the 5 image\(s\)": "gone.png,M,P,train,",
    r"list\.csv cannot be read as UTF-8 separated values": '"1.png,M',
    r"list\.csv line 2: keep_clean is neither true nor false": "1.png,M,P,train,perhaps",
}


@pytest.mark.parametrize("message", WRONG_ROWS)
def test_a_wrong_row_gets_one_sentence_with_its_line(root: Path, message: str) -> None:
    """Nothing about whose an image is, or what it shows, is guessed."""
    _index(root, WRONG_ROWS[message])
    with pytest.raises(DataError, match=message) as caught:
        _read(root, keep_clean="keep")
    assert "Secret" not in str(caught.value)


WRONG_MAPPINGS: dict[str, dict[str, Any]] = {
    r"has the column 'nobody' 0 times, once is allowed; its first line, with 'comma'": {"patient": "nobody"},
    r"with 'tab' between cells, names 1 column\(s\); correct the mapping$": {"delimiter": "tab"},
    r"'file' 0 times, once is allowed; its first line, with 'comma' between cells, names 5 col": {"index": "rows.csv"},
    r"labels: seen the class 'ulcer' that the plan does not know; allowed are mole": {"labels": {"M": "ulcer"}},
    r"seen both or neither of 'path' and 'sop_instance_uid'; name one": {"path": None},
    r"index: .*": {"index": 5},
    r"gone\.csv cannot be read: No such file": {"index": "gone.csv"},
    r"form: .*": {"form": "csv"},
    r"delimiter: .*": {"delimiter": "|"},
    r"unknown key 'typo'; allowed here: delimiter": {"typo": 1},
}


@pytest.mark.parametrize("message", WRONG_MAPPINGS)
def test_a_wrong_mapping_gets_one_sentence(root: Path, message: str) -> None:
    """Each key is checked before an image is opened; what may be a patient's stands in no sentence."""
    (root / "rows.csv").write_text("a/0.png,M,Ada Secret,train,yes\n", encoding="utf-8")
    with pytest.raises(FedwardError, match=message) as caught:
        _read(root, **WRONG_MAPPINGS[message])
    assert caught.value.exit_code == 2
    assert "Secret" not in str(caught.value)


def test_a_label_may_be_left_out_by_name(root: Path) -> None:
    """A label that only this hospital has is no reason to change its files."""
    _index(root, *ROWS, "1.png,odd,P9,train,".replace("1.png", "5.png"))
    _write(root, "5.png", 5)
    table = _read(root, leave_out=["odd"])
    assert table.left_out["other_label"] == 1


def test_the_site_file_and_the_mapping_do_not_both_name_patients(root: Path) -> None:
    """Two answers to one question: neither is dropped without a word."""
    _read(root)
    with pytest.raises(ConfigError, match="patient_column: seen 'who' beside a mapping"):
        read_data(DataPlace(root, root.parent / "mapping.yaml", "who"), DATA, unit="patient")


def test_the_page_on_data_has_a_mapping_that_works(tmp_path: Path) -> None:
    """What docs/data.md shows is read as it says."""
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r"^<!-- example: (image \w+) -->\n```\w+\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    (tmp_path / "mapping.yaml").write_text(shown["image mapping"], encoding="utf-8")
    _write(tmp_path / "data", "2021/a 1.jpg", 0)
    (tmp_path / "data" / "export.csv").write_text(shown["image file"], encoding="utf-8")
    data = DATA.model_copy(update={"classes": ("nevus", "melanoma")})
    table = read_data(DataPlace(tmp_path / "data", tmp_path / "mapping.yaml"), data, unit="patient")
    assert _classes(table) == {"2021/a 1.jpg": 1}
    assert list(table.unit_labels()) == ["patient:17"]
