"""Whose the images of a folder are: what is refused, and what is told, once its files and index.csv were read."""

from __future__ import annotations

from collections.abc import Sequence

from client.data.image_files import composed
from client.data.index import INDEX_NAME, IndexRow
from client.data.resolve import Candidate
from common.errors import DataError
from common.plural import counted


def refuse_unlisted(candidates: Sequence[Candidate], index: dict[str, IndexRow], *, column: str) -> None:
    """Raise DataError if an image is not listed: one of nobody would be a unit of its own, with one more budget."""
    unlisted = sum(composed(candidate.path) not in index for candidate in candidates)
    if unlisted:
        raise DataError(
            f"{INDEX_NAME} does not list {unlisted} of {len(candidates)} images, so its column '{column}' does not say "
            "whose they are; add their lines, or delete the images"
        )


def index_warnings(candidates: Sequence[Candidate], index: dict[str, IndexRow], *, prefix: str) -> list[str]:
    """Sentences about files that index.csv names and are not there, and the other way round.

    Args:
        candidates: The files.
        index: Rows of index.csv by path.
        prefix: Folder of the class folders, from index.csv's; `.` for its own.
    """
    present = {composed(candidate.path) for candidate in candidates}
    # What says itself whose it is, a DICOM file, is no unit of its own.
    told = {composed(candidate.path) for candidate in candidates if candidate.ids}
    inside = "" if prefix == "." else composed(prefix) + "/"
    absent = sum(name.startswith(inside) and name not in present for name in index)
    unlisted = len(present - index.keys() - told)
    warnings = []
    if absent:
        warnings.append(f"{INDEX_NAME} names {counted(absent, 'file')} beyond those in the class folders")
    if unlisted:
        warnings.append(
            f"{counted(unlisted, 'image is', 'images are')} not in {INDEX_NAME}: each counts as a unit of its own"
        )
    return warnings
