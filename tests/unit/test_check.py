"""`fedward-client check`: what a run will see, told and drawn, and nothing that leaves the machine."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from client.cli import app
from client.data.source import DataPlace
from common.errors import AlreadyExists, ConfigError, DataError
from scripts.row_files import write_rows
from scripts.synthetic_rows import draw_rows
from tests.support.small_federation import TEMPLATE, write_images
from tests.unit.test_demo_rows import survival, table


def said(*arguments: object) -> str:
    """What the command prints."""
    return CliRunner().invoke(app, ["check", *map(str, arguments)], catch_exceptions=False).output


def size(picture: Path) -> tuple[int, int]:
    """Width and height."""
    with Image.open(picture) as image:
        return image.size


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """A plan on images of three classes."""
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(TEMPLATE))
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Some images, with one that lies there twice and one that is none."""
    folder = tmp_path / "images"
    write_images(folder, per_class=5, seed=0)
    first = min(folder.glob("*/*.png"))
    (first.parent / "copy.png").write_bytes(first.read_bytes())
    (first.parent / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno image")
    return folder


def rows_place(folder: Path) -> tuple[DataPlace, Path]:
    """Drawn rows, and a plan on them."""
    place = write_rows(folder / "rows", draw_rows(table(), 60, seed=0), table())
    path = folder / "rows.yaml"
    content = TEMPLATE | {"data": table().model_dump(mode="json"), "model": {"kind": "linear"}}
    path.write_text(yaml.safe_dump(content | {"privacy": TEMPLATE["privacy"] | {"unit": "patient"}}))
    return place, path


def test_images_are_counted_and_shown(tmp_path: Path, plan: Path, images: Path) -> None:
    """Classes, duplicates, unreadable files; one contact sheet for each class, private files."""
    output = said("--plan", plan, "--data", images, "--out", tmp_path / "page")
    classes = TEMPLATE["data"]["classes"]
    assert f"{5 * len(classes)} records of {5 * len(classes)} images" in output
    assert all(f"  {name}: 5 records, 5 images," in output for name in classes)
    assert "left out: 1 duplicate" in output
    assert "left out: 1 undecodable" in output
    sheets = sorted((tmp_path / "page").glob("*.png"))
    assert len(sheets) == len(classes)
    assert size(sheets[0]) == (5 * 96, 96)
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    assert all(f'src="{sheet.name}"' in page for sheet in sheets)
    assert "http" not in page
    assert stat.S_IMODE((tmp_path / "page").stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "page").iterdir()} == {0o600}


def test_rows_are_counted_and_drawn(tmp_path: Path) -> None:
    """Units by class; histograms; what was converted and what lies outside of its range."""
    place, plan = rows_place(tmp_path)
    text = place.path.read_text(encoding="utf-8").splitlines()
    age = text[0].split(",").index("age")
    cells = text[1].split(",")
    cells[age] = "150"
    place.path.write_text("\n".join((text[0], ",".join(cells), *text[2:])), encoding="utf-8")
    output = said("--plan", plan, "--data", place.path, "--mapping", place.mapping, "--out", tmp_path / "page")
    assert "60 records of 60 patients" in output
    assert "warning: 1 value of age lies outside of the plan's range" in output
    assert size(tmp_path / "page" / "histograms.png")[0] > 500


def test_missing_values_are_told_by_feature(tmp_path: Path) -> None:
    """In the text and on the page; a column that is wholly empty is a warning, and one without a gap is no line."""
    place, plan = rows_place(tmp_path)
    header, *lines = place.path.read_text(encoding="utf-8").splitlines()
    age, sex = (header.split(",").index(name) for name in ("age", "sex"))
    rows = [line.split(",") for line in lines]
    gaps = sum(not cells[age] for cells in rows)
    before = said("--plan", plan, "--data", place.path, "--mapping", place.mapping)
    assert f"\nmissing: {gaps} values of age\n" in before
    assert "of sex" not in before
    assert "missing in all" not in before
    for number, cells in enumerate(rows):
        cells[age] = ""
        cells[sex] = "" if number < 7 else cells[sex]
    place.path.write_text("\n".join([header, *(",".join(cells) for cells in rows)]), encoding="utf-8")
    output = said("--plan", plan, "--data", place.path, "--mapping", place.mapping, "--out", tmp_path / "page")
    told = "missing: 60 values of age\nmissing: 7 values of sex: the plan leaves such rows out\n"
    assert f"left out: 7 missing values\n{told}" in output
    assert "warning: 1 feature is missing in all 60 rows: age; see whether" in output
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    assert "<li>missing: 60 values of age</li>" in page


def test_survival_data_are_counted_by_event(tmp_path: Path) -> None:
    """They have no classes."""
    place = write_rows(tmp_path / "rows", draw_rows(survival(), 80, seed=0), survival())
    content = TEMPLATE | {"data": survival().model_dump(mode="json"), "model": {"kind": "cox"}}
    plan = tmp_path / "plan.yaml"
    plan.write_text(yaml.safe_dump(content | {"metrics": {"released": "none"}}))
    output = said("--plan", plan, "--data", place.path, "--mapping", place.mapping)
    assert "  event: " in output
    assert "  censored: " in output


def test_no_value_of_a_patient_stands_in_what_is_printed(tmp_path: Path) -> None:
    """Ids and values stay in the files; the control shows that the search would find them."""
    canary = "CANARY-7781"
    place, plan = rows_place(tmp_path)
    lines = place.path.read_text(encoding="utf-8").splitlines()
    lines = [f"who,{lines[0]}", *(f"{canary}-{k},{line}" for k, line in enumerate(lines[1:]))]
    place.path.write_text("\n".join(lines), encoding="utf-8")
    assert place.mapping is not None
    place.mapping.write_text(place.mapping.read_text().replace("patient: row", "patient: who"), encoding="utf-8")
    output = said("--plan", plan, "--data", place.path, "--mapping", place.mapping, "--out", tmp_path / "page")
    assert "60 records of 60 patients by 'who'" in output
    assert canary not in output
    assert canary not in (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    assert canary in place.path.read_text(encoding="utf-8")


def test_the_page_goes_into_the_folder_that_one_stands_in(
    tmp_path: Path, plan: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--out .` has no name of its own, and must not become a folder that was deleted; also a second time."""
    here = tmp_path / "here"
    here.mkdir(mode=0o755)
    monkeypatch.chdir(here)
    for _ in range(2):
        said("--plan", plan, "--data", images, "--out", ".")
        assert Path("index.html").is_file()
        assert here.stat().st_ino == Path().stat().st_ino
        assert stat.S_IMODE(here.stat().st_mode) == 0o700
    assert not [each for each in tmp_path.iterdir() if each.name.endswith(".new")]


def test_an_earlier_page_is_replaced_and_other_files_are_not(tmp_path: Path, plan: Path, images: Path) -> None:
    """A folder of somebody's own is left alone."""
    command = ("--plan", plan, "--data", images, "--out", tmp_path / "page")
    said(*command)
    said(*command)
    (tmp_path / "page" / "notes.txt").write_text("mine")
    with pytest.raises(AlreadyExists, match="holds other files than an earlier check's"):
        said(*command)
    assert (tmp_path / "page" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ((), ConfigError, "give either --config, or --plan and --data"),
        (("--data", "x"), ConfigError, "--data needs --plan beside it"),
        (("--plan", "{plan}", "--data", "{folder}/absent"), DataError, "no such file or folder; correct --data$"),
    ],
)
def test_a_mistake_is_one_sentence(
    tmp_path: Path, plan: Path, arguments: tuple[str, ...], error: type[Exception], sentence: str
) -> None:
    """And nothing is written."""
    filled = [each.format(plan=plan, folder=tmp_path) for each in arguments]
    with pytest.raises(error, match=sentence):
        said(*filled)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.yaml"]


def test_rows_that_stand_there_twice_are_told(tmp_path: Path) -> None:
    """A table that was exported twice looks sound otherwise; the control is the same table once."""
    place, plan = rows_place(tmp_path)
    where = ("--plan", plan, "--data", place.path, "--mapping", place.mapping)
    header, *lines = dict.fromkeys(place.path.read_text().splitlines(keepends=True))
    place.path.write_text("".join((header, *lines)))
    assert "equal to another row" not in said(*where, "--out", tmp_path / "once")
    place.path.write_text("".join((header, *lines, lines[0])))
    told = said(*where, "--out", tmp_path / "twice")
    assert "warning: 2 rows are equal to another row: each " in told
