"""DICOM: what grey value each stored value becomes, and the one clear sentence for what cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_windowing
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from client.counted_images import marks_of_images
from client.data import check_decodable, decode_image, load_table
from client.data.table import ImageTable
from common.errors import DataError
from common.identity import Identity
from scripts.split import split_dataset
from tests.support.dicom_files import image_dataset, save, with_syntax, write_dicom

Grey = NDArray[np.uint8]
EIGHT: Grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
TWELVE = np.arange(4096, dtype=np.uint16).reshape(64, 64)
COLOUR: Grey = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def _grey(path: Path, side: int) -> Grey:
    """The file's pixels, of which all three colours are equal."""
    decoded = decode_image(path, side)
    assert np.array_equal(decoded[:, :, 0], decoded[:, :, 1])
    assert np.array_equal(decoded[:, :, 0], decoded[:, :, 2])
    return decoded[:, :, 0]


def _load(root: Path, **changed: Any) -> ImageTable:  # noqa: ANN401 -- as load_table
    return load_table(root, None, **{"on_undecodable": "refuse", "unit": "patient", "patient_column": "auto"} | changed)


@pytest.mark.parametrize("bits", [1, 8, 10, 12, 16])
def test_without_a_window_the_whole_range_of_bits_stored_is_shown(tmp_path: Path, bits: int) -> None:
    """As for 16-bit PNG files: black is the least and white the largest that can be stored, whatever is there."""
    white = (1 << bits) - 1
    whole = np.rint(np.linspace(0, white, 64)).reshape(8, 8)
    stored = whole.astype(np.uint16 if bits > 8 else np.uint8)
    path = write_dicom(tmp_path / "a.dcm", stored, BitsStored=bits, HighBit=bits - 1)
    assert np.array_equal(_grey(path, 8), np.rint(whole / white * 255).astype(np.uint8))


def test_signed_values_keep_their_order(tmp_path: Path) -> None:
    """CT numbers are negative for air; taken as unsigned they would be the brightest."""
    stored = np.array([[-2048, -1], [0, 2047]], dtype=np.int16)
    path = write_dicom(tmp_path / "a.dcm", stored, BitsStored=12, HighBit=11)
    assert _grey(path, 2).tolist() == [[0, 127], [128, 255]]


def test_unused_bits_do_not_count(tmp_path: Path) -> None:
    """Old files keep overlays in the bits above Bits Stored."""
    path = write_dicom(tmp_path / "a.dcm", TWELVE | 0xF000, BitsStored=12, HighBit=11)
    clean = write_dicom(tmp_path / "b.dcm", TWELVE, BitsStored=12, HighBit=11)
    assert np.array_equal(_grey(path, 64), _grey(clean, 64))


@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_rescale_and_window_are_what_pydicom_makes_of_them(tmp_path: Path, function: str | None) -> None:
    """An independent implementation of PS3.3 C.11.2.1.2, whose output range is scaled to eight bits."""
    tags: dict[str, Any] = {
        "RescaleSlope": "2",
        "RescaleIntercept": "-1024",
        "WindowCenter": "40",
        "WindowWidth": "400",
    }
    if function:
        tags["VOILUTFunction"] = function
    data = image_dataset(TWELVE, BitsStored=12, HighBit=11, **tags)
    shown = apply_windowing(apply_modality_lut(TWELVE, data), data).astype(np.float64)
    low, high = -1024.0, 2 * 4095 - 1024.0
    expected = np.rint((shown - low) / (high - low) * 255)
    got = _grey(save(tmp_path / "a.dcm", data), 64)
    assert np.abs(got - expected).max() <= 1
    assert (got.min(), got.max()) == (0, 255)
    # Control: without the window the picture is another one.
    assert np.abs(got - np.rint(TWELVE / 4095 * 255)).max() > 50


def test_a_window_of_width_one_is_a_threshold(tmp_path: Path) -> None:
    """The standard's formula divides by the width less one."""
    path = write_dicom(tmp_path / "a.dcm", EIGHT, WindowCenter="100", WindowWidth="1")
    assert np.array_equal(_grey(path, 16), np.where(EIGHT > 99, 255, 0))


def test_of_several_windows_the_first_is_taken(tmp_path: Path) -> None:
    """The modality lists its preferred one first."""
    one = write_dicom(tmp_path / "a.dcm", TWELVE, WindowCenter="100", WindowWidth="50")
    both = write_dicom(tmp_path / "b.dcm", TWELVE, WindowCenter=["100", "3000"], WindowWidth=["50", "900"])
    assert np.array_equal(_grey(one, 64), _grey(both, 64))


def test_a_voi_lut_goes_before_a_window(tmp_path: Path) -> None:
    """A mammogram's curve is no straight line; 12 bits of output are scaled to eight."""
    item = Dataset()
    item.add_new(0x00283002, "US", [256, 0, 12])
    item.add_new(0x00283006, "US", [4095 - 16 * n for n in range(256)])
    path = write_dicom(tmp_path / "a.dcm", EIGHT, VOILUTSequence=Sequence([item]), WindowCenter="9", WindowWidth="2")
    assert np.array_equal(_grey(path, 16), np.rint((4095 - 16.0 * EIGHT) / 4095 * 255).astype(np.uint8))


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    """There the least value is white: else a chest film would be its own negative."""
    path = write_dicom(tmp_path / "a.dcm", EIGHT, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(_grey(path, 16), 255 - EIGHT)


def test_rgb_of_eight_and_sixteen_bits(tmp_path: Path) -> None:
    """Dermoscopes write RGB; a window, which is for grey alone, changes nothing."""
    path = write_dicom(tmp_path / "a.dcm", COLOUR, WindowCenter="5", WindowWidth="3")
    deep = write_dicom(tmp_path / "b.dcm", COLOUR.astype(np.uint16) * 257)
    assert np.array_equal(decode_image(path, 32), COLOUR)
    assert np.array_equal(decode_image(deep, 32), COLOUR)


def test_a_dicom_file_gives_the_pixels_of_its_png(tmp_path: Path) -> None:
    """Two hospitals with the same picture in two forms train on the same numbers, also when it is scaled."""
    Image.fromarray(COLOUR).save(tmp_path / "a.png")
    path = write_dicom(tmp_path / "a.dcm", COLOUR)
    for side in (16, 32, 40):
        assert np.array_equal(decode_image(path, side), decode_image(tmp_path / "a.png", side))


def test_ybr_becomes_rgb(tmp_path: Path) -> None:
    """Pillow's conversion is the oracle."""
    coded = np.asarray(Image.fromarray(COLOUR).convert("YCbCr"))
    path = write_dicom(tmp_path / "a.dcm", coded, PhotometricInterpretation="YBR_FULL")
    back = np.asarray(Image.fromarray(coded, mode="YCbCr").convert("RGB")).astype(int)
    assert np.abs(decode_image(path, 32).astype(int) - back).max() <= 2


@pytest.mark.parametrize("bits", [8, 16])
def test_palette_colours_are_looked_up(tmp_path: Path, bits: int) -> None:
    """Ultrasound and nuclear medicine keep an index in each pixel."""
    palette = np.random.default_rng(1).integers(0, 256, (256, 3), dtype=np.uint8)
    tags: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for column, name in enumerate(("Red", "Green", "Blue")):
        entries = palette[:, column].astype("<u2") * 257 if bits == 16 else palette[:, column]
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, bits]
        tags[f"{name}PaletteColorLookupTableData"] = entries.tobytes()
    path = write_dicom(tmp_path / "a.dcm", EIGHT, **tags)
    assert np.array_equal(decode_image(path, 16), palette[EIGHT])


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_uncompressed_syntaxes_agree(tmp_path: Path, syntax: UID) -> None:
    """Bytes in the other order are the same picture."""
    data = image_dataset(TWELVE, BitsStored=12, HighBit=11)
    data.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        data.PixelData = TWELVE.astype(">u2").tobytes()
        data.save_as(tmp_path / "a.dcm", implicit_vr=False, little_endian=False, enforce_file_format=True)
    else:
        save(tmp_path / "a.dcm", data)
    assert np.array_equal(_grey(tmp_path / "a.dcm", 64), np.rint(TWELVE / 4095 * 255).astype(np.uint8))


def test_rle_and_jpeg_are_decoded(tmp_path: Path) -> None:
    """RLE without loss, and JPEG as Pillow decodes the same bytes."""
    grey = image_dataset(EIGHT)
    grey.compress(RLELossless)
    assert np.array_equal(_grey(save(tmp_path / "rle.dcm", grey), 16), EIGHT)
    buffer = BytesIO()
    Image.fromarray(EIGHT).resize((64, 64)).save(buffer, "JPEG")
    jpeg = image_dataset(np.zeros((64, 64), dtype=np.uint8))
    path = save(tmp_path / "jpeg.dcm", with_syntax(jpeg, "1.2.840.10008.1.2.4.50", [buffer.getvalue()]))
    assert np.array_equal(_grey(path, 64), np.asarray(Image.open(buffer)))


def _deflated(data: Dataset) -> Dataset:
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    return data


def _without_pixels() -> Dataset:
    data = image_dataset(EIGHT)
    del data.PixelData
    return data


def _segmented() -> Dataset:
    data = image_dataset(EIGHT, PhotometricInterpretation="PALETTE COLOR")
    for name in ("Red", "Green", "Blue"):
        setattr(data, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 8])
        setattr(data, f"Segmented{name}PaletteColorLookupTableData", b"\0\1" * 8)
    return data


def _short() -> Dataset:
    data = image_dataset(EIGHT)
    data.PixelData = data.PixelData[:100]
    return data


REFUSED: dict[str, Callable[[], Dataset]] = {
    "holds 30 frames, and one is allowed; export the frame that counts": lambda: image_dataset(
        EIGHT, NumberOfFrames=30
    ),
    "holds no pixel data; take it out": _without_pixels,
    "is cut off: it has fewer pixels than its size says": _short,
    r"has \d+ pixels, and 1 to 178956970 are allowed": lambda: image_dataset(EIGHT, Rows=65535, Columns=65535),
    "has 0 pixels, and 1 to": lambda: image_dataset(EIGHT, Rows=0),
    "numbers of more than 16 bits": lambda: image_dataset(EIGHT, BitsAllocated=32),
    "holds numbers whose bits are not right-aligned": lambda: image_dataset(TWELVE << 4, BitsStored=12, HighBit=15),
    "'Deflated Explicit VR Little Endian', which is not read": lambda: _deflated(image_dataset(EIGHT)),
    "'JPEG Lossless, Non-Hierarchical.*'; install pylibjpeg.*pylibjpeg-libjpeg": lambda: with_syntax(
        image_dataset(EIGHT), "1.2.840.10008.1.2.4.70", [b"\xff\xd8"]
    ),
    "'JPEG-LS Lossless Image Compression'; install pylibjpeg": lambda: with_syntax(
        image_dataset(EIGHT), "1.2.840.10008.1.2.4.80", [b"\xff\xd8"]
    ),
    "'MPEG2 Main Profile / Main Level', which nothing here reads": lambda: with_syntax(
        image_dataset(EIGHT), "1.2.840.10008.1.2.4.100", [b"\xff\xd8"]
    ),
    "stored in an unknown transfer syntax": lambda: with_syntax(image_dataset(EIGHT), "1.2.3.4.5", [b"\xff\xd8"]),
    "window without a width": lambda: image_dataset(EIGHT, WindowCenter="5", WindowWidth="0"),
    "rescales all grey values to one": lambda: image_dataset(EIGHT, RescaleSlope="0", RescaleIntercept="1"),
    "VOI LUT function that is none of": lambda: image_dataset(
        EIGHT, WindowCenter="5", WindowWidth="9", VOILUTFunction="CURVE"
    ),
    "palette in segments": _segmented,
    "colours of a kind that is not read": lambda: image_dataset(COLOUR, PhotometricInterpretation="HSV"),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_cannot_be_read_gets_one_sentence(tmp_path: Path, sentence: str) -> None:
    """It names the file without its folders, and what to do."""
    save(tmp_path / "x.dcm", REFUSED[sentence]())
    with pytest.raises(DataError, match=r"^the image x\.dcm .*" + sentence) as caught:
        decode_image(tmp_path / "x.dcm", 16)
    assert str(tmp_path) not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "sentence", [each for each in REFUSED if "frames" in each or "pixel data" in each or "aligned" in each]
)
def test_what_the_header_tells_is_told_when_the_folder_is_read(tmp_path: Path, sentence: str) -> None:
    """Before anything is charged or trained, with the reason; skipped where the plan says so."""
    write_dicom(tmp_path / "mole" / "good.dcm", EIGHT)
    save(tmp_path / "mole" / "bad.dcm", REFUSED[sentence]())
    with pytest.raises(DataError, match=r"1 image file cannot be decoded: mole/bad\.dcm \(" + sentence):
        _load(tmp_path)
    table = _load(tmp_path, on_undecodable="skip")
    assert [record.path for record in table.records] == ["mole/good.dcm"]
    assert table.left_out == {"undecodable": 1}
    assert sentence.split(",", maxsplit=1)[0] in table.warnings[-1]


def test_damaged_bytes_give_pixels_or_a_data_error_and_nothing_else(tmp_path: Path) -> None:
    """A parser may raise many kinds of exception; a flipped bit must not end a site with a traceback."""
    rng = np.random.default_rng(1)
    compressed = image_dataset(EIGHT)
    compressed.compress(RLELossless)
    refused = 0
    for number, data in enumerate((image_dataset(EIGHT, WindowCenter="9", WindowWidth="90"), compressed)):
        whole = np.frombuffer(save(tmp_path / f"{number}.dcm", data).read_bytes(), dtype=np.uint8)
        for trial in range(300):
            damaged = whole.copy()
            damaged[rng.integers(132, len(whole), 1 + trial % 8)] = rng.integers(0, 256)
            end = rng.integers(132, len(whole) + 1) if trial % 3 == 0 else len(whole)
            (tmp_path / "mole").mkdir(exist_ok=True)
            path = tmp_path / "mole" / "damaged.dcm"
            path.write_bytes(damaged[:end].tobytes())
            try:
                assert decode_image(path, 16).shape == (16, 16, 3)
            except DataError:
                refused += 1
            try:
                check_decodable(_load(tmp_path), on_undecodable="refuse")
            except DataError:
                continue
    assert refused > 100


def test_sequences_a_thousand_deep_are_one_data_error(tmp_path: Path) -> None:
    """A recursion that ends in a traceback would be a crash that a file can cause."""
    path = write_dicom(tmp_path / "x.dcm", EIGHT)
    whole = path.read_bytes()
    # Items of undefined length, never closed: what a fuzzer finds first.
    opened = (b"\x08\x00\x10\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff") * 5000
    at = whole.index(b"\x10\x00\x20\x00LO")
    path.write_bytes(whole[:at] + opened + whole[at:])
    with pytest.raises(DataError, match=r"^the image x\.dcm is damaged"):
        decode_image(path, 16)


def test_files_without_a_suffix_are_found_by_their_preamble(tmp_path: Path) -> None:
    """Archives name files by a UID or a number; a table of contents is no image."""
    for number, name in enumerate(("IM-0001", "1.2.840.10008.17", "b.DCM", "series/1/IM2", "series/c.dcm")):
        write_dicom(tmp_path / "mole" / name, EIGHT, PatientID=f"P{number}")
    save(tmp_path / "mole" / "DICOMDIR", _without_pixels())
    (tmp_path / "mole" / "README").write_text("no preamble")
    (tmp_path / "mole" / "empty").write_bytes(b"")
    table = _load(tmp_path)
    assert {record.path.removeprefix("mole/") for record in table.records} == {
        *("IM-0001", "1.2.840.10008.17", "b.DCM", "series/1/IM2", "series/c.dcm"),
    }
    assert table.left_out == {"not_an_image": 3}


def test_a_zero_byte_dicom_file_is_named(tmp_path: Path) -> None:
    """Its name says that an image should be there."""
    write_dicom(tmp_path / "mole" / "a.dcm", EIGHT)
    (tmp_path / "mole" / "b.dcm").write_bytes(b"")
    with pytest.raises(DataError, match=r"cannot be decoded: mole/b\.dcm \(is empty\); replace"):
        _load(tmp_path)


def test_the_patient_is_the_tag_and_all_their_images_are_one_unit(tmp_path: Path) -> None:
    """Spaces that pad a tag are not part of an id."""
    for number, patient in enumerate(("A", "A ", "B")):
        write_dicom(tmp_path / "mole" / f"{number}.dcm", EIGHT + np.uint8(number), PatientID=patient)
    table = _load(tmp_path)
    assert list(table.unit_labels()) == ["patient:A", "patient:B"]
    assert table.unit_name == "patient"
    assert table.patient_column is None
    by_record = _load(tmp_path, unit="record")
    assert {unit.partition(":")[0] for unit in by_record.unit_labels()} == {"sha256"}
    # The ledger's marks still see whose they are.
    assert by_record.records[0].ids == ("patient:A",)


def test_a_tag_that_an_index_overrules_still_finds_the_patient(tmp_path: Path) -> None:
    """Other images of one person, by the tag in one source and by a pseudonym in the other: the ledger's marks meet."""
    sources: list[ImageTable] = []
    for source, (tag, lines) in {
        "plain": ("T1", None),
        "index": ("T1", "path,label,patient_id,lesion_id\nmole/0.dcm,mole,Q1,L1\n"),
        "other": ("T2", "path,label,patient_id,lesion_id\nmole/0.dcm,mole,Q2,L2\n"),
        "agreed": ("T3", "path,label,patient_id\nmole/0.dcm,mole,T3\n"),
    }.items():
        write_dicom(tmp_path / source / "mole" / "0.dcm", (EIGHT + len(sources)).astype(np.uint8), PatientID=tag)
        if lines is not None:
            (tmp_path / source / "index.csv").write_text(lines)
        sources.append(_load(tmp_path / source))
    assert [table.records[0].ids for table in sources] == [
        ("patient:T1",),
        ("patient:Q1", "dicom:T1", "lesion:L1"),
        ("patient:Q2", "dicom:T2", "lesion:L2"),
        ("patient:T3",),
    ]
    assert [table.records[0].unit for table in sources] == ["patient:T1", "patient:Q1", "patient:Q2", "patient:T3"]
    ((plain,), (by_index,), (other,), _) = (marks_of_images(Identity.from_seed(b"\1" * 32), each) for each in sources)
    assert len(plain & by_index) == 1
    # The control: another person's images, so that what meets is the tag.
    assert plain.isdisjoint(other)


def test_the_index_says_otherwise_than_the_tag(tmp_path: Path) -> None:
    """A pseudonym that the hospital gave goes before what the modality wrote; lesions go after patients."""
    for number in range(3):
        write_dicom(tmp_path / "mole" / f"{number}.dcm", EIGHT + np.uint8(number), PatientID="ANON")
    lines = "".join(f"mole/{n}.dcm,mole,L{n},Q{n % 2}\n" for n in range(3))
    (tmp_path / "index.csv").write_text("path,label,lesion_id,patient_id\n" + lines)
    assert list(_load(tmp_path).unit_labels()) == ["patient:Q0", "patient:Q1"]
    (tmp_path / "index.csv").write_text("path,label,lesion_id\nmole/0.dcm,mole,L0\n")
    assert list(_load(tmp_path).unit_labels()) == ["patient:ANON"]


def test_files_without_a_patient_beside_files_with_one_are_refused(tmp_path: Path) -> None:
    """Somebody's second image as a unit of its own would be a second budget for them."""
    write_dicom(tmp_path / "mole" / "a.dcm", EIGHT)
    Image.fromarray(EIGHT).save(tmp_path / "mole" / "b.png")
    with pytest.raises(DataError, match=r"1 of 2 images do not say whose they are, while DICOM .*: mole/b\.png; list"):
        _load(tmp_path)
    assert len(_load(tmp_path, unit="record").records) == 2
    (tmp_path / "mole" / "b.png").unlink()
    write_dicom(tmp_path / "mole" / "a.dcm", EIGHT, PatientID="")
    assert _load(tmp_path).unit_name == "image"


def test_one_patient_id_for_half_of_all_is_refused(tmp_path: Path) -> None:
    """ANONYMOUS is nobody."""
    for number in range(11):
        write_dicom(tmp_path / "mole" / f"{number}.dcm", EIGHT + np.uint8(number), PatientID="ANONYMOUS")
    with pytest.raises(DataError, match="one patient holds at least half of the 11 images by the DICOM tag PatientID"):
        _load(tmp_path)


def test_a_demo_deals_nested_dicom_files_with_their_patients(tmp_path: Path) -> None:
    """Names repeat in every series of an archive: none may take another's place."""
    for number in range(4):
        for label in ("mole", "wart"):
            pixels = EIGHT + np.uint8(number + 10 * (label == "wart"))
            write_dicom(tmp_path / "set" / label / f"series{number}" / "IM1", pixels, PatientID=f"{label}{number}")
    split_dataset(tmp_path / "set", tmp_path / "dealt", hospitals=2, seed=0, on_undecodable="refuse")
    units = [list(_load(tmp_path / "dealt" / f"hospital-{k}" / "data").unit_labels()) for k in (1, 2)]
    assert sorted(units[0] + units[1]) == sorted(f"patient:{label}{n}" for label in ("mole", "wart") for n in range(4))
    assert len(units[0]) == 4
