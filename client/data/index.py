"""`index.csv` beside the class folders: which lesion an image shows, and which of two contradicting copies is right."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from common.errors import DataError

INDEX_NAME = "index.csv"
_TRUE = frozenset({"true", "1", "yes"})
_FALSE = frozenset({"false", "0", "no"})


@dataclass(frozen=True, slots=True)
class IndexRow:
    """What index.csv says about one image.

    Attributes:
        label: Class name; must be the folder's.
        lesion_id: Empty where unknown.
        isic_id: Empty where unknown.
        keep_clean: False if this file is not to be used; None where the column is absent or blank.
    """

    label: str
    lesion_id: str
    isic_id: str
    keep_clean: bool | None


def read_index(path: Path) -> dict[str, IndexRow]:
    """Read index.csv: columns path and label, optionally lesion_id, isic_id and keep_clean; others are ignored.

    Returns:
        Rows by image path, relative to the index's folder, with forward slashes.

    Raises:
        DataError: If the file is no UTF-8 CSV, lacks a column, or names one image twice.
    """
    rows: dict[str, IndexRow] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            missing = {"path", "label"} - set(reader.fieldnames or ())
            if missing:
                raise DataError(
                    f"{INDEX_NAME} has no column {' and no column '.join(sorted(missing))}; its first line must name "
                    "at least path,label (and lesion_id where lesions are known)"
                )
            for cells in reader:
                _add_row(rows, cells, line=reader.line_num)
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(
            f"{INDEX_NAME} cannot be read as UTF-8 comma-separated values: {error}; save it as such"
        ) from error
    except OSError as error:
        raise DataError(f"{INDEX_NAME} cannot be read: {error.strerror}; check its permissions") from error
    return rows


def _add_row(rows: dict[str, IndexRow], cells: dict[str, str | None], *, line: int) -> None:
    name = (cells["path"] or "").strip().replace("\\", "/")
    if not name or cells["label"] is None:
        raise DataError(f"{INDEX_NAME} line {line} has no path or no label; complete or delete the line")
    key = PurePosixPath(name).as_posix()
    if key in rows:
        raise DataError(f"{INDEX_NAME} line {line} names {key} a second time; keep one line per image")
    rows[key] = IndexRow(
        label=cells["label"].strip(),
        lesion_id=(cells.get("lesion_id") or "").strip(),
        isic_id=(cells.get("isic_id") or "").strip(),
        keep_clean=_truth(cells.get("keep_clean") or "", line=line),
    )


def _truth(text: str, *, line: int) -> bool | None:
    word = text.strip().lower()
    if not word:
        return None
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise DataError(f"{INDEX_NAME} line {line}: keep_clean is {text!r}; write True, False, or leave it blank")
