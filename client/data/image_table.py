"""From files with a class and an owner to an `ImageTable`: the same rules for class folders and for indices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from client.data.image_files import ScannedFile
from client.data.resolve import Candidate, Owner, left_after_duplicates, one_label_per_unit
from client.data.table import ImageRecord, ImageTable, OnUndecodable, UnitName
from common.errors import DataError

# Up to so many images one unit may hold any part of them.
_FEW_IMAGES = 10


@dataclass(frozen=True, slots=True)
class Found:
    """What was found, before duplicates are resolved.

    Attributes:
        root: Folder that paths start from.
        candidates: All files that have a class.
        scans: What each file says, by path.
        classes: Class names, in the plan's order.
        patient_column: The column that says who is a patient, if that is the unit; None where no column does.
        columns: What tells a unit, by the kind that its id begins with (`patient`, `lesion`, `isic`), for messages.
        warnings: Sentences about the files.
        left_out: How many files are not among the candidates, by reason.
    """

    root: Path
    candidates: Sequence[Candidate]
    scans: Mapping[str, ScannedFile]
    classes: tuple[str, ...]
    patient_column: str | None
    columns: Mapping[str, str]
    warnings: Sequence[str]
    left_out: Mapping[str, int]


def resolved_table(found: Found, *, on_undecodable: OnUndecodable, owner: Owner) -> ImageTable:
    """Resolve duplicates and contradictions, and leave out what cannot be read.

    Args:
        found: Files with a class each.
        on_undecodable: As for `client.data.folder.load_table`.
        owner: What warnings call a unit of several images.

    Raises:
        DataError: If nothing is left, an unreadable file is to be refused, or one unit holds half of many images.
    """
    warnings = list(found.warnings)
    kept, left_out = left_after_duplicates(found.candidates, warnings, owner=owner)
    labels = one_label_per_unit(kept, warnings, owner=owner)
    if not kept:
        raise DataError(
            "every image in the data folder contradicts another or is marked as not clean; "
            "correct keep_clean in index.csv"
        )
    records = tuple(ImageRecord(c.path, found.classes.index(labels[c.unit]), c.unit, c.sha256, c.ids) for c in kept)
    table = ImageTable(
        found.root,
        records,
        found.classes,
        _unit_name(records),
        patient_column=found.patient_column,
        warnings=tuple(warnings),
        left_out=dict(Counter(left_out) + Counter(found.left_out)),
    )
    bad = {record.path: found.scans[record.path].problem for record in records if not found.scans[record.path].opens}
    whole = table.without_undecodable(bad, on_undecodable=on_undecodable, problems=bad)
    _refuse_half_of_one_unit(whole, found.columns)
    return _warned_of_one_class(whole)


def _unit_name(records: Sequence[ImageRecord]) -> UnitName:
    kinds = {record.unit.partition(":")[0] for record in records}
    return "patient" if "patient" in kinds else "lesion" if "lesion" in kinds else "image"


def _refuse_half_of_one_unit(table: ImageTable, columns: Mapping[str, str]) -> None:
    """A unit of half of all images is a column that says the same of many, far more often than it is a patient."""
    images = len(table.records)
    unit, most = Counter(record.unit for record in table.records).most_common(1)[0]
    if images > _FEW_IMAGES and 2 * most >= images:
        # The unit's own kind: beside lesions there are units of an isic_id.
        kind = unit.partition(":")[0]
        name = "isic_id" if kind == "isic" else kind
        raise DataError(
            f"one {name} holds at least half of the {images} images by {columns[kind]}, so it is "
            "probably the wrong column, or stands for unknown; name the column of patients (patient_column in the site "
            "file), or correct it, or take images out"
        )


def _warned_of_one_class(table: ImageTable) -> ImageTable:
    """A hospital may have one class only, and should know that what it sends says so of all its patients."""
    present = [name for name, count in zip(table.classes, table.images_per_class(), strict=True) if count]
    if len(present) > 1 or len(table.classes) < 2:
        return table
    warning = (
        f"all images are of one class ({present[0]}) of the plan's {len(table.classes)}: this site trains, but its "
        "part pulls the model towards that class"
    )
    return replace(table, warnings=(*table.warnings, warning))
