"""Images that a mapping names are dealt: a part is read as it was dealt, and no patient's lie in two hospitals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from client.data.source import DataPlace, read_data
from client.data.table import ImageTable
from common.errors import DataError
from common.plan_data import ImageData
from common.site_config import load_site
from scripts.cli import app
from scripts.demo_sites import read_sites
from scripts.split_images import split_images
from tests.support.dicom_files import write_dicom
from tests.support.small_federation import TEMPLATE

DATA = ImageData(
    kind="image-folder", classes=("mole", "wart"), held_out=0.2, held_out_salt="s", unreadable_images="refuse"
)
PEOPLE, EACH = 12, 2


def _images() -> list[tuple[str, str, str]]:
    """Name, class and patient of each image."""
    owners = [number // EACH for number in range(PEOPLE * EACH)]
    return [(f"P{p}-{n}", DATA.classes[p % 2], f"P{p}") for n, p in enumerate(owners)]


def _pixels(number: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def _mapped(root: Path, mapping: dict[str, Any]) -> DataPlace:
    path = root.parent / "mapping.yaml"
    path.write_text(yaml.safe_dump(mapping))
    return DataPlace(root, path)


def _index(root: Path, name: str, header: str, rows: list[str]) -> None:
    (root / name).write_text("\n".join((header, *rows)) + "\n")


def listed(root: Path, *, patient: str | None = "who") -> DataPlace:
    """Images by path, of which one is beyond the used split."""
    rows = []
    for number, (name, label, who) in enumerate(_images()):
        (root / who).mkdir(parents=True, exist_ok=True)
        Image.fromarray(_pixels(number)).save(root / who / f"{name}.PNG", format="PNG")
        rows.append(f"{who}/{name}.PNG;{label[0]};{who};train")
    Image.fromarray(_pixels(999)).save(root / "other.png")
    _index(root, "list.csv", "file;dx;who;part", [*rows, "other.png;m;P99;test"])
    known = {"form": "image-index", "index": "list.csv", "delimiter": "semicolon", "path": "file", "label": "dx"}
    chosen = {"labels": {"m": "mole", "w": "wart"}, "split": {"column": "part", "use": ["train"]}}
    return _mapped(root, known | chosen | ({"patient": patient} if patient else {}))


def dicom(root: Path) -> DataPlace:
    """DICOM files by SOPInstanceUID; whose they are only their PatientID says, and their names end in nothing."""
    root.mkdir(parents=True)
    rows = []
    for number, (_, label, who) in enumerate(_images()):
        uid = f"1.2.3.{number + 1}"
        write_dicom(root / f"IM{number}", _pixels(number)[..., 0], PatientID=who, SOPInstanceUID=uid)
        rows.append(f"{uid},{label}")
    _index(root, "list.csv", "uid,dx", rows)
    return _mapped(root, {"form": "image-index", "index": "list.csv", "sop_instance_uid": "uid", "label": "dx"})


def folders(root: Path, column: str = "person") -> DataPlace:
    """Class folders, with a column of patients that only a mapping names."""
    rows = []
    for number, (name, label, who) in enumerate(_images()):
        (root / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(_pixels(number)).save(root / label / f"{name}.png")
        rows.append(f"{label}/{name}.png,{label},{who},True")
    _index(root, "index.csv", f"path,label,{column},keep_clean", rows)
    return _mapped(root, {"form": "class-folders", "patient_column": column})


def _table(place: DataPlace) -> ImageTable:
    table = read_data(place, DATA, unit="patient")
    assert isinstance(table, ImageTable)
    return table


def _said(table: ImageTable) -> dict[str, tuple[int, str]]:
    return {record.sha256: (record.label_index, record.unit) for record in table.records}


@pytest.mark.parametrize("form", [listed, dicom, folders])
def test_each_part_is_read_as_it_was_dealt(form: Callable[[Path], DataPlace], tmp_path: Path) -> None:
    """Same bytes, class and patient; all that is used is dealt once, and both classes in equal parts."""
    place = form(tmp_path / "source")
    places, report = split_images(place, DATA, tmp_path / "out", hospitals=3, seed=0)
    parts = [_table(each) for each in places.values()]
    merged = {digest: told for part in parts for digest, told in _said(part).items()}
    assert merged == _said(_table(place))
    assert sum(len(part.records) for part in parts) == len(merged) == PEOPLE * EACH
    owners = [set(part.unit_labels()) for part in parts]
    assert sum(map(len, owners)) == len(set().union(*owners)) == PEOPLE
    assert [share.images for share in report.shares] == [(4, 4)] * 3
    assert [share.units for share in report.shares] == [(2, 2)] * 3
    assert read_sites(tmp_path / "out" / "sites.yaml", None) == places
    # No name or path of the source, which may be a patient's, stands in a part.
    names = [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not any(name.startswith(("P", "IM")) for name in names)


def test_without_a_column_of_patients_they_are_torn_apart(tmp_path: Path) -> None:
    """The control: what keeps a patient's images together is what the mapping says, and nothing else."""
    places, report = split_images(
        listed(tmp_path / "source", patient=None), DATA, tmp_path / "out", hospitals=3, seed=0
    )
    assert report.unit_name == "image"
    holders: dict[str, set[str]] = {}
    who = {record.sha256: record.path.split("/")[0] for record in _table(DataPlace(*_source(tmp_path))).records}
    for name, place in places.items():
        for record in _table(place).records:
            holders.setdefault(who[record.sha256], set()).add(name)
    assert max(len(each) for each in holders.values()) > 1
    lines = (places["hospital-1"].path / "index.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "file,label"


def _source(folder: Path) -> tuple[Path, Path]:
    return folder / "source", folder / "mapping.yaml"


@pytest.mark.parametrize(("other", "dealt"), [("P2/P2-4.PNG", 1), ("P1/P1-2.PNG", 0)])
def test_a_picture_of_two_patients_lies_in_one_hospital_at_most(tmp_path: Path, other: str, dealt: int) -> None:
    """Of one class one of the two has it, of two classes nobody; the other images of both are dealt."""
    place = listed(tmp_path / "source")
    (place.path / other).write_bytes((place.path / "P0" / "P0-0.PNG").read_bytes())
    places, report = split_images(place, DATA, tmp_path / "out", hospitals=3, seed=0)
    digests = [record.sha256 for each in places.values() for record in _table(each).records]
    assert len(digests) == len(set(digests)) == PEOPLE * EACH - 2 + dealt
    assert any("in several patients are dealt to nobody" in warning for warning in report.warnings)


def test_lesions_are_refused_in_one_sentence_and_nothing_is_left(tmp_path: Path) -> None:
    """The parts' index has no lesions; without a mapping class folders are dealt by them."""
    place = folders(tmp_path / "source", "lesion_id")
    (tmp_path / "mapping.yaml").write_text(yaml.safe_dump({"form": "class-folders"}))
    with pytest.raises(DataError, match="told apart by lesions"):
        split_images(place, DATA, tmp_path / "out", hospitals=3, seed=0)
    assert not (tmp_path / "out").exists()


def test_the_command_deals_listed_images_and_says_how_to_go_on(tmp_path: Path) -> None:
    """`fedward split` with a plan on images and a mapping."""
    place = listed(tmp_path / "source")
    plan = tmp_path / "plan.yaml"
    plan.write_text(yaml.safe_dump(TEMPLATE | {"data": DATA.model_dump(mode="json")}))
    command = ["split", str(place.path), "--out", str(tmp_path / "parts"), "--plan", str(plan), "--hospitals", "3"]
    said = CliRunner().invoke(app, [*command, "--mapping", str(place.mapping)], catch_exceptions=False).output
    assert "hospital-3: 8 images of 4 patients in" in said
    assert f"--sites {tmp_path / 'parts' / 'sites.yaml'}" in said.replace("\n", "")
    command = ["provision", str(plan), "--shards", str(tmp_path / "parts"), "--out", str(tmp_path / "federation")]
    assert "hospital-3: declares " in CliRunner().invoke(app, command, catch_exceptions=False).output
    site = load_site(tmp_path / "federation" / "hospital-3" / "hospital-3.yaml")
    assert site.mapping is not None
    assert site.mapping.resolve() == tmp_path / "parts" / "hospital-3" / "mapping.yaml"
