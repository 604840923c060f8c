"""`index.csv` beside the class folders: whose an image is, what it shows, which of two copies counts."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from client.data.image_files import composed
from client.data.truth import truth
from common.errors import DataError
from common.printable import printable
from common.site_config import AUTO_COLUMN

INDEX_NAME = "index.csv"
_PATIENT_ID = "patient_id"
_OWN = ("path", "label", "lesion_id", "isic_id", "keep_clean")


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
    """

    rows: dict[str, IndexRow]
    patient_column: str | None


def read_index(path: Path, *, patient_column: str, required: bool) -> Index:
    """Read index.csv: columns path and label, optionally patients, lesion_id, isic_id, keep_clean; others are ignored.

    Args:
        path: The file.
        patient_column: Name of the patients' column; `auto` means patient_id if it is there, else none.
        required: Whether patients are what is protected: then the column must be there and whole. Else it is read as
            far as it goes.

    Raises:
        DataError: If the file is no UTF-8 CSV, lacks a column, has one twice, names one image twice, has a line of more
            cells than the first, or says of an image nothing in a column of patients that is required. Never holds
            what stands in a cell: it may be a patient's, whatever the column is called.
    """
    rows: dict[str, IndexRow] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            header = reader.fieldnames or ()
            column = _patient_column(header, patient_column, required=required)
            _check_header(header, (*_OWN, column))
            for cells in reader:
                _add_row(rows, cells, column, line=reader.line_num, required=required)
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(
            f"{INDEX_NAME} cannot be read as UTF-8 comma-separated values: {error}; save it as such"
        ) from error
    except OSError as error:
        raise DataError(f"{INDEX_NAME} cannot be read: {error.strerror}; check its permissions") from error
    return Index(rows, column)


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


def _patient_column(header: Sequence[str], asked: str, *, required: bool) -> str | None:
    """Name of the patients' column in this header."""
    if asked in header and asked not in _OWN:
        return asked
    if not required:
        return _PATIENT_ID if asked == AUTO_COLUMN and _PATIENT_ID in header else None
    if asked in _OWN:
        raise DataError(
            f"patient_column: seen '{asked}', which means something else in {INDEX_NAME}; name a column of patients, "
            f"or write '{AUTO_COLUMN}', which takes lesion_id where there is no {_PATIENT_ID}"
        )
    if asked != AUTO_COLUMN:
        raise DataError(
            f"patient_column: {INDEX_NAME} has no column '{asked}'; name the column that says whose an image is, or "
            f"write '{AUTO_COLUMN}'"
        )
    if _PATIENT_ID in header:
        return _PATIENT_ID
    # Passed over, patients would silently be protected by the lesion or by the image.
    alike = [name for name in header if name.strip().lower().replace(" ", "_").replace("-", "_") == _PATIENT_ID]
    if alike:
        raise DataError(
            f"{INDEX_NAME} has a column '{printable(alike[0])}'; write it as {_PATIENT_ID}, or name it as "
            "patient_column in the site file"
        )
    return None


def _add_row(
    rows: dict[str, IndexRow], cells: dict[str, str | None], column: str | None, *, line: int, required: bool
) -> None:
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
    if required and column is not None and not patient:
        raise DataError(
            f"{INDEX_NAME} line {line}: the column '{column}' is blank; whose each image is must stand there, so fill "
            "it in, or delete line and image"
        )
    rows[key] = IndexRow(
        label=cells["label"].strip(),
        patient=patient,
        lesion_id=(cells.get("lesion_id") or "").strip(),
        isic_id=(cells.get("isic_id") or "").strip(),
        keep_clean=truth(cells.get("keep_clean") or "", place=f"{INDEX_NAME} line {line}"),
    )
