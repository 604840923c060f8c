"""docs/data.md: its examples are read as it says, and its connector is one file and one registration."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from client.data import registry
from client.data.rows import RowTable
from client.data.source import DataPlace, read_data
from common.config import parse_settings
from common.errors import ConfigError, DataError
from common.plan_data import TableData
from common.plan_expression import ExpressionData

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


@pytest.fixture
def _json_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's connector, installed as the page says."""
    path = tmp_path / "json_rows.py"
    path.write_text(EXAMPLES["connector"], encoding="utf-8")
    spec = importlib.util.spec_from_file_location("json_rows", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Pydantic looks up annotations in the module that sys.modules has by this name.
    monkeypatch.setitem(sys.modules, "json_rows", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(registry, "CONNECTORS", (*registry.CONNECTORS, module.CONNECTOR))


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
