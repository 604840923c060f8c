"""What the header of a DICOM file says: whose and which image it is, and whether its pixels can be read here.

No value of a text tag is ever told: neither in a message, nor by pydicom's own warnings and log, which quote them.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final

from common.errors import DataError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset
    from pydicom.tag import BaseTag
    from pydicom.uid import UID

PREAMBLE_BYTES: Final = 132
# As many as Pillow allows.
MAX_PIXELS: Final = 178_956_970
_PIXEL_DATA: Final = 0x7FE00010
_FLOAT_PIXELS: Final = frozenset({0x7FE00008, 0x7FE00009})
_UNDEFINED_LENGTH: Final = 0xFFFFFFFF
_ITEM_AND_LENGTH_BYTES: Final = 12
_DEFLATED: Final = "1.2.840.10008.1.2.1.99"
_HEADER: Final = (
    "PatientID",
    "SOPInstanceUID",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PhotometricInterpretation",
)
_one_at_a_time: Final = threading.Lock()


@dataclass(frozen=True, slots=True)
class DicomHeader:
    """One file's header.

    Attributes:
        patient: PatientID, without spaces at its ends; empty if there is none. Never leaves the site.
        instance: SOPInstanceUID; empty if there is none.
        problem: Why its pixels cannot be used, to be read after the file's name; empty if nothing speaks against them.
    """

    patient: str
    instance: str
    problem: str


def begins_as_dicom(head: bytes) -> bool:
    """Whether the first `PREAMBLE_BYTES` of a file are those of a DICOM file."""
    return head[128:PREAMBLE_BYTES] == b"DICM"


@contextlib.contextmanager
def silent_pydicom() -> Iterator[None]:
    """Keep pydicom from telling values of tags: its warnings and log lines quote what they find wrong.

    One thread at a time: Python's warnings are switched off for the whole process, and back on as they were.

    Raises:
        DataError: If pydicom is not installed.
    """
    try:
        from pydicom import config  # noqa: PLC0415 -- optional
    except ImportError as error:
        raise DataError("the data hold DICOM files, and pydicom is not installed; install fedward[data]") from error
    with _one_at_a_time, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config.logger.disabled = True
        config.settings.reading_validation_mode = config.IGNORE
        yield


def read_header(stream: BinaryIO) -> DicomHeader:
    """Read the header of a file that begins as DICOM does.

    Args:
        stream: The file, at its beginning.

    Raises:
        DataError: If pydicom is not installed.
    """
    with silent_pydicom():
        try:
            return _read_header(stream)
        except Exception:  # noqa: BLE001 -- a damaged file leads pydicom to raise anything, with values in the text
            return DicomHeader("", "", "is damaged: its DICOM header cannot be read; export it again")


def _read_header(stream: BinaryIO) -> DicomHeader:
    from pydicom.filereader import read_dataset  # noqa: PLC0415 -- optional
    from pydicom.tag import Tag  # noqa: PLC0415
    from pydicom.uid import UID  # noqa: PLC0415

    found: list[tuple[int, int]] = []

    def at_pixels(tag: BaseTag, _: str | None, length: int) -> bool:
        if tag == _PIXEL_DATA or tag in _FLOAT_PIXELS:
            found.append((int(tag), length))
        return bool(found)

    stream.seek(PREAMBLE_BYTES)
    # Group 2 is always written like this; not by `dcmread`, which would unpack a deflated file whatever its size.
    meta = read_dataset(
        stream, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, _, __: tag.group != 2
    )
    syntax = UID(str(meta.get("TransferSyntaxUID", "")))
    if syntax == _DEFLATED:
        return DicomHeader("", "", f"is stored as '{syntax.name}', which is not read; export it uncompressed")
    data = read_dataset(
        stream,
        is_implicit_VR=syntax.is_transfer_syntax and syntax.is_implicit_VR,
        is_little_endian=not syntax.is_transfer_syntax or syntax.is_little_endian,
        stop_when=at_pixels,
        specific_tags=[Tag(name) for name in _HEADER],
    )
    problem = _problem(data, syntax, found, stream)
    return DicomHeader(_text(data, "PatientID"), _text(data, "SOPInstanceUID"), problem)


def _text(data: Dataset, keyword: str) -> str:
    value = data.get(keyword)
    return "" if value is None else str(value).strip(" \0")


def _problem(data: Dataset, syntax: UID, found: list[tuple[int, int]], stream: BinaryIO) -> str:
    frames = int(data.get("NumberOfFrames") or 1)
    if frames > 1:
        return f"holds {frames} frames, and one is allowed; export the frame that counts as a file of its own"
    if not found or "Rows" not in data or "Columns" not in data:
        return "holds no pixel data; take it out of the folder"
    tag, length = found[0]
    if tag in _FLOAT_PIXELS or int(data.BitsAllocated) not in (1, 8, 16):
        return "holds numbers of more than 16 bits; export it with 8 or 16 bits"
    if data.get("HighBit") is not None and int(data.HighBit) != int(data.BitsStored) - 1:
        # Shifted numbers, which pydicom takes as they stand: it would show the lowest bits.
        return "holds numbers whose bits are not right-aligned (HighBit is not BitsStored - 1); export it again"
    pixels = int(data.Rows) * int(data.Columns)
    if not 1 <= pixels <= MAX_PIXELS:
        return f"has {pixels} pixels, and 1 to {MAX_PIXELS} are allowed; export it smaller"
    return _syntax_problem(syntax) or _cut_off(data, length, stream)


def _syntax_problem(syntax: UID) -> str:
    """Why pixels of that transfer syntax cannot be read here; a name is told where the standard gives it one."""
    from pydicom.pixels.decoders.base import get_decoder  # noqa: PLC0415 -- optional

    if not syntax.is_transfer_syntax:
        return "is stored in an unknown transfer syntax; export it as 'Explicit VR Little Endian'"
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        return f"is stored as '{syntax.name}', which nothing here reads; export it as 'Explicit VR Little Endian'"
    if decoder.is_available:
        return ""
    needed = [each.partition(" - requires ")[2] for each in decoder.missing_dependencies if "pylibjpeg" in each]
    return (
        f"is stored as '{syntax.name}'; install {needed[0] if needed else 'a decoder for pydicom'}, or export it as "
        "'Explicit VR Little Endian'"
    )


def _cut_off(data: Dataset, length: int, stream: BinaryIO) -> str:
    """Why there are too few bytes: fewer than the image's size asks for, or than the file says it has."""
    start = stream.tell()
    left = stream.seek(0, 2) - start - _ITEM_AND_LENGTH_BYTES
    if length == _UNDEFINED_LENGTH:  # compressed, of any length
        return "" if left > 0 else "is cut off: it has no pixels; export it again"
    samples = int(data.get("SamplesPerPixel") or 1)
    count = int(data.Rows) * int(data.Columns) * samples
    if data.get("PhotometricInterpretation") == "YBR_FULL_422":
        count = count * 2 // 3
    # Implicit headers are four bytes shorter.
    if length * 8 < count * int(data.BitsAllocated) or left + 4 < length:
        return "is cut off: it has fewer pixels than its size says; export it again"
    return ""
