"""What lies in a data folder by accident or malice: it is named in one sentence, and no command waits or breaks."""

from __future__ import annotations

import csv
import os
import struct
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from client.data.csv_file import CsvForm, read_cells
from client.data.fhir_files import read_resources
from client.data.image_files import scan_files
from client.data.source import DataPlace, read_data
from client.data.vcf_file import open_vcf
from common.config import load_settings
from common.errors import ConfigError, DataError
from common.plan import Plan
from scripts.predict import Predictions, write_predictions
from tests.support.genotypes import vcf_text
from tests.support.small_federation import TEMPLATE, write_images


def _read_csv(path: Path) -> None:
    list(read_cells(path, CsvForm("utf-8", None, ()), ["a"]))


def _read_fhir(path: Path) -> None:

    list(read_resources(path, Counter()))


def _read_vcf(path: Path) -> None:
    with open_vcf(path, "GRCh37", name=path.name):
        pass


@pytest.mark.parametrize(
    ("name", "read", "content"),
    [
        ("rows.csv", _read_csv, "a,b\n1,2\n"),
        ("bundle.json", _read_fhir, '{"resourceType": "Bundle", "type": "collection"}'),
        ("lines.ndjson", _read_fhir, '{"resourceType": "Patient"}\n'),
        ("people.vcf", _read_vcf, vcf_text(["1 100 A G 0|1 1/1"])),
    ],
)
def test_what_would_never_end_is_refused_unopened(
    name: str, read: Callable[[Path], None], content: str, tmp_path: Path
) -> None:
    """Nobody writes to the FIFO: whoever opened it would wait for ever. A file of that name is read."""
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / name).write_text(content, encoding="utf-8")
    read(tmp_path / "file" / name)
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match=rf"^{name}: is a FIFO, a device or a socket, and no file; save the data"):
        read(tmp_path / name)


def test_an_image_that_would_never_end_is_refused_unopened(tmp_path: Path) -> None:
    """`fedward predict` is given single files, whatever they are."""
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"^the image a\.png: is a FIFO, a device or a socket"):
        scan_files([tmp_path / "a.png"], tmp_path)


def test_a_file_whose_name_is_no_text_has_its_prediction(tmp_path: Path) -> None:
    """All rows of a long run would be lost with it."""
    name = os.fsdecode(b"\xff.png")
    write_predictions(tmp_path / "out.csv", Predictions(("record", "prediction"), ((name, "mole"), ("b", "mole")), {}))
    lines = (tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()
    assert lines == ["record,prediction", "\\udcff.png,mole", "b,mole"]


@pytest.mark.parametrize("mark", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"])
def test_a_prediction_is_no_formula(mark: str, tmp_path: Path) -> None:
    """Spreadsheets run a cell that begins so; every other name stands as it is."""
    names = (f"{mark}1+1.png", f"a{mark}1.png", "'b.png")
    write_predictions(
        tmp_path / "out.csv",
        Predictions(
            ("record", "prediction", "mole", f"{mark}x"), tuple((n, f"{mark}x", "0.1", "0.9") for n in names), {}
        ),
    )
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as stream:
        header, *lines = csv.reader(stream)
    assert header == ["record", "prediction", "mole", f"'{mark}x"]
    assert lines == [[name, f"'{mark}x", "0.1", "0.9"] for name in (f"'{mark}1+1.png", *names[1:])]


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("gone.csv"), Path.mkdir])
def test_an_index_that_cannot_be_read_is_not_passed_over(make: Callable[[Path], None], tmp_path: Path) -> None:
    """Without its column of patients each image would be a unit of its own, with a budget of its own."""
    write_images(tmp_path, per_class=2, seed=0)
    make(tmp_path / "index.csv")
    plan = Plan.model_validate(TEMPLATE)
    with pytest.raises(DataError, match=r"^index\.csv: is no file, or a link to none; put the list of images there"):
        read_data(DataPlace(tmp_path), plan.data, unit="patient")


def test_a_plan_that_would_never_end_is_refused_unopened(tmp_path: Path) -> None:
    """The same for YAML: plan, mapping and site file."""
    os.mkfifo(tmp_path / "plan.yaml")
    with pytest.raises(ConfigError, match="is a FIFO, a device or a socket, and no file; name an existing YAML file"):
        load_settings(tmp_path / "plan.yaml", Plan)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(side: int) -> bytes:
    """A grey PNG that says how large it is, and holds a byte."""
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    data = _chunk(b"IDAT", zlib.compress(b"\0"))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + data + _chunk(b"IEND", b"")


def test_why_a_picture_does_not_open_is_told(tmp_path: Path) -> None:
    """An empty file is copied again, another format is converted, a bomb is deleted: each needs its own reason."""
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "word.jpg").write_bytes(b"no picture")
    (tmp_path / "bomb.png").write_bytes(_png(60_000))
    (tmp_path / "damaged.png").write_bytes(_png(9)[:20])
    Image.fromarray(np.zeros((4, 4), dtype=np.uint8)).save(tmp_path / "good.png")
    files = sorted(tmp_path.iterdir())
    problems = {file.stem: scan.problem for file, scan in zip(files, scan_files(files, tmp_path), strict=True)}
    assert problems == {
        "bomb": "has too many pixels",
        "damaged": "is damaged",
        "empty": "is empty",
        "good": "",
        "word": "is no JPEG, PNG or DICOM image, whatever its name",
    }


def _check(folder: Path, plan: Path, encoding: str = "utf-8:strict") -> subprocess.CompletedProcess[bytes]:
    """The command as a user runs it, on a terminal that refuses what is no text."""
    command = [sys.executable, "-m", "client", "check", "--plan", str(plan), "--data", str(folder)]
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    root = Path(__file__).parents[2]
    return subprocess.run(command, capture_output=True, check=False, env=environment, cwd=root)  # noqa: S603 -- our own


@pytest.mark.parametrize("policy", ["skip", "refuse"])
def test_a_files_name_moves_no_cursor_and_breaks_no_command(policy: str, tmp_path: Path) -> None:
    """Names may hold escape codes, line breaks and bytes that are no text. Pillow's own warning would help nobody."""
    folder = tmp_path / "images"
    write_images(folder, per_class=2, seed=0)
    plan = tmp_path / "plan.yaml"
    plan.write_text(yaml.safe_dump(TEMPLATE | {"data": TEMPLATE["data"] | {"unreadable_images": policy}}))
    name = TEMPLATE["data"]["classes"][0]
    (folder / name / "red\x1b[31m\nwarning: all is well.png").write_bytes(b"")
    Path(os.fsdecode(os.fsencode(folder / name) + b"/\xff.png")).write_bytes(b"text")
    (folder / name / "large.png").write_bytes(_png(10_000))
    done = _check(folder, plan)
    said = done.stdout + done.stderr
    assert done.returncode == (0 if policy == "skip" else 2)
    assert b"red\\x1b[31m\\nwarning: all is well.png (is empty)" in said
    assert b"\\udcff.png (is no JPEG" in said
    assert b"\x1b" not in said
    assert b"Warning" not in said
    assert b"Traceback" not in said
