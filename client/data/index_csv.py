"""`index.csv` beside the class folders: whose an image is, what it shows, which of two copies counts."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from client.data.image_files import composed
from client.data.reading import RawImage
from client.data.truth import truth
from common.errors import DataError
from common.plural import counted
from common.printable import printable
from common.site_config import AUTO_COLUMN

INDEX_NAME = "index.csv"
_PATIENT_ID = "patient_id"
# Letters of names that mean that column: Patient ID, PatientID, patient.
_MEANT = ("patientid", "patient")
_OWN = ("path", "label", "lesion_id", "isic_id", "keep_clean")
_TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".tab", ".txt", ".xls", ".xlsx", ".xlsm", ".ods"})


@dataclass(frozen=True, slots=True)
class IndexRow:
    """What index.csv says about one image.

    Attributes:
        label: Class name; must be the folder's.
        patient: What stands in the patients' column; empty where there is none, or nothing stands there.
        lesion_id: Empty where unknown.
        isic_id: Empty where unknown.
        keep_clean: False if this file is not to be used; None where the column is absent or blank.
    """

    label: str
    patient: str
    lesion_id: str
    isic_id: str
    keep_clean: bool | None


@dataclass(frozen=True, slots=True)
class Index:
    """What index.csv says.

    Attributes:
        rows: By image path, relative to the index's folder, with forward slashes and composed accents (NFC).
        patient_column: Name of the column that says whose an image is; None if there is none.
        untold: Why it does not say of each image whose it is, though it was to; None where nothing is amiss.
    """

    rows: dict[str, IndexRow]
    patient_column: str | None
    untold: str | None = None


def find_index(root: Path, base: Path) -> Path | None:
    """The folder that index.csv lies in; None if there is none.

    Passed over, an index would make each image a unit of its own, with a budget of its own.

    Args:
        root: The site's data folder.
        base: The folder of class folders, which may be the same.

    Raises:
        DataError: If there are two, or what is meant as one is called otherwise (`Index.csv`, and where there is none
            `index.xlsx` and the like), or what has the name is no file.
        OSError: If a folder cannot be listed.
    """
    places = tuple(dict.fromkeys((root, base)))
    _refuse_other_names(places)
    found = [place for place in places if os.path.lexists(place / INDEX_NAME)]
    if len(found) > 1:
        raise DataError(f"{INDEX_NAME}: seen in the data folder and beside the class folders; keep one")
    if found and not (found[0] / INDEX_NAME).is_file():
        raise DataError(f"{INDEX_NAME}: is no file, or a link to none; put the list of images there, or remove it")
    return found[0] if found else None


def read_index(path: Path, *, patient_column: str) -> Index:
    """Read index.csv: columns path and label, optionally patients, lesion_id, isic_id, keep_clean; others are ignored.

    Args:
        path: The file.
        patient_column: Name of the patients' column; `auto` means patient_id if it is there, else none. A column that
            is not there, or not whole, is read as far as it goes: it matters where patients are protected.

    Raises:
        DataError: If the file is no UTF-8 CSV, lacks another column, has one twice, names one image twice, or has a
            line of more cells than the first. Neither it nor `untold` holds what stands in a cell: it may be a
            patient's, whatever the column is called.
    """
    rows: dict[str, IndexRow] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            header = reader.fieldnames or ()
            column, untold = _patient_column(header, patient_column)
            _check_header(header, (*_OWN, column))
            for cells in reader:
                row = _add_row(rows, cells, column, line=reader.line_num)
                if column is not None and not row.patient and untold is None:
                    untold = (
                        f"{INDEX_NAME} line {reader.line_num}: the column '{column}' is blank; whose each image is "
                        "must stand there, so fill it in, or delete line and image"
                    )
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(
            f"{INDEX_NAME} cannot be read as UTF-8 comma-separated values: {error}; save it as such"
        ) from error
    except OSError as error:
        raise DataError(f"{INDEX_NAME} cannot be read: {error.strerror}; check its permissions") from error
    return Index(rows, column, untold)


def _refuse_other_names(folders: Iterable[Path]) -> None:
    names = sorted(entry.name for folder in folders for entry in folder.iterdir())
    alike = [name for name in names if name != INDEX_NAME and name.strip().casefold() == INDEX_NAME]
    if INDEX_NAME not in names:
        alike += [name for name in names if _is_other_table(name)]
    if alike:
        raise DataError(
            f"the data folder holds '{printable(alike[0])}', but only {INDEX_NAME}, in small letters, says whose an "
            "image is; name it so, save it as such, or take it out of the folder"
        )


def _is_other_table(name: str) -> bool:
    parts = Path(name.strip().casefold())
    return parts.name.partition(".")[0] == "index" and not _TABLE_SUFFIXES.isdisjoint(parts.suffixes)


def _check_header(header: Sequence[str], used: Sequence[str | None]) -> None:
    missing = {"path", "label"} - set(header)
    if missing:
        raise DataError(
            f"{INDEX_NAME} has no column {' and no column '.join(sorted(missing))}; its first line must name "
            "at least path,label (and patient_id or lesion_id where patients or lesions are known)"
        )
    twice = [name for name in used if header.count(name) > 1]
    if twice:
        # The csv module would take the last one without a word.
        raise DataError(f"{INDEX_NAME} has the column {twice[0]} twice; keep one of them")


def _patient_column(header: Sequence[str], asked: str) -> tuple[str | None, str | None]:
    """Name of the patients' column in this header; and why there is none, where one was named or seems to be meant."""
    if asked in header and asked not in _OWN:
        return asked, None
    if asked in _OWN:
        return None, (
            f"patient_column: seen '{asked}', which means something else in {INDEX_NAME}; name a column of patients, "
            f"or write '{AUTO_COLUMN}', which takes lesion_id where there is no {_PATIENT_ID}"
        )
    if asked != AUTO_COLUMN:
        return None, (
            f"patient_column: {INDEX_NAME} has no column '{asked}'; name the column that says whose an image is, or "
            f"write '{AUTO_COLUMN}'"
        )
    if _PATIENT_ID in header:
        return _PATIENT_ID, None
    # Passed over, patients would silently be protected by the lesion or by the image.
    alike = [name for name in header if "".join(filter(str.isalnum, name.lower())) in _MEANT]
    if alike:
        return None, (
            f"{INDEX_NAME} has a column '{printable(alike[0])}'; write it as {_PATIENT_ID}, or name it as "
            "patient_column"
        )
    return None, None


def _add_row(rows: dict[str, IndexRow], cells: dict[str, str | None], column: str | None, *, line: int) -> IndexRow:
    name = (cells["path"] or "").strip().replace("\\", "/")
    # The csv module keeps them under None; every cell behind a stray comma would be read as that of another column.
    if None in cells:
        raise DataError(
            f"{INDEX_NAME} line {line} has more cells than the first line; put a value that holds a comma into double "
            "quotes, or take out what is too much"
        )
    if not name or cells["label"] is None:
        raise DataError(f"{INDEX_NAME} line {line} has no path or no label; complete or delete the line")
    key = composed(PurePosixPath(name).as_posix())
    if key in rows:
        raise DataError(f"{INDEX_NAME} line {line} names an image a second time; keep one line per image")
    patient = (cells.get(column) or "").strip() if column is not None else ""
    rows[key] = IndexRow(
        label=cells["label"].strip(),
        patient=patient,
        lesion_id=(cells.get("lesion_id") or "").strip(),
        isic_id=(cells.get("isic_id") or "").strip(),
        keep_clean=truth(cells.get("keep_clean") or "", place=f"{INDEX_NAME} line {line}"),
    )
    return rows[key]


def unlisted(images: Iterable[RawImage], index: Index) -> str | None:
    """Why not all images have a patient, though the index has a column of them: one of nobody has no line."""
    names = [composed(image.path) for image in images]
    missing = sum(name not in index.rows for name in names)
    if index.patient_column is None or not missing:
        return None
    return (
        f"{INDEX_NAME} does not list {missing} of {len(names)} images, so its column '{index.patient_column}' does not "
        "say whose they are; add their lines, or delete the images"
    )


def index_warnings(images: Sequence[RawImage], index: Index, *, prefix: str) -> list[str]:
    """Sentences about files that index.csv names and are not there, and the other way round.

    Args:
        images: The files.
        index: What index.csv says.
        prefix: Folder of the class folders, from index.csv's; `.` for its own.
    """
    present = {composed(image.path) for image in images}
    # What says itself whose it is, a DICOM file, is no unit of its own.
    told = {composed(image.path) for image in images if image.ids}
    inside = "" if prefix == "." else composed(prefix) + "/"
    absent = sum(name.startswith(inside) and name not in present for name in index.rows)
    nameless = len(present - index.rows.keys() - told)
    warnings = []
    if absent:
        warnings.append(f"{INDEX_NAME} names {counted(absent, 'file')} beyond those in the class folders")
    if nameless:
        warnings.append(
            f"{counted(nameless, 'image is', 'images are')} not in {INDEX_NAME}: each counts as a unit of its own"
        )
    return warnings
