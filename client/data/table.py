"""What one hospital's data hold, as values: one record per kept image or row, each with its privacy unit."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from client.data.decode import Decode, decode_image
from client.data.shown_names import name_some, shown_name
from common.errors import DataError, LocalProtocolError
from common.plural import counted

OnUndecodable = Literal["skip", "refuse"]
PrivacyUnit = Literal["patient", "record"]
UnitName = Literal["patient", "lesion", "image", "record"]


class SiteRecord(Protocol):
    """What images and rows have in common."""

    @property
    def label_index(self) -> int:
        """Index into the table's classes: the label of the unit."""

    @property
    def unit(self) -> str:
        """The privacy unit."""

    @property
    def sha256(self) -> str:
        """Hex digest of what it holds."""

    @property
    def ids(self) -> tuple[str, ...]:
        """All that is known of whose it is, whatever the unit."""


class SiteTable(Protocol):
    """What tables of images and tables of rows have in common; `ImageTable` says what the names mean."""

    @property
    def records(self) -> Sequence[SiteRecord]:
        """All that counts."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; none for survival data."""

    @property
    def unit_name(self) -> UnitName:
        """What differential privacy protects."""

    @property
    def patient_column(self) -> str | None:
        """What says who is a patient, if that is the unit."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences for this hospital's eyes."""

    @property
    def left_out(self) -> Mapping[str, int]:
        """How many are not in `records`, by reason."""

    @property
    def converted(self) -> Mapping[str, int]:
        """How many numbers were converted, by feature and unit."""

    @property
    def missing(self) -> Mapping[str, int]:
        """In how many rows a feature is missing, by feature, with the rows that are left out for it."""

    @property
    def clipped(self) -> Mapping[str, int]:
        """How many numbers lie outside of the plan's range, by feature."""

    def unit_labels(self) -> dict[str, int]:
        """Each unit's label, in the units' sorted order: the order of every per-unit array."""


def labels_by_unit(records: Iterable[SiteRecord]) -> dict[str, int]:
    """Each unit's label, in the units' sorted order."""
    labels = {record.unit: record.label_index for record in records}
    return {unit: labels[unit] for unit in sorted(labels)}


def records_per_class(table: SiteTable) -> tuple[int, ...]:
    """Number of records of each class, in the order of the table's classes."""
    counts = [0] * len(table.classes)
    for record in table.records if counts else ():
        counts[record.label_index] += 1
    return tuple(counts)


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image that counts.

    Attributes:
        path: Relative to the table's root, with forward slashes. Never leaves the site.
        label_index: Index into the table's classes: the label of the unit, one for all its images.
        unit: The privacy unit: `patient:ID`, `lesion:ID`, `isic:ID`, or `sha256:HEX` of the file where nothing better
            is known or asked for.
        sha256: Hex digest of the file's bytes.
        ids: All that is known of whose and what the image is, whatever the unit, as many of them as there are:
            `patient:ID` by index or DICOM tag, `dicom:ID` where the tag PatientID says otherwise than the index,
            `lesion:ID`, `isic:ID`.
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
        patient_column: The column of index.csv that says who is a patient, if that is the unit; else None, as where
            DICOM files say it themselves.
        warnings: Sentences for this hospital's eyes.
        left_out: Count of files that are not in `records`, by reason: `not_clean`, `conflicting_label`, `duplicate`,
            `undecodable`; `in_subfolder` and `outside_class_folders` for images that lie too deep or not deep enough;
            `hidden` for names that begin with a dot; `not_an_image` for everything else in class folders; of an index
            that a mapping names, `other_split`, `other_label`, `no_file` for its rows, and `not_in_index` for files.
        listed: Paths of all images that were found, sorted: messages count files by their place among these.
        decode: Makes pixels of one of the files.
    """

    root: Path
    records: tuple[ImageRecord, ...]
    classes: tuple[str, ...]
    unit_name: UnitName
    patient_column: str | None
    warnings: tuple[str, ...]
    left_out: Mapping[str, int]
    listed: Sequence[str]
    decode: Decode = decode_image

    @property
    def converted(self) -> Mapping[str, int]:
        """None: an image has no units."""
        return {}

    @property
    def missing(self) -> Mapping[str, int]:
        """None: an image has no features."""
        return {}

    @property
    def clipped(self) -> Mapping[str, int]:
        """None: an image has no ranges."""
        return {}

    def file(self, record: ImageRecord) -> Path:
        """Where the image lies on this machine."""
        return self.root / record.path

    def unit_labels(self) -> dict[str, int]:
        """Each unit's label, in the units' sorted order: the order of every per-unit array."""
        return labels_by_unit(self.records)

    def images_per_class(self) -> tuple[int, ...]:
        """Number of images of each class, in the order of `classes`."""
        return records_per_class(self)

    def without_undecodable(self, bad: Mapping[str, str], *, on_undecodable: OnUndecodable) -> ImageTable:
        """Leave out the images at `bad` paths, or refuse the table because of them.

        Args:
            bad: What is wrong with some records' files, by path; empty where it is not known. No value of a tag.
            on_undecodable: Leave out, or refuse.

        Raises:
            DataError: If there is any and `on_undecodable` is "refuse", or if no image is left.
        """
        if not bad:
            return self
        shown = {path: shown_name(path, self.listed, self.classes) for path in sorted(bad)}
        named = name_some([f"{name} ({bad[path]})" if bad[path] else name for path, name in shown.items()])
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
