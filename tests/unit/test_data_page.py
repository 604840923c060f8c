"""docs/data.md: its examples are read as it says, and its connector is one file and one registration."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from client.check import check_site
from client.check_page import write_page
from client.data import registry
from client.data.connector import Connector
from client.data.rows import RowTable
from client.data.source import DataPlace, read_data
from client.declare import site_held_out_rule, site_units
from client.unit_data import load_units
from client.unit_images import UnitImages
from common.config import parse_settings
from common.errors import ConfigError, DataError
from common.plan import Plan
from common.plan_data import TableData
from common.plan_expression import ExpressionData
from scripts.evaluate import evaluate
from scripts.predict import predict
from tests.support.small_federation import template
from tests.unit.test_predict import finished

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
EXAMPLE = re.compile(r"^<!-- example: ([\w ]+) -->\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = dict(EXAMPLE.findall(PAGE.read_text(encoding="utf-8")))
PLAN = parse_settings(EXAMPLES["plan"], TableData, source="plan")


def table(folder: Path, kind: str = "") -> RowTable:
    """What a site reads of a mapping and a file of the page."""
    (folder / "ward").write_text(EXAMPLES[f"{kind}file"], encoding="utf-8")
    (folder / "mapping.yaml").write_text(EXAMPLES[f"{kind}mapping"], encoding="utf-8")
    loaded = read_data(DataPlace(folder / "ward", folder / "mapping.yaml"), PLAN, unit="patient")
    assert isinstance(loaded, RowTable)
    return loaded


def installed(example: str, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connector of the page, installed as the page says: one file, and one more in the tuple."""
    path = folder / f"{name}.py"
    path.write_text(EXAMPLES[example], encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Pydantic looks up annotations in the module that sys.modules has by this name.
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(registry, "CONNECTORS", (*registry.CONNECTORS, module.CONNECTOR))


@pytest.fixture
def _json_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's connector of rows."""
    installed("connector", "json_rows", tmp_path, monkeypatch)


@pytest.fixture
def arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataPlace:
    """The page's connector of images, and a site whose folder is as the page says."""
    installed("image connector", "numpy_images", tmp_path, monkeypatch)
    folder = tmp_path / "arrays"
    folder.mkdir()
    for number in (1, 2, 3):
        np.save(folder / f"{number}.npy", np.full((40, 30), number / 5))
    (folder / "facts.json").write_text(EXAMPLES["numpy facts"], encoding="utf-8")
    (tmp_path / "numpy.yaml").write_text(EXAMPLES["numpy mapping"], encoding="utf-8")
    return DataPlace(folder, tmp_path / "numpy.yaml")


def test_the_csv_example_is_read_as_the_page_says(tmp_path: Path) -> None:
    """Four rows of three patients, three numbers converted, missing values flagged."""
    read = table(tmp_path)
    assert len(read.records) == 4
    assert read.unit_labels() == {"patient:7001": 0, "patient:7002": 1, "patient:7003": 1}
    assert read.converted == {"glucose from mmol/L": 3}
    assert (read.left_out, read.clipped, read.warnings) == ({}, {}, ())
    flags = read.unit_rows()[0][:, [2, -2]] > 0
    assert flags.tolist() == [[False, True], [False, True], [True, True]]


def test_the_two_expression_examples_hold_the_same_units(tmp_path: Path) -> None:
    """Bit for bit: TPM with samples in lines, and their logarithms with genes in lines."""
    plan = parse_settings(EXAMPLES["expression plan"], ExpressionData, source="plan")
    for kind in ("names", "people"):
        (tmp_path / f"{kind}.csv").write_text(EXAMPLES[f"genes {kind}"], encoding="utf-8")
    read = []
    for kind in ("expression", "genes"):
        (tmp_path / f"{kind}.csv").write_text(EXAMPLES[f"{kind} file"], encoding="utf-8")
        (tmp_path / f"{kind}.yaml").write_text(EXAMPLES[f"{kind} mapping"], encoding="utf-8")
        loaded = read_data(DataPlace(tmp_path / f"{kind}.csv", tmp_path / f"{kind}.yaml"), plan, unit="patient")
        assert isinstance(loaded, RowTable)
        read.append(loaded)
    one, other = read
    assert one.unit_labels() == other.unit_labels() == {"patient:7001": 0, "patient:7002": 1}
    assert one.unit_rows()[0].tobytes() == other.unit_rows()[0].tobytes()
    assert (one.converted, other.converted) == ({"gene expression from tpm": 11}, {})
    assert all((each.left_out, each.clipped, each.warnings) == ({}, {}, ()) for each in read)


@pytest.mark.usefixtures("_json_lines")
def test_a_new_connector_is_one_file_and_one_registration(tmp_path: Path) -> None:
    """A site whose system writes JSON holds the same patients as the one with the CSV export, number for number."""
    one, other = table(tmp_path), table(tmp_path, "json ")
    assert other.unit_labels() == one.unit_labels()
    assert abs(other.unit_rows()[0] - one.unit_rows()[0]).max() < 1e-15
    assert other.converted["glucose from mmol/L"] == 2


def test_without_the_registration_the_form_is_unknown(tmp_path: Path) -> None:
    """Control: the message lists what there is."""
    with pytest.raises(ConfigError, match=r"form: seen 'json-lines'; allowed for data of kind 'table' are .*'csv'"):
        table(tmp_path, "json ")


@pytest.mark.usefixtures("_json_lines")
def test_the_connector_of_the_page_keeps_to_its_own_rules(tmp_path: Path) -> None:
    """A line that is no object is a DataError without the line's text."""
    table(tmp_path, "json ")
    (tmp_path / "ward").write_text('{"id": "secret"}\n', encoding="utf-8")
    with pytest.raises(DataError, match="ward line 1: is no object with patient and label") as caught:
        read_data(DataPlace(tmp_path / "ward", tmp_path / "mapping.yaml"), PLAN, unit="patient")
    assert "secret" not in str(caught.value)


def plan_of_images() -> Plan:
    """A small network on the two classes of the page, with patients as units."""
    data = {"classes": ["melanoma", "nevus"], "held_out": 0.0, "unreadable_images": "refuse"}
    return template(data=data, privacy={"unit": "patient"})


def test_a_new_form_of_images_is_one_file_and_one_registration(arrays: DataPlace, tmp_path: Path) -> None:
    """Counts, units, held-out rule and the page with pictures know it, and a model gets the pixels that it decodes."""
    plan = plan_of_images()
    check = check_site(arrays, plan)
    assert (check.records, check.training, check.unit, check.patients_by) == (2, 2, "patient", "patient")
    assert check.left_out == ("1 no facts",)
    assert [(each.name, each.records) for each in check.classes] == [("melanoma", 1), ("nevus", 1)]
    write_page(tmp_path / "page", check, arrays, plan, hospital="here")
    assert len(list((tmp_path / "page").glob("class-*.png"))) == 2
    units = site_units(arrays, plan)
    assert (units.kind, units.training, units.named) == ("patient", 2, 2)
    assert site_held_out_rule(arrays, plan) != plan.held_out_rule
    table = read_data(arrays, plan.data, unit="patient")
    loaded, _ = load_units(table, plan, device="cpu", cache=tmp_path / "cache", on_progress=lambda *_: None)
    assert loaded.units == ("patient:17", "patient:18")
    assert isinstance(loaded.x, UnitImages)
    assert [int(pixels.unique()) for pixels in loaded.x.pixels] == [51, 102]


def test_a_finished_model_scores_and_is_asked_about_a_new_form_of_images(arrays: DataPlace, tmp_path: Path) -> None:
    """By the commands' own code."""
    changes = plan_of_images().model_dump(mode="json")
    results, _ = finished(tmp_path, {name: changes[name] for name in ("data", "privacy")})
    score = evaluate(results, arrays.path, mapping=arrays.mapping)
    assert (score.units, score.left_out) == (2, {"no_facts": 1})
    asked = predict(results, arrays)
    assert [line[0] for line in asked.lines] == ["1.npy", "2.npy"]
    assert asked.left_out == {"no_facts": 1}
    (arrays.path / "2.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match=r"1 image file cannot be decoded"):
        check_site(arrays, plan_of_images())


def test_the_image_connector_of_the_page_keeps_to_its_own_rules(arrays: DataPlace) -> None:
    """A file of facts without a patient is a DataError without the file's text."""
    (arrays.path / "facts.json").write_text('{"1.npy": {"class": "secret"}}', encoding="utf-8")
    with pytest.raises(DataError, match=r"facts.json: says of an image no class or no patient") as caught:
        read_data(arrays, plan_of_images().data, unit="patient")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("connector", registry.CONNECTORS, ids=lambda each: each.form)
def test_the_page_names_every_form(connector: Connector[Any, Any]) -> None:
    """Whoever adds a form says so in the table of the page, beside each kind of data that it can hold."""
    for kind in connector.kinds:
        (name,) = get_args(kind.model_fields["kind"].annotation)
        (row,) = re.findall(rf"^\| `{name}` \|.*\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
        assert f"`{connector.form}`" in row
