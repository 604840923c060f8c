"""What image folders hold in hospitals: odd names, links, hidden files, bombs, thousands of files, one class only."""

from __future__ import annotations

import struct
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client.data import decode_image, load_pixels, load_table
from client.data.table import ImageTable, OnUndecodable
from common.errors import DataError

CLASSES = ("mole", "wart", "nævus é ö")


def _write(path: Path, seed: int, size: tuple[int, int] = (20, 20)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)


def _load(root: Path, on_undecodable: OnUndecodable = "refuse") -> ImageTable:
    return load_table(root, CLASSES, on_undecodable=on_undecodable, unit="patient", patient_column="auto")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One image of each of two classes."""
    _write(tmp_path / "mole" / "0.png", 0)
    _write(tmp_path / "wart" / "1.png", 1)
    return tmp_path


def test_sizes_and_modes_may_differ_within_a_folder(root: Path) -> None:
    """Grey, colour with and without transparency, printing colours, 16 bits, tall and wide: all one shape."""
    base = Image.fromarray(np.random.default_rng(2).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    base.convert("L").save(root / "mole" / "grey.png")
    base.convert("RGBA").save(root / "mole" / "rgba.png")
    base.convert("CMYK").resize((30, 90)).save(root / "mole" / "cmyk.jpg")
    base.convert("P").save(root / "mole" / "palette.png", transparency=3)
    Image.fromarray(np.asarray(base.convert("L")).astype(np.uint16) * 257).save(root / "mole" / "deep.png")
    base.resize((1, 1)).save(root / "mole" / "dot.png")
    pixels, kept = load_pixels(_load(root), image_size=32, on_undecodable="refuse")
    assert pixels.shape == (8, 32, 32, 3)
    by_name = {Path(record.path).name: pixels[row].astype(int) for row, record in enumerate(kept.records)}
    # 16 bits show what 8 bits do, and neither transparency nor a palette changes a colour by more than its rounding.
    assert np.abs(by_name["deep.png"] - by_name["grey.png"]).max() <= 1
    whole = decode_image(root / "mole" / "rgba.png", 40)
    base.save(root / "plain.png")
    assert np.array_equal(whole, decode_image(root / "plain.png", 40))


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"DICM" * 40])
def test_corrupt_and_empty_files_are_named_or_skipped(root: Path, content: bytes) -> None:
    """Of nothing, of a beginning, and of something else."""
    (root / "mole" / "bad.png").write_bytes(content)
    with pytest.raises(DataError, match=r"1 image file cannot be decoded: mole/bad\.png"):
        _load(root)
    assert _load(root, "skip").left_out == {"undecodable": 1}


def _bomb(side: int) -> bytes:
    """A PNG of a few kilobytes whose header says side x side."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10_000)))
        + chunk(b"IEND", b"")
    )


def test_a_decompression_bomb_is_refused_by_its_header(root: Path) -> None:
    """A gigapixel image in a few bytes would fill the memory of the process that holds the keys."""
    (root / "mole" / "bomb.png").write_bytes(_bomb(30_000))
    with pytest.raises(DataError, match=r"cannot be decoded: mole/bomb\.png"):
        _load(root)
    with pytest.raises(DataError, match=r"the image bomb\.png cannot be decoded"):
        decode_image(root / "mole" / "bomb.png", 32)
    # Control: what is wrong with it is its size.
    (root / "mole" / "bomb.png").write_bytes(_bomb(40))
    assert decode_image(root / "mole" / "bomb.png", 32).shape == (32, 32, 3)


def test_class_names_with_spaces_and_accents_in_either_form(root: Path) -> None:
    """A Mac's folder (NFD) and a plan written on Linux (NFC) mean one class; so do index.csv and file names."""
    decomposed = unicodedata.normalize("NFD", CLASSES[2])
    assert decomposed != CLASSES[2]
    _write(root / decomposed / unicodedata.normalize("NFD", "ä 1.png"), 2)
    assert _load(root).images_per_class() == (1, 1, 1)
    (root / "index.csv").write_text(f"path,label,lesion_id\n{CLASSES[2]}/ä 1.png,{CLASSES[2]},L1\n", encoding="utf-8")
    assert "lesion:L1" in _load(root).unit_labels()
    _write(root / CLASSES[2] / "b.png", 3)
    with pytest.raises(DataError, match="two folders of the class nævus é ö, whose accents are written in two ways"):
        _load(root)


@pytest.mark.parametrize(("name", "shown"), [("ulcer", "ulcer"), ("mole ", "'mole '"), ("Mole", "Mole")])
def test_a_label_that_no_other_hospital_has_gets_one_sentence(root: Path, name: str, shown: str) -> None:
    """The plan's classes decide; a space at a name's end is shown."""
    _write(root / name / "0.png", 5)
    with pytest.raises(DataError) as caught:
        _load(root)
    assert str(caught.value) == (
        f"the data folder has 1 class folder that the plan does not name: {shown}; allowed are mole, wart, nævus é ö"
    )


def test_a_hospital_with_one_class_works_and_is_told(root: Path) -> None:
    """Nobody else can tell it: what it sends is encrypted."""
    assert not _load(root).warnings
    (root / "wart" / "1.png").unlink()
    table = _load(root)
    assert table.images_per_class() == (1, 0, 0)
    (warning,) = table.warnings
    assert warning.startswith("all images are of one class (mole) of the plan's 3: this site trains, but its part")


def test_suffixes_are_read_in_either_case(root: Path) -> None:
    """Cameras write capitals."""
    _write(root / "mole" / "A.JPG", 3)
    _write(root / "mole" / "B.Png", 4)
    assert _load(root).images_per_class() == (3, 1, 0)


def test_hidden_files_are_passed_over_and_counted(root: Path) -> None:
    """Systems leave `._0.png` beside 0.png on shared disks: no image, and no reason to refuse the folder."""
    (root / "mole" / "._0.png").write_bytes(b"\x00\x05\x16\x07" * 20)
    (root / "mole" / ".DS_Store").write_bytes(b"x")
    _write(root / "mole" / ".thumbs" / "0.png", 7)
    _write(root / ".trash" / "0.png", 8)
    table = _load(root)
    assert table.images_per_class() == (1, 1, 0)
    assert table.left_out == {"hidden": 3}
    assert "3 hidden names" in table.warnings[0]


def test_links_to_files_and_class_folders_are_followed_and_broken_or_circular_ones_passed_over(root: Path) -> None:
    """Hospitals link from a working folder to an archive; a link back up must not lend a class another's images."""
    archive = root.parent / f"{root.name}-archive"
    _write(archive / "x.png", 3)
    _write(archive / "whole" / "y.png", 4)
    (root / "mole" / "linked.png").symlink_to(archive / "x.png")
    (root / CLASSES[2]).symlink_to(archive / "whole")
    (root / "mole" / "gone.png").symlink_to(archive / "gone.png")
    (root / "mole" / "self.png").symlink_to(root / "mole" / "self.png")
    (root / "mole" / "up").symlink_to(root)
    table = _load(root)
    assert table.images_per_class() == (2, 1, 1)
    assert table.left_out["not_an_image"] >= 2


def test_ten_thousand_files_are_indexed_with_one_opening_each(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How fast stands in the bench; here that the work is one pass, and that all of them count."""
    whole = (root / "mole" / "0.png").read_bytes()
    for number in range(9_998):
        # Bytes after the image's end make each file another one.
        (root / "mole" / f"n{number}.png").write_bytes(whole + number.to_bytes(4, "big"))
    opened: list[Path] = []
    plain = Path.open

    def counting(path: Path, *words: str, **named: str) -> object:
        opened.append(path)
        return plain(path, *words, **named)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", counting)
    table = _load(root)
    assert table.images_per_class() == (9_999, 1, 0)
    assert len(opened) == len(set(opened)) == 10_000
    assert [record.path for record in table.records] == sorted(record.path for record in table.records)
