"""Whose the images of a folder are: what is refused, and what is told, once its files and index.csv were read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from client.data.index import INDEX_NAME, IndexRow
from client.data.resolve import Candidate
from client.data.table import ImageTable
from common.errors import DataError
from common.plural import counted

# Up to so many images one unit may hold any part of them.
_FEW_IMAGES = 10


def refuse_unlisted(candidates: Sequence[Candidate], index: dict[str, IndexRow], *, column: str) -> None:
    """Raise DataError if an image is not listed: one of nobody would be a unit of its own, with one more budget."""
    unlisted = sum(candidate.path not in index for candidate in candidates)
    if unlisted:
        raise DataError(
            f"{INDEX_NAME} does not list {unlisted} of {len(candidates)} images, so its column '{column}' does not say "
            "whose they are; add their lines, or delete the images"
        )


def index_warnings(candidates: list[Candidate], index: dict[str, IndexRow], *, prefix: str) -> list[str]:
    """Sentences about files that index.csv names and are not there, and the other way round.

    Args:
        candidates: The files.
        index: Rows of index.csv by path.
        prefix: Folder of the class folders, from index.csv's; `.` for its own.
    """
    present = {candidate.path for candidate in candidates}
    inside = "" if prefix == "." else prefix + "/"
    absent = sum(name.startswith(inside) and name not in present for name in index)
    unlisted = len(present - index.keys())
    warnings = []
    if absent:
        warnings.append(f"{INDEX_NAME} names {counted(absent, 'file')} beyond those in the class folders")
    if unlisted:
        warnings.append(
            f"{counted(unlisted, 'image is', 'images are')} not in {INDEX_NAME}: each counts as a unit of its own"
        )
    return warnings


def refuse_half_of_one_unit(table: ImageTable) -> None:
    """Raise DataError if one unit has half of all images: far more often than a patient it is a wrong column."""
    images = len(table.records)
    unit, most = Counter(record.unit for record in table.records).most_common(1)[0]
    if images > _FEW_IMAGES and 2 * most >= images:
        # The unit's own kind: beside lesions there are units of an isic_id.
        kinds = {"patient": ("patient", table.patient_column), "lesion": ("lesion", "lesion_id")}
        what, column = kinds.get(unit.partition(":")[0], ("isic_id", "isic_id"))
        raise DataError(
            f"one {what} holds at least half of the {images} images by the column '{column}' of {INDEX_NAME}, so it is "
            "probably the wrong column, or stands for unknown; name the column of patients (patient_column in the site "
            "file), or correct it, or take images out"
        )
