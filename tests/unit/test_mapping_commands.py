"""`--mapping` and `--sites` at the command line: keygen, approve, demo; each mistake names what was given."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from client.cli import main as client_main
from client.data.source import DataPlace, read_data
from client.keygen import card_name, make_site, read_card
from common.config import load_settings
from common.plan import Plan
from common.site_config import load_site
from scripts.cli import main as fedward_main
from scripts.demo_data import demo_data
from scripts.demo_options import DemoOptions
from scripts.demo_sites import write_sites
from scripts.row_files import write_rows
from scripts.synthetic_rows import draw_rows
from tests.support.small_federation import CLASSES, TEMPLATE, write_images
from tests.unit.test_demo_rows import table
from tests.unit.test_join_commands import run

NAMES = ("hospital-1", "hospital-2", "hospital-3")
PEOPLE = 30
ROWS: dict[str, Any] = TEMPLATE | {
    "data": table().model_dump(mode="json") | {"held_out": 0.0},
    "model": {"kind": "linear"},
    "privacy": TEMPLATE["privacy"] | {"unit": "patient"},
}
IMAGES: dict[str, Any] = TEMPLATE | {
    "data": TEMPLATE["data"] | {"held_out": 0.0},
    "privacy": TEMPLATE["privacy"] | {"unit": "patient"},
}


def rows_of_patients(folder: Path) -> DataPlace:
    """Thirty people, of whom each has two rows."""
    rows = [replace(row, patient=f"P{number}") for number, row in enumerate(draw_rows(table(), PEOPLE, seed=0))]
    return write_rows(folder / "rows", [*rows, *rows], table())


def listed_images(folder: Path) -> DataPlace:
    """Twelve images of six people, in a folder without class folders, by an index."""
    write_images(folder / "images", per_class=6, seed=0)
    lines = ["file;dx;who"]
    for number, path in enumerate(sorted((folder / "images").glob("*/*.png"))):
        path.rename(folder / "images" / f"{number}.png")
        lines.append(f"{number}.png;{path.parent.name};P{number // 2}")
    for name in CLASSES:
        (folder / "images" / name).rmdir()
    (folder / "images" / "list.csv").write_text("\n".join(lines) + "\n")
    mapping = {"form": "image-index", "index": "list.csv", "delimiter": "semicolon", "path": "file", "label": "dx"}
    (folder / "images.yaml").write_text(yaml.safe_dump(mapping | {"patient": "who"}))
    return DataPlace(folder / "images", folder / "images.yaml")


FORMS: dict[str, tuple[dict[str, Any], Callable[[Path], DataPlace], int]] = {
    "rows": (ROWS, rows_of_patients, PEOPLE),
    "images": (IMAGES, listed_images, 6),
}


@pytest.mark.parametrize("form", FORMS)
def test_keygen_and_approve_count_by_the_mapping(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A hospital's declared units are its patients, as the mapping tells them; the site file then names both."""
    content, make, patients = FORMS[form]
    place = make(tmp_path)
    (tmp_path / "template.yaml").write_text(yaml.safe_dump(content))
    given = ("--data", str(place.path), "--mapping", str(place.mapping))
    home = tmp_path / NAMES[0]
    words = ("keygen", NAMES[0], "--site", str(home), "--plan", str(tmp_path / "template.yaml"), *given)
    assert run(client_main, "fedward-client", *words) == 0
    assert f"declares {patients} training units (patients, by the column '" in capsys.readouterr().out
    (tmp_path / "cards").mkdir()
    card = home / card_name(NAMES[0])
    assert read_card(card).declared_units == patients
    others = [make_site(tmp_path / name, hospital=name, declared_units=9, passphrase=None) for name in NAMES[1:]]
    for path in (card, *(other.card_path for other in others)):
        shutil.copy(path, tmp_path / "cards")
    organised = ("--cards", str(tmp_path / "cards"), "--out", str(tmp_path / "out"))
    assert run(fedward_main, "fedward", "provision", str(tmp_path / "template.yaml"), *organised) == 0
    plan = load_settings(tmp_path / "out" / "plan.yaml", Plan)
    kit = str(tmp_path / "out" / "kits" / f"{NAMES[0]}.kit.zip")
    common = ("approve", kit, "--site", str(home), "--cap-epsilon", "8", "--digest", plan.digest)
    capsys.readouterr()
    absent = ("--data", str(tmp_path / "absent"), "--mapping", str(place.mapping))
    assert run(client_main, "fedward-client", *common, *absent) == 2
    assert "absent: there is no such file or folder; correct --data\n" in capsys.readouterr().err
    assert not (home / "site.yaml").exists()
    assert run(client_main, "fedward-client", *common, *given) == 0
    # Who counts otherwise than keygen did is told so.
    assert "Mind: this site declared" not in capsys.readouterr().out
    config = load_site(home / "site.yaml")
    assert config.mapping is not None
    assert (config.data.resolve(), config.mapping.resolve()) == (place.path, place.mapping)
    table = read_data(DataPlace.of_site(config), plan.data, unit="patient")
    assert len(table.unit_labels()) == patients


KEYGEN_MISTAKES = {
    "--mapping: counts with --plan and --data only, not beside --units": ("--units", "5", "--mapping", "{mapping}"),
    "write a mapping file .*, and name it by --mapping": ("--plan", "{plan}", "--data", "{data}"),
    "gone: there is no such file or folder; correct --data": (
        *("--plan", "{plan}", "--data", "{folder}/gone", "--mapping", "{mapping}"),
    ),
    "gone.yaml: no such file": ("--plan", "{plan}", "--data", "{data}", "--mapping", "{folder}/gone.yaml"),
    "patient_column: seen 'pid' beside a mapping": (
        *("--plan", "{plan}", "--data", "{data}", "--mapping", "{mapping}", "--patient-column", "pid"),
    ),
}


@pytest.mark.parametrize("sentence", KEYGEN_MISTAKES)
def test_a_mistake_at_keygen_names_what_was_given(
    sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence, exit code 2, and no keys are made."""
    place = rows_of_patients(tmp_path)
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(ROWS))
    known = {"plan": tmp_path / "plan.yaml", "data": place.path, "mapping": place.mapping, "folder": tmp_path}
    words = [word.format(**known) for word in KEYGEN_MISTAKES[sentence]]
    assert run(client_main, "fedward-client", "keygen", "hospital-9", "--site", str(tmp_path / "site"), *words) == 2
    assert matches(sentence, capsys.readouterr().err)
    assert not (tmp_path / "site").exists()


def matches(pattern: str, printed: str) -> bool:
    """Whether the sentence was told, whatever the width of the terminal."""
    return re.search(pattern, " ".join(printed.split())) is not None


def demo_options(folder: Path, **changes: Any) -> DemoOptions:  # noqa: ANN401 -- one value for each option
    """A demo of three hospitals on rows."""
    (folder / "plan.yaml").write_text(yaml.safe_dump(ROWS))
    known: dict[str, Any] = {"data": None, "mapping": None, "sites": None, "hospitals": 3, "rounds": None}
    known |= {
        "weights": None,
        "epsilon": None,
        "seed": 0,
        "work": folder / "work",
        "results": folder / "results",
        "keep": False,
    }
    return DemoOptions(plan=folder / "plan.yaml", **(known | changes))


def test_a_demo_deals_rows_that_a_mapping_names_or_takes_what_a_sites_file_says(tmp_path: Path) -> None:
    """All of the one source by --mapping; and by --sites each hospital's own."""
    place = rows_of_patients(tmp_path)
    plan = load_settings(demo_options(tmp_path).plan, Plan)
    dealt = demo_data(plan, demo_options(tmp_path, data=place.path, mapping=place.mapping), tmp_path / "work").places
    units = [read_data(each, plan.data, unit="patient").unit_labels() for each in dealt.values()]
    assert sorted(unit for each in units for unit in each) == sorted(f"patient:P{n}" for n in range(PEOPLE))
    write_sites(tmp_path / "sites.yaml", dict.fromkeys(NAMES, place))
    options = demo_options(tmp_path, sites=tmp_path / "sites.yaml", hospitals=None)
    assert demo_data(plan, options, tmp_path / "other").places == dict.fromkeys(NAMES, place)


DEMO_MISTAKES = {
    "--sites: names the hospitals and their mappings; leave out --hospitals": (
        "--sites",
        "{sites}",
        "--hospitals",
        "3",
    ),
    "--sites: names the hospitals and their mappings; leave out .* --mapping": (
        *("--sites", "{sites}", "--mapping", "{mapping}"),
    ),
    "--mapping: seen none with --data and a plan on data of kind 'table'": ("--plan", "{plan}", "--data", "{data}"),
    "gone: there is no such file or folder; correct --data": (
        *("--plan", "{plan}", "--data", "{folder}/gone", "--mapping", "{mapping}"),
    ),
    "--mapping: seen .* with a plan on images": (
        *("--plan", "{images}", "--data", "{folder}", "--mapping", "{mapping}"),
    ),
    "seen none with a plan on data of kind 'table'; .* name it by 'mapping' of hospital-1 in .*bare.yaml": (
        *("--plan", "{plan}", "--sites", "{bare}"),
    ),
}


@pytest.mark.parametrize("sentence", DEMO_MISTAKES)
def test_a_mistake_at_the_demo_names_what_was_given(
    sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence, exit code 2, before a process is started."""
    place = rows_of_patients(tmp_path)
    for name, content in (("plan", ROWS), ("images", IMAGES)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    write_sites(tmp_path / "sites.yaml", dict.fromkeys(NAMES, place))
    write_sites(tmp_path / "bare.yaml", dict.fromkeys(NAMES, DataPlace(place.path)))
    known = {name: tmp_path / f"{name}.yaml" for name in ("plan", "images", "sites", "bare")}
    known |= {"data": place.path, "mapping": place.mapping or place.path, "folder": tmp_path}
    words = [word.format(**known) for word in DEMO_MISTAKES[sentence]]
    results = ("--results", str(tmp_path / "results"), "--work", str(tmp_path / "work"))
    assert run(fedward_main, "fedward", "demo", *words, *results) == 2
    assert matches(sentence, capsys.readouterr().err)
    assert not (tmp_path / "results").exists()
