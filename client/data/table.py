"""What one hospital's image folder holds, as values: one record per kept image, each with its privacy unit."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from common.errors import DataError, LocalProtocolError
from common.plural import counted

OnUndecodable = Literal["skip", "refuse"]
PrivacyUnit = Literal["patient", "record"]
UnitName = Literal["patient", "lesion", "image"]


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image that counts.

    Attributes:
        path: Relative to the table's root, with forward slashes. Never leaves the site.
        label_index: Index into the table's classes: the label of the unit, one for all its images.
        unit: The privacy unit: `patient:ID`, `lesion:ID`, `isic:ID`, or `sha256:HEX` of the file where nothing better
            is known or asked for.
        sha256: Hex digest of the file's bytes.
        ids: All that index.csv says of whose and what the image is, whatever the unit: `patient:ID`, `lesion:ID`,
            `isic:ID`, as many of them as it has.
    """

    path: str
    label_index: int
    unit: str
    sha256: str
    ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageTable:
    """The images of one folder, after duplicates and contradictions were resolved.

    Attributes:
        root: Folder that the records' paths start from.
        records: Sorted by path; no two of one unit have the same bytes; images of one unit have one label. What stands
            here of a unit depends on that unit's files alone.
        classes: Class names; a hospital may have no image of some.
        unit_name: What differential privacy protects: `patient` where index.csv has a column of patients, `lesion`
            where it has lesion ids, else `image`.
        patient_column: The column of index.csv that says who is a patient, if that is the unit; else None.
        warnings: Sentences for this hospital's eyes.
        left_out: Count of files that are not in `records`, by reason: `not_clean`, `conflicting_label`, `duplicate`,
            `undecodable`; `in_subfolder` and `outside_class_folders` for images that lie too deep or not deep enough;
            `not_an_image` for everything else in class folders.
    """

    root: Path
    records: tuple[ImageRecord, ...]
    classes: tuple[str, ...]
    unit_name: UnitName
    patient_column: str | None
    warnings: tuple[str, ...]
    left_out: Mapping[str, int]

    def file(self, record: ImageRecord) -> Path:
        """Where the image lies on this machine."""
        return self.root / record.path

    def unit_labels(self) -> dict[str, int]:
        """Each unit's label, in the units' sorted order: the order of every per-unit array."""
        labels = {record.unit: record.label_index for record in self.records}
        return {unit: labels[unit] for unit in sorted(labels)}

    def images_per_class(self) -> tuple[int, ...]:
        """Number of images of each class, in the order of `classes`."""
        counts = [0] * len(self.classes)
        for record in self.records:
            counts[record.label_index] += 1
        return tuple(counts)

    def without_undecodable(self, bad: Collection[str], *, on_undecodable: OnUndecodable) -> ImageTable:
        """Leave out the images at `bad` paths, or refuse the table because of them.

        Raises:
            DataError: If there is any and `on_undecodable` is "refuse", or if no image is left.
        """
        if not bad:
            return self
        named = name_some(sorted(bad))
        if on_undecodable == "refuse":
            raise DataError(
                f"{counted(len(bad), 'image file')} cannot be decoded: {named}; "
                "replace or delete them, or let them be skipped (data.unreadable_images in the plan)"
            )
        kept = tuple(record for record in self.records if record.path not in bad)
        if not kept:
            raise DataError(f"not one image in the data folder can be decoded, among them {named}; replace the files")
        counts = dict(self.left_out)
        counts["undecodable"] = counts.get("undecodable", 0) + len(self.records) - len(kept)
        warning = f"skipped {counted(len(bad), 'image file')} that cannot be decoded: {named}"
        return replace(self, records=kept, warnings=(*self.warnings, warning), left_out=counts)


def held_out(unit: str, *, salt: str, fraction: float) -> bool:
    """Decide whether a unit is held out for evaluation, by a keyed hash of its id alone.

    Args:
        unit: Privacy unit as in `ImageRecord.unit`.
        salt: The plan's salt: all hospitals and runs of a plan agree on who is held out.
        fraction: Expected share of held-out units, in [0, 1).

    Raises:
        LocalProtocolError: If `fraction` lies outside [0, 1).

    Guarantees:
        Adding or removing another unit never moves this one between training and evaluation; the accountant's
        neighbouring data sets therefore differ in one unit on one side only.
    """
    if not 0.0 <= fraction < 1.0:
        raise LocalProtocolError(f"held-out fraction {fraction} is outside [0, 1); pass the checked plan's")
    digest = hmac.new(salt.encode(), unit.encode(), hashlib.sha256).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2.0**64


def name_some(names: list[str]) -> str:
    """List at most ten names, and count the rest."""
    shown = ", ".join(names[:10])
    return shown if len(names) <= 10 else f"{shown} and {len(names) - 10} more"
