"""What a connector hands over: rows in the plan's terms, or images; and what it left out or changed on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

Value = float | str | None


@dataclass(frozen=True, slots=True)
class RawRow:
    """What a connector found of one patient in one place, in the plan's units and words.

    Attributes:
        place: Where it stands, for messages to this hospital's eyes: file and row, never a value.
        patient: Whose it is, or None where the mapping says that each row is a patient of its own.
        values: By feature or variant; None, or no entry, where it is missing. Numbers are in the plan's unit.
        label: Name of the class; empty for survival data.
        time: Until event or censoring, in the plan's time unit; None for classes.
        event: Whether the event was seen.
    """

    place: str
    patient: str | None
    values: Mapping[str, Value]
    label: str = ""
    time: float | None = None
    event: bool = False


@dataclass(slots=True)
class Report:
    """What a connector left out or changed on the way, whatever it reads.

    Attributes:
        left_out: How many records are not handed over, by reason (words for people, `_` for spaces).
        converted: How many numbers were converted, by feature and unit ("cholesterol from mmol/L").
        warnings: Sentences for this hospital's eyes; no patient's value stands in one.
    """

    left_out: Counter[str] = field(default_factory=Counter)
    converted: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Reading(Report):
    """What a connector of rows hands over.

    Attributes:
        rows: In the order of the source.
    """

    rows: list[RawRow] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class RawImage:
    """What a connector found of one image; whether it counts is decided later, the same for every form.

    Attributes:
        path: File, from the reading's root, with forward slashes. Never leaves the site.
        label: Name of its class; empty where nothing says it.
        sha256: Hex digest of all that `Connector.decode` looks at: of the file's bytes; where the form decodes in a way
            of its own, of its name and these. The ledger and the feature cache know the image by it.
        ids: All that is known of whose it is, the most telling first: `patient:ID`, `dicom:ID` where a tag says
            otherwise, `lesion:ID`, `isic:ID`.
        keep_clean: False if it is not to be used; None where nothing says so.
        problem: Why it cannot be opened, as far as it is known, never a value of a tag; None if it opens.
    """

    path: str
    label: str
    sha256: str
    ids: tuple[str, ...] = ()
    keep_clean: bool | None = None
    problem: str | None = None


def listed(images: Iterable[RawImage]) -> tuple[str, ...]:
    """Paths of all images, sorted as `LC_ALL=C sort` does: a message that must not name a file tells its place here."""
    return tuple(sorted(image.path for image in images))


@dataclass(slots=True, kw_only=True)
class ImageReading(Report):
    """What a connector of images hands over.

    Attributes:
        root: Folder that paths start from.
        images: All that were found.
        patient_column: What the data themselves call the column that says who is a patient, where no mapping does.
        told_by: What tells whose an image is, by the kind that ids begin with (`patient`, `lesion`, `isic`), for
            messages.
        untold: Why it is not known of each image which patient it is of, though of some it is: a sentence that refuses
            the data where patients are what is protected, since such an image would be a unit of its own.
    """

    root: Path
    images: list[RawImage] = field(default_factory=list)
    patient_column: str | None = None
    told_by: Mapping[str, str] = field(default_factory=dict)
    untold: str | None = None
