"""From images with a class and an owner to an `ImageTable`: the same rules for every form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from client.data.decode import Decode, decode_image
from client.data.reading import ImageReading, RawImage, listed
from client.data.resolve import Candidate, Owner, left_after_duplicates, one_label_per_unit
from client.data.table import ImageRecord, ImageTable, OnUndecodable, PrivacyUnit, UnitName
from common.errors import DataError

# Up to so many images one unit may hold any part of them.
_FEW_IMAGES = 10


def image_table(  # noqa: PLR0913 -- keyword-only
    reading: ImageReading,
    classes: tuple[str, ...],
    *,
    on_undecodable: OnUndecodable,
    unit: PrivacyUnit,
    patient_column: str | None,
    decode: Decode = decode_image,
) -> ImageTable:
    """Name units, resolve duplicates and contradictions, and leave out what cannot be read.

    Args:
        reading: What a connector found.
        classes: Class names, in the plan's order.
        on_undecodable: What to do with a file that is no readable image: leave it out by name, or refuse them all.
        unit: `patient` counts all images of a patient as one unit, or of a lesion where nobody knows patients;
            `record` counts every image, which protects whoever has several less than the stated epsilon says.
        patient_column: What tells patients; None where nothing does.
        decode: Makes pixels of one of the files.

    Raises:
        DataError: If nothing is left, an unreadable file is to be refused, one unit holds half of many images, or
            patients are protected and known of some images only.
    """
    if unit == "patient" and reading.untold is not None:
        raise DataError(reading.untold)
    candidates = [_candidate(image, unit) for image in reading.images]
    owner: Owner = "patient" if any(each.unit.startswith("patient:") for each in candidates) else "lesion"
    warnings = list(reading.warnings)
    kept, left_out = left_after_duplicates(candidates, warnings, owner=owner)
    labels = one_label_per_unit(kept, warnings, owner=owner)
    if not kept:
        raise DataError(
            "every image in the data folder contradicts another or is marked as not clean; "
            "correct keep_clean in index.csv"
        )
    records = tuple(ImageRecord(c.path, classes.index(labels[c.unit]), c.unit, c.sha256, c.ids) for c in kept)
    table = ImageTable(
        reading.root,
        records,
        classes,
        _unit_name(records),
        patient_column=patient_column if unit == "patient" else None,
        warnings=tuple(warnings),
        left_out=dict(Counter(left_out) + reading.left_out),
        listed=listed(reading.images),
        decode=decode,
    )
    problems = {image.path: image.problem for image in reading.images if image.problem is not None}
    bad = {record.path: problems[record.path] for record in records if record.path in problems}
    whole = table.without_undecodable(bad, on_undecodable=on_undecodable)
    _refuse_half_of_one_unit(whole, reading.told_by)
    return _warned_of_one_class(whole)


def unlabelled_images(
    reading: ImageReading, classes: tuple[str, ...], *, decode: Decode
) -> tuple[ImageTable, Sequence[tuple[str, str]]]:
    """All images, each a unit by its digest, whatever is known of their class: what a finished model is asked about.

    Returns:
        The images, of equal ones the first; labels mean nothing. And of each that opens its path and unit, in the order
        of the reading.

    Raises:
        DataError: If not one can be opened.
    """
    left_out = Counter(reading.left_out)
    seen: dict[str, ImageRecord] = {}
    names = []
    for image in reading.images:
        if image.problem is not None or image.keep_clean is False:
            left_out["not_clean" if image.problem is None else "undecodable"] += 1
            continue
        unit = f"sha256:{image.sha256}"
        names.append((image.path, unit))
        seen.setdefault(unit, ImageRecord(image.path, 0, unit, image.sha256))
    if not seen:
        raise DataError(f"{reading.root}: not one of {len(reading.images)} files can be read as an image; replace them")
    table = ImageTable(
        reading.root,
        tuple(seen.values()),
        classes,
        "image",
        patient_column=None,
        warnings=tuple(reading.warnings),
        left_out=dict(left_out),
        listed=listed(reading.images),
        decode=decode,
    )
    return table, names


def _candidate(image: RawImage, unit: PrivacyUnit) -> Candidate:
    # The first id is the patient where one is known.
    name = image.ids[0] if unit == "patient" and image.ids else f"sha256:{image.sha256}"
    return Candidate(image.path, image.label, name, image.sha256, image.keep_clean, image.ids)


def _unit_name(records: Sequence[ImageRecord]) -> UnitName:
    kinds = {record.unit.partition(":")[0] for record in records}
    return "patient" if "patient" in kinds else "lesion" if "lesion" in kinds else "image"


def _refuse_half_of_one_unit(table: ImageTable, told_by: Mapping[str, str]) -> None:
    """A unit of half of all images is a column that says the same of many, far more often than it is a patient."""
    images = len(table.records)
    unit, most = Counter(record.unit for record in table.records).most_common(1)[0]
    if images > _FEW_IMAGES and 2 * most >= images:
        # The unit's own kind: beside lesions there are units of an isic_id.
        kind = unit.partition(":")[0]
        name = "isic_id" if kind == "isic" else kind
        told = told_by.get(kind, "what the data say")
        raise DataError(
            f"one {name} holds at least half of the {images} images by {told}, so it is probably the wrong column, or "
            "stands for unknown; name the column of patients (patient_column), or correct it, or take images out"
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
