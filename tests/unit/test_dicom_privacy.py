"""No text tag of a DICOM file is told: neither logged, nor in a message, a cache, a table or a state folder."""

from __future__ import annotations

import logging
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filereader import dcmread

from client.backbone import Compute
from client.counted_images import marks_of_images
from client.data import check_decodable, decode_image, load_table
from client.data.image_files import scan_files
from client.features import FeatureRecipe, extract
from common.errors import DataError
from common.identity import Identity
from tests.support.dicom_files import image_dataset, put_text, save

CANARY = "CANARY78"
TEXT = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"})
BY_TAG: Any = {"unit": "patient", "patient_column": "auto"}
PIXELS = np.random.default_rng(0).integers(0, 256, (48, 48), dtype=np.uint8)
# Without them there is no picture; PatientID and SOPInstanceUID, which are read, do hold the canary.
NEEDED = frozenset({"PhotometricInterpretation", "NumberOfFrames"})


def _canaries(*, everywhere: bool) -> Dataset:
    """An image with the canary in every text tag that the dictionary knows; or in all that may be anything."""
    data = image_dataset(PIXELS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for tag in DicomDictionary:
            keyword = keyword_for_tag(tag)
            free = everywhere or (keyword not in NEEDED and not 0x00280000 <= tag < 0x00290000)
            if tag >= 0x00080000 and keyword and dictionary_VR(tag) in TEXT and free:
                put_text(data, tag, dictionary_VR(tag), CANARY)
        if not everywhere:
            data.SpecificCharacterSet = "ISO_IR 100"
    return data


def _written(folder: Path, data: Dataset) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return save(folder, data)


def _told(action: Callable[[], object], caplog: pytest.LogCaptureFixture) -> str:
    """All that an action logs, warns and raises."""
    caplog.clear()
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            result = repr(action())
        except DataError as error:
            result = "".join(map(str, (error, error.__cause__, error.__context__ if error.__cause__ else "")))
    return result + caplog.text + "".join(str(each.message) for each in warned)


def test_the_file_is_full_of_canaries(tmp_path: Path) -> None:
    """The control: they are there, in hundreds of tags, and pydicom alone tells them."""
    path = _written(tmp_path / "a.dcm", _canaries(everywhere=True))
    assert path.read_bytes().count(CANARY.encode()) > 1000
    with pytest.warns(UserWarning, match=CANARY):
        str(dcmread(path))


def test_reading_decoding_and_caching_tell_none_of_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A sound picture: everything that is written to disk or logged on its way to features, and the ledger's marks."""
    _written(tmp_path / "data" / "mole" / "a.dcm", _canaries(everywhere=False))
    cache = tmp_path / "cache"
    recipe = FeatureRecipe(image_size=32, views=1, compute=Compute(torch.device("cpu"), "float32"))
    marks: list[frozenset[bytes]] = []

    def all_the_way() -> tuple[str, ...]:
        table = load_table(tmp_path / "data", None, on_undecodable="refuse", unit="patient", patient_column="auto")
        assert check_decodable(table, on_undecodable="refuse").unit_name == "patient"
        extract(table, recipe, cache_dir=cache, on_progress=lambda *_: None, on_undecodable="refuse")
        marks.extend(marks_of_images(Identity.from_seed(b"\1" * 32), table))
        # The control: the unit is told by the tag, inside; so the search would find it here.
        assert CANARY.encode() in pickle.dumps(table)
        return table.warnings

    told = _told(all_the_way, caplog)
    assert CANARY not in told
    files = [path for path in cache.rglob("*") if path.is_file()]
    assert files
    assert not any(CANARY.encode() in path.read_bytes() for path in files)
    assert len(marks[0]) == 2
    assert not any(CANARY.encode() in mark for mark in marks[0])


def test_a_file_that_cannot_be_read_tells_none_of_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Errors are where values slip out: each number, window, kind of colour and transfer syntax is the canary here."""
    bad = _canaries(everywhere=True)
    path = _written(tmp_path / "mole" / "a.dcm", bad)
    told = _told(lambda: decode_image(path, 16), caplog)
    assert "the image a.dcm is damaged" in told
    assert CANARY not in told
    refused = _told(
        lambda: load_table(tmp_path, None, on_undecodable="refuse", unit="patient", patient_column="auto"), caplog
    )
    assert "cannot be decoded: mole/a.dcm (is damaged" in refused
    assert CANARY not in refused


@pytest.mark.parametrize(
    "keyword",
    [
        *("PhotometricInterpretation", "NumberOfFrames", "WindowCenter", "WindowWidth", "VOILUTFunction"),
        *("RescaleSlope", "RescaleIntercept", "SpecificCharacterSet", "TransferSyntaxUID"),
    ],
)
def test_each_tag_that_is_looked_at_may_be_the_canary(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, keyword: str
) -> None:
    """One by one: with all at once only the first would be met."""
    data = image_dataset(PIXELS, WindowCenter="9", WindowWidth="9", RescaleSlope="1", RescaleIntercept="0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if keyword == "TransferSyntaxUID":
            path = save(tmp_path / "a.dcm", data)
            path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", CANARY.encode().ljust(20, b"\0")))
        else:
            put_text(data, tag_for_keyword(keyword) or 0, dictionary_VR(keyword), CANARY)
            path = save(tmp_path / "a.dcm", data)
    assert CANARY.encode() in path.read_bytes()
    told = _told(lambda: decode_image(path, 16).shape, caplog)
    assert ("the image a.dcm" in told) != (keyword == "SpecificCharacterSet" and "(16, 16, 3)" in told)
    assert CANARY not in told


def test_folders_named_by_patients_are_not_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Archives write patient/study/series folders; what the site service logs says which file by its place instead."""
    for number, patient in enumerate((f"A^{CANARY}", f"B^{CANARY}", f"C^{CANARY}")):
        save(tmp_path / "mole" / patient / "series" / "IM1", image_dataset(PIXELS + np.uint8(number)))
    save(tmp_path / "mole" / "d.dcm", image_dataset(PIXELS, NumberOfFrames=30))
    damaged = tmp_path / "mole" / f"B^{CANARY}" / "series" / "IM1"
    save(damaged, image_dataset(PIXELS, NumberOfFrames=30))
    refused = _told(lambda: load_table(tmp_path, on_undecodable="refuse", **BY_TAG), caplog)
    assert "file 2 of 4 (by name) (holds 30 frames" in refused
    assert "mole/d.dcm (holds 30 frames" in refused  # control: in the class's own folder files are named
    assert CANARY not in refused
    table = load_table(tmp_path, on_undecodable="skip", **BY_TAG)
    assert "file 2 of 4 (by name) (holds 30 frames" in table.warnings[-1]
    assert CANARY not in " ".join(table.warnings)
    assert any(CANARY in record.path for record in table.records)  # control: the table has the paths
    damaged.unlink()
    # A header that is whole, and pixels that are not: found by the feature pass.
    compressed = image_dataset(PIXELS, WindowCenter="5", WindowWidth="0")
    save(damaged, compressed)
    table = load_table(tmp_path, on_undecodable="skip", **BY_TAG)
    decoded = check_decodable(table, on_undecodable="skip")
    assert len(decoded.records) == 2
    assert "file 2 of 4 (by name) (has pixels or a window that are damaged or of a kind" in decoded.warnings[-1]
    assert CANARY not in " ".join(decoded.warnings)
    index = tmp_path / "index.csv"
    index.write_text(f"path,label,patient_id\nmole/C^{CANARY}/series/IM1,wart,7\n")
    refused = _told(lambda: load_table(tmp_path, on_undecodable="skip", **BY_TAG), caplog)
    assert "index.csv gives file 3 of 4 (by name) another label than its folder's" in refused
    assert CANARY not in refused
    index.write_text("path,label,patient_id\nmole/d.dcm,wart,7\n")  # control
    assert "index.csv gives mole/d.dcm another" in _told(
        lambda: load_table(tmp_path, on_undecodable="skip", **BY_TAG), caplog
    )


def test_images_of_nobody_are_told_without_their_folders(tmp_path: Path) -> None:
    """Ten by name or place, the rest by their number."""
    save(tmp_path / "mole" / CANARY / "IM0", image_dataset(PIXELS, PatientID=""))
    save(tmp_path / "mole" / "a.dcm", image_dataset(PIXELS + np.uint8(99), PatientID="P"))
    for number in range(11):
        save(tmp_path / "mole" / f"b{number:02}.dcm", image_dataset(PIXELS + np.uint8(number + 1), PatientID=""))
    with pytest.raises(DataError, match="12 of 13 images do not say whose they are") as caught:
        load_table(tmp_path, on_undecodable="skip", **BY_TAG)
    named = ", ".join(f"mole/b{number:02}.dcm" for number in range(9))
    assert f": file 1 of 13 (by name), {named} and 2 more; list all in index.csv" in str(caught.value)
    assert CANARY not in str(caught.value)


def test_two_warnings_of_one_check_count_files_alike(tmp_path: Path) -> None:
    """What the first has skipped, and a copy that counts once, stand in the second's numbers too."""
    changes: list[dict[str, Any]] = [{}, {"NumberOfFrames": 30}, {"WindowCenter": "5", "WindowWidth": "0"}]
    for number, change in enumerate(changes):
        data = image_dataset(PIXELS + np.uint8(number), PatientID=f"P{number}", **change)
        save(tmp_path / "mole" / f"{number}" / "IM1", data)
    (tmp_path / "mole" / "0" / "IM0").write_bytes((tmp_path / "mole" / "0" / "IM1").read_bytes())
    table = check_decodable(load_table(tmp_path, on_undecodable="skip", **BY_TAG), on_undecodable="skip")
    assert table.left_out == {"duplicate": 1, "undecodable": 2}
    assert [warning.partition(": ")[2].partition(" (by")[0] for warning in table.warnings[-2:]] == [
        "file 3 of 4",
        "file 4 of 4",
    ]


def test_a_file_that_may_not_be_read_is_named_without_its_patient(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An input error of the disk is told with the same care."""
    folder = tmp_path / "mole" / CANARY / "series"
    save(folder / "IM1", image_dataset(PIXELS))
    files = [tmp_path / "mole" / "a.dcm", folder / "gone"]
    save(files[0], image_dataset(PIXELS))
    told = _told(lambda: scan_files(files, tmp_path), caplog)
    assert "the image 2 of 2 cannot be read" in told.splitlines()[0]
    assert CANARY not in told.partition("[Errno")[0]
