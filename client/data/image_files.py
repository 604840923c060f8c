"""Files that may be images: which are, what their bytes hash to, and what their headers say; each is opened once."""

from __future__ import annotations

import hashlib
import os
import unicodedata
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from PIL import Image, UnidentifiedImageError

from client.data.dicom import PREAMBLE_BYTES, begins_as_dicom, read_header
from client.data.special_files import refuse_special
from common.errors import DataError

# From half of what it refuses on, Pillow only warns: of every whole-slide picture, and in words that help nobody.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

IMAGE_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png"})
DICOM_SUFFIXES: Final = frozenset({".dcm", ".dicom"})
# By the content, whatever the name: of all that Pillow knows, some formats run programs (EPS runs Ghostscript), and few
# are looked after. A multi-picture JPEG counts as JPEG.
_PICTURE_FORMATS: Final = ("JPEG", "PNG")
# Disks and network folders answer several at once; the rest is Python, which does not and is handed over in batches.
_READERS: Final = min(8, 2 * (os.cpu_count() or 1))
_FILES_PER_BATCH: Final = 64


@dataclass(frozen=True, slots=True)
class ScannedFile:
    """What one file says without its pixels.

    Attributes:
        sha256: Hex digest of its bytes.
        opens: Whether its header is that of an image that can be read.
        problem: Why it does not open, where more is known than that; never a value of its tags.
        patient: PatientID of a DICOM file; else empty. Never leaves the site.
        instance: SOPInstanceUID of a DICOM file; else empty.
    """

    sha256: str
    opens: bool
    problem: str = ""
    patient: str = ""
    instance: str = ""


def is_hidden(entry: Path) -> bool:
    """Whether its name begins with a dot, as those that systems leave in folders do (`._scan.jpg`, `.DS_Store`)."""
    return entry.name.startswith(".")


def is_picture(entry: Path) -> bool:
    """Whether it is a file that its name calls a JPEG or PNG image; links count as what they lead to."""
    return entry.suffix.lower() in IMAGE_SUFFIXES and not is_hidden(entry) and entry.is_file()


def is_dicom_file(entry: Path) -> bool:
    """Whether it is a file that begins as DICOM does, and whose name does not say that it is something else.

    Archives name files by numbers with dots, without a suffix. A DICOMDIR is a table of contents.
    """
    suffix = entry.suffix.lower()
    named = suffix in DICOM_SUFFIXES or not suffix or suffix[1:].isdigit()
    if not named or is_hidden(entry) or entry.name.upper() == "DICOMDIR" or not entry.is_file():
        return False
    try:
        with entry.open("rb") as stream:
            return begins_as_dicom(stream.read(PREAMBLE_BYTES))
    except OSError as error:
        raise DataError(f"the file {entry.name} cannot be read: {error.strerror}; check its permissions") from error


def tagged_patient(path: Path) -> str:
    """PatientID of a DICOM file; empty for any other file. Never leaves the site.

    Raises:
        DataError: If it is DICOM and pydicom is not installed.
        OSError: If it cannot be read.
    """
    with path.open("rb") as stream:
        if not begins_as_dicom(stream.read(PREAMBLE_BYTES)):
            return ""
        stream.seek(0)
        return read_header(stream).patient


def patient_ids(indexed: str, scan: ScannedFile) -> tuple[str, ...]:
    """Whose an image is: by the index, else by its DICOM tag; a tag that says otherwise stands behind, as `dicom:ID`.

    Args:
        indexed: What the index says; empty where it says nothing.
        scan: What the file says.
    """
    patient = indexed or scan.patient
    other = (f"dicom:{scan.patient}",) if scan.patient not in ("", patient) else ()
    return (f"patient:{patient}", *other) if patient else ()


def composed(text: str) -> str:
    """The text with accents as the systems that compose them write it (NFC): others write the same name otherwise."""
    return unicodedata.normalize("NFC", text)


def scan_files(files: Sequence[Path], origin: Path) -> list[ScannedFile]:
    """Hash files and read their headers, several at once.

    Args:
        files: Files.
        origin: Folder that messages name them from; those in folders of a folder are named by their place in `files`.

    Returns:
        In the files' order; what stands of one is a function of that file alone.

    Raises:
        DataError: If a file cannot be read, or is DICOM and pydicom is not installed.
    """

    def scan_batch(start: int) -> list[ScannedFile]:
        stop = min(start + _FILES_PER_BATCH, len(files))
        return [_scan(files[position], _shown(files, position, origin)) for position in range(start, stop)]

    with ThreadPoolExecutor(_READERS) as readers:
        batches = readers.map(scan_batch, range(0, len(files), _FILES_PER_BATCH))
        return [scanned for batch in batches for scanned in batch]


def _shown(files: Sequence[Path], position: int, origin: Path) -> str:
    """As the site's log may name it: archives name folders in a class's folder by patients."""
    relative = files[position].relative_to(origin)
    return f"{position + 1} of {len(files)}" if len(relative.parts) > 2 else relative.as_posix()


def _scan(path: Path, shown: str) -> ScannedFile:
    refuse_special(path, f"the image {shown}")
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            stream.seek(0)
            head = stream.read(PREAMBLE_BYTES)
            stream.seek(0)
            if not begins_as_dicom(head):
                problem = _picture_problem(stream) if head else "is empty"
                return ScannedFile(digest, opens=not problem, problem=problem)
            header = read_header(stream)
            return ScannedFile(
                digest,
                opens=not header.problem,
                problem=header.problem,
                patient=header.patient,
                instance=header.instance,
            )
    except OSError as error:
        raise DataError(f"the image {shown} cannot be read: {error.strerror}; check its permissions") from error


def open_picture(stream: BinaryIO) -> Image.Image:
    """Open a JPEG or PNG image by its content; any other format is unknown here.

    Args:
        stream: The file, at its beginning; stays open as long as the image is used.

    Raises:
        Exception: Whatever Pillow makes of a damaged file.
    """
    return Image.open(stream, formats=_PICTURE_FORMATS)


def _picture_problem(stream: BinaryIO) -> str:
    """Why a file is no picture that can be read; empty if nothing speaks against it."""
    try:
        with open_picture(stream):
            return ""
    except UnidentifiedImageError:
        return "is no JPEG, PNG or DICOM image, whatever its name"
    except Image.DecompressionBombError:
        return "has too many pixels"
    except Exception:  # noqa: BLE001 -- a damaged file leads Pillow to raise anything, TypeError and struct.error too
        return "is damaged"
