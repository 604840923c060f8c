"""Every form of images is read through the one interface, and names images and units as it always did."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from client.counted_images import marks_of_images
from client.data.source import DataPlace, read_data, read_unlabelled
from client.data.table import ImageTable, PrivacyUnit
from client.declare import site_held_out_rule
from common.canonical import canonical_bytes, sha256_hex
from common.errors import ConfigError
from common.identity import Identity
from common.plan_data import ImageData
from tests.support.small_federation import template

# A grey PNG of one pixel; what follows the last chunk makes files differ, and is read by nobody.
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a49444154789c6368000000820081"
    "77cd72b60000000049454e44ae426082"
)
DATA = ImageData(
    kind="image-folder", classes=("mole", "wart"), held_out=0.2, held_out_salt="s", unreadable_images="refuse"
)
FILES = {"mole/a 1.png": 1, "mole/b.png": 2, "mole/c.png": 2, "wart/d.png": 3, "wart/e.png": 4, "wart/f.png": 5}
OWNERS = "path,label,patient_id,lesion_id,who\n" + "".join(
    f"{path},{path.partition('/')[0]},P{number // 2},L{number},W{number % 3}\n" for number, path in enumerate(FILES)
)
INDEX: dict[str, Any] = {"form": "image-index", "index": "index.csv", "path": "path", "label": "label"}


def folders(root: Path) -> DataPlace:
    """Class folders without a word on patients."""
    for name, tail in FILES.items():
        path = root / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PNG + bytes([tail]))
    return DataPlace(root / "data")


def owned(root: Path, column: str = "auto") -> DataPlace:
    """Class folders whose index.csv knows patients and lesions."""
    place = folders(root)
    (place.path / "index.csv").write_text(OWNERS)
    return DataPlace(place.path, None, column)


def lesions(root: Path) -> DataPlace:
    """Class folders whose index.csv knows lesions alone."""
    place = owned(root)
    (place.path / "index.csv").write_text(OWNERS.replace("patient_id", "other"))
    return place


def listed(root: Path, **more: str) -> DataPlace:
    """The same files, by an index."""
    place = owned(root)
    (root / "mapping.yaml").write_text(yaml.safe_dump(INDEX | more))
    return DataPlace(place.path, root / "mapping.yaml")


FORMS: dict[str, Callable[[Path], DataPlace]] = {
    "folders": folders,
    "patients": owned,
    "column": lambda root: owned(root, "who"),
    "lesions": lesions,
    "listed": listed,
    "listed patients": lambda root: listed(root, patient="who"),
}


def said(place: DataPlace, unit: PrivacyUnit) -> dict[str, Any]:
    """All that a table says, but for where it lies; and the ledger's marks."""
    table = read_data(place, DATA, unit=unit)
    assert isinstance(table, ImageTable)
    return {
        "records": [[r.path, r.label_index, r.unit, r.sha256, list(r.ids)] for r in table.records],
        "told": [table.unit_name, table.patient_column, dict(table.left_out)],
        "marks": [sorted(each.hex() for each in one) for one in marks_of_images(Identity.from_seed(b"1" * 32), table)],
    }


# Taken before all forms went through one interface. Another digest here would spend patients' budgets anew.
PINNED: dict[tuple[str, PrivacyUnit], str] = {
    ("folders", "patient"): "1142f3d834793ba054b662cad68efa1fd29c740a3763a2e1b9739b0ddda896d1",
    ("folders", "record"): "1142f3d834793ba054b662cad68efa1fd29c740a3763a2e1b9739b0ddda896d1",
    ("patients", "patient"): "6ac33106eb66b2d300110e7383583e871fb5678d0918dd879d2a723e3abfdcc5",
    ("patients", "record"): "44130e35f7c62a16256f969fd396f60aebc7c7000e92d3742a4c911e71b01446",
    ("column", "patient"): "42d6d5bd31a11b9dc3ca99848213ca3f78a65a25250cc26df62afe062a7e38b1",
    ("column", "record"): "ea273908f7e222d697ecddd4029ee6a71fb95430f86cb36353657dc5219abe7d",
    ("lesions", "patient"): "8e11df6a6f35b3c463cd94b72ea463f85aeabc59d7a3a1c1183cda9b0a5e59b9",
    ("lesions", "record"): "85e42fb98ce46fab3a5d02bc9f92bdb9ae793fab9aaede297ccdc9777d1005b8",
    ("listed", "patient"): "1142f3d834793ba054b662cad68efa1fd29c740a3763a2e1b9739b0ddda896d1",
    ("listed", "record"): "1142f3d834793ba054b662cad68efa1fd29c740a3763a2e1b9739b0ddda896d1",
    ("listed patients", "patient"): "ebd3454498e056127618d29398f2511bc405daa2291e1bc32d32b3b911975e38",
    ("listed patients", "record"): "4995e396c3bae2e23e8eb1b0d619843fb7c3e2920525a4e048ef27243b24a4f9",
}
# Beside the plan's own rule; `mapping` is a digest of the mapping as the file has it.
NAMING: dict[str, dict[str, str | None]] = {
    "patients": {"patient_column": "patient_id"},
    "column": {"patient_column": "who"},
    "listed": {
        "patient_column": None,
        "mapping": "22202d86f17e9f28d0730c7ba656aac79484384b12dc27beeff6229198e2d37a",
    },
    "listed patients": {
        "patient_column": "who",
        "mapping": "007c743ded1bdddfa53449ddce2851e664b8fdfe6ab18eb6d6c2f469f6e66569",
    },
}


@pytest.mark.parametrize(("form", "unit"), PINNED)
def test_records_units_and_ledger_marks_stay_as_they_are(tmp_path: Path, form: str, unit: PrivacyUnit) -> None:
    """Digests, ids, labels, what is left out, and what the ledger counts images by."""
    text = json.dumps(said(FORMS[form](tmp_path), unit), sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest() == PINNED[form, unit]


@pytest.mark.parametrize("form", FORMS)
def test_the_held_out_rule_stays_as_it_is(tmp_path: Path, form: str) -> None:
    """Where another column or an index names units it is a rule of its own; where files are units, the plan's."""
    place, plan = FORMS[form](tmp_path), template(privacy={"unit": "patient"})
    plan = plan.model_copy(update={"data": DATA})
    rule = plan.held_out_rule
    if form in NAMING:
        said_of_units = canonical_bytes({"plan": rule, **NAMING[form]})
        rule = sha256_hex(b"fedward/held-out-patients/1", said_of_units)
    assert site_held_out_rule(place, plan) == rule
    by_file = plan.model_copy(update={"privacy": plan.privacy.model_copy(update={"unit": "record"})})
    assert site_held_out_rule(place, by_file) == by_file.held_out_rule


def test_a_mapping_of_class_folders_says_what_a_site_file_says(tmp_path: Path) -> None:
    """Whoever writes a mapping for every site loses nothing: the same units, marks and rule."""
    place = owned(tmp_path)
    (tmp_path / "mapping.yaml").write_text("form: class-folders\npatient_column: who\n")
    mapped = DataPlace(place.path, tmp_path / "mapping.yaml")
    named = DataPlace(place.path, None, "who")
    plan = template(privacy={"unit": "patient"}).model_copy(update={"data": DATA})
    assert said(mapped, "patient") == said(named, "patient") != said(place, "patient")
    assert site_held_out_rule(mapped, plan) == site_held_out_rule(named, plan) != site_held_out_rule(place, plan)


def test_images_without_labels_are_read_in_every_form(tmp_path: Path) -> None:
    """A finished model is asked about all below a folder, or about those that an index names, of whatever class."""
    place = listed(tmp_path)
    assert place.mapping is not None
    everything, all_names = read_unlabelled(DataPlace(place.path), DATA)
    assert [name for name, _ in all_names] == sorted(FILES)
    assert len(everything.records) == len(FILES) - 1  # two are one file
    unlabelled = {key: value for key, value in INDEX.items() if key != "label"}
    place.mapping.write_text(yaml.safe_dump(unlabelled))
    (place.path / "index.csv").write_text("path\nwart/d.png\nmole/b.png\n")
    table, names = read_unlabelled(place, DATA)
    assert [name for name, _ in names] == ["mole/b.png", "wart/d.png"]
    assert table.left_out["not_in_index"] == 4
    with pytest.raises(ConfigError, match=r"mapping\.yaml: seen no label; a plan on data of kind 'image-folder'"):
        read_data(place, DATA, unit="patient")
    (tmp_path / "mapping.yaml").write_text("form: images\n")
    with pytest.raises(ConfigError, match="seen no label"):
        read_data(place, DATA, unit="patient")
