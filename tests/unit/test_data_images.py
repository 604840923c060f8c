"""Decoding: every file becomes the same kind of square, or one clear error."""

from __future__ import annotations

import io
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client.data import check_decodable, decode_image, load_pixels, load_table
from common.errors import DataError


def _photograph(side: int = 64) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two good images, and one that is cut off in the middle of its pixels."""
    (tmp_path / "mole").mkdir()
    _photograph().save(tmp_path / "mole" / "a.png")
    _photograph(48).save(tmp_path / "mole" / "b.jpg")
    _photograph(96).save(tmp_path / "mole" / "cut.jpg")
    whole = (tmp_path / "mole" / "cut.jpg").read_bytes()
    (tmp_path / "mole" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    return tmp_path


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "1", "I;16"])
def test_every_colour_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    """Scanners write grey, palette and CMYK files; none may stop a hospital."""
    image = _photograph().convert("L").convert("I").convert("I;16") if mode == "I;16" else _photograph().convert(mode)
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    image.save(path)
    decoded = decode_image(path, 32)
    assert decoded.shape == (32, 32, 3)
    assert decoded.dtype == np.uint8


RAMP = np.arange(65_536, dtype=np.uint16).reshape(256, 256)


def test_sixteen_bits_of_grey_keep_their_whole_range(tmp_path: Path) -> None:
    """Pillow alone cuts off above 255, and every 16-bit image would turn white; the control shows it."""
    Image.fromarray(RAMP).save(tmp_path / "ramp.png")
    with Image.open(tmp_path / "ramp.png") as image:
        assert image.mode == "I;16"
        assert (np.asarray(image.convert("L")) == 255).mean() > 0.9  # control
    decoded = decode_image(tmp_path / "ramp.png", 256)
    assert np.array_equal(decoded, np.repeat(np.rint(RAMP / 257).astype(np.uint8)[:, :, None], 3, axis=2))
    assert (decoded.min(), decoded.max()) == (0, 255)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "RGB"])
def test_eight_bit_modes_are_what_pillow_makes_of_them(tmp_path: Path, mode: str) -> None:
    """The scaling of deep grey must leave all others alone."""
    image = _photograph().convert(mode)
    image.save(tmp_path / "image.png")
    assert np.array_equal(decode_image(tmp_path / "image.png", 64), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "BMP", "WEBP", "EPS"])
def test_another_format_under_the_name_of_a_jpeg_is_refused_or_skipped_by_choice(tmp_path: Path, kind: str) -> None:
    """An EPS file is a program that Pillow has Ghostscript run; the control shows that Pillow goes by the content."""
    (tmp_path / "mole").mkdir()
    _photograph().save(tmp_path / "mole" / "a.jpg")
    _photograph().save(tmp_path / "mole" / "x.jpg", format=kind)
    with Image.open(tmp_path / "mole" / "x.jpg") as image:
        assert image.format == kind  # control
    with pytest.raises(DataError, match=r"^the image x\.jpg cannot be decoded: it is no JPEG or PNG image; ") as caught:
        decode_image(tmp_path / "mole" / "x.jpg", 32)
    assert str(tmp_path) not in str(caught.value)
    table = load_table(tmp_path, on_undecodable="skip", unit="patient", patient_column="auto")
    assert [record.path for record in table.records] == ["mole/a.jpg"]
    assert table.left_out == {"undecodable": 1}
    with pytest.raises(DataError, match=r"mole/x\.jpg"):
        load_table(tmp_path, on_undecodable="refuse", unit="patient", patient_column="auto")


def test_a_multi_picture_jpeg_and_a_png_are_read_whatever_their_name(tmp_path: Path) -> None:
    """Cameras write MPO, a JPEG with more pictures behind the first; the first counts."""
    _photograph().save(tmp_path / "camera.jpg", format="MPO", save_all=True, append_images=[_photograph(32)])
    _photograph().save(tmp_path / "scan.jpg", format="PNG")
    with Image.open(tmp_path / "camera.jpg") as image:
        assert image.format == "MPO"
    first = decode_image(tmp_path / "camera.jpg", 64).astype(np.int64)
    assert np.abs(first - np.asarray(_photograph())).mean() < 60
    assert np.array_equal(decode_image(tmp_path / "scan.jpg", 64), np.asarray(_photograph()))


def test_an_image_of_the_right_size_keeps_its_pixels(tmp_path: Path) -> None:
    """No resampling where none is needed."""
    _photograph().save(tmp_path / "a.png")
    assert np.array_equal(decode_image(tmp_path / "a.png", 64), np.asarray(_photograph()))


def test_a_wide_image_is_cropped_to_its_middle_not_squeezed(tmp_path: Path) -> None:
    """A squeezed lesion looks asymmetric, which is a sign of melanoma."""
    pixels = np.zeros((32, 96, 3), dtype=np.uint8)
    pixels[:, 32:64] = 200
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert decode_image(tmp_path / "wide.png", 32).min() == 200


def test_a_turned_photograph_is_set_upright(tmp_path: Path) -> None:
    """Cameras store the turn in EXIF; the pixels must not depend on how the camera was held."""
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    _photograph().save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(decode_image(tmp_path / "turned.png", 64), np.asarray(_photograph())[::-1, ::-1])


def test_a_cut_off_jpeg_is_found_and_named_without_its_folder(root: Path) -> None:
    """Half an image must never be used silently; its path may tell about a patient."""
    with pytest.raises(DataError, match=r"the image cut\.jpg cannot be decoded") as caught:
        decode_image(root / "mole" / "cut.jpg", 32)
    assert str(root) not in str(caught.value)


def test_a_cut_off_jpeg_is_skipped_or_refused_by_choice(root: Path) -> None:
    """Its header is whole, so only decoding finds it."""
    table = load_table(root, on_undecodable="refuse", unit="patient", patient_column="auto")
    assert len(table.records) == 3
    with pytest.raises(DataError, match=r"mole/cut\.jpg"):
        check_decodable(table, on_undecodable="refuse")
    checked = check_decodable(table, on_undecodable="skip")
    assert checked.images_per_class() == (2,)
    assert checked.left_out == {"undecodable": 1}
    assert checked.warnings[-1] == "skipped 1 image file that cannot be decoded: mole/cut.jpg (is damaged)"


def test_every_picture_that_fails_on_decoding_has_a_reason(root: Path) -> None:
    """Whatever finds it: a check, or a model that is trained whole; the feature pass has a test of its own."""
    whole = bytearray((root / "mole" / "a.png").read_bytes())
    for place in range(60, len(whole) - 20):
        whole[place] ^= 0x5A
    (root / "mole" / "flipped.png").write_bytes(whole)
    table = load_table(root, on_undecodable="refuse", unit="patient", patient_column="auto")
    named = "mole/cut.jpg (is damaged), mole/flipped.png (is damaged)"
    assert named in check_decodable(table, on_undecodable="skip").warnings[-1]
    assert named in load_pixels(table, image_size=16, on_undecodable="skip")[1].warnings[-1]
    with pytest.raises(DataError, match=re.escape(named)):
        check_decodable(table, on_undecodable="refuse")


def test_pixels_come_with_the_table_of_what_was_decoded(root: Path) -> None:
    """Rows and records must stay in step when a file is skipped."""
    table = load_table(root, on_undecodable="skip", unit="patient", patient_column="auto")
    pixels, kept = load_pixels(table, image_size=64, on_undecodable="skip")
    assert [record.path for record in kept.records] == ["mole/a.png", "mole/b.jpg"]
    assert np.array_equal(pixels[0], np.asarray(_photograph()))
    assert pixels.shape == (2, 64, 64, 3)


def test_a_folder_of_nothing_but_broken_images_is_refused_even_when_skipping(root: Path) -> None:
    """Nothing to train on is an error, not an empty training."""
    (root / "mole" / "a.png").unlink()
    (root / "mole" / "b.jpg").unlink()
    table = load_table(root, on_undecodable="skip", unit="patient", patient_column="auto")
    with pytest.raises(DataError, match="not one image"):
        load_pixels(table, image_size=64, on_undecodable="skip")


def test_damaged_bytes_give_pixels_or_a_data_error_and_nothing_else(tmp_path: Path) -> None:
    """Pillow raises many kinds of exception; a flipped bit must not end a site with a traceback."""
    rng = np.random.default_rng(1)
    refused = 0
    for suffix in ("jpg", "png"):
        _photograph(32).save(tmp_path / f"whole.{suffix}")
        whole = np.frombuffer((tmp_path / f"whole.{suffix}").read_bytes(), dtype=np.uint8)
        for trial in range(150):
            damaged = whole.copy()
            damaged[rng.integers(0, len(whole), 1 + trial % 8)] = rng.integers(0, 256)
            path = tmp_path / f"damaged.{suffix}"
            path.write_bytes(
                damaged[: rng.integers(1, len(whole) + 1)].tobytes() if trial % 3 == 0 else damaged.tobytes()
            )
            try:
                assert decode_image(path, 32).shape == (32, 32, 3)
            except DataError:
                refused += 1
    assert refused > 50


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data|Truncated File Read|Metadata Warning:UserWarning")
def test_a_changed_byte_of_exif_gives_pixels_or_a_data_error(tmp_path: Path) -> None:
    """Pillow rewrites what a camera wrote beside the turn when it turns the picture, and fails there in other ways."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A] = 6, "Camera", 72.0  # turned by 90 degrees; maker; resolution
    encoded = io.BytesIO()
    _photograph(16).save(encoded, "JPEG", exif=exif)
    whole, path = encoded.getvalue(), tmp_path / "camera.jpg"
    outcomes: Counter[str] = Counter()
    for place in range(20, 140):
        for value in (*range(32), 0x7F, 0x80, 0xFF):  # what EXIF numbers its types by, and the ends of the rest
            path.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
            try:
                assert decode_image(path, 16).shape == (16, 16, 3)
                outcomes["decoded"] += 1
            except DataError as error:
                outcomes[type(error.__cause__).__name__] += 1
    assert outcomes["decoded"] > 2_000
    assert {"error", "TypeError", "AttributeError"} <= set(outcomes)  # control: damage beyond OSError is among these
