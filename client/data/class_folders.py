"""Connector `class-folders`: `DIR/<class>/*.jpg` (or `DIR/Train/<class>/*.jpg`, or DICOM files) and its index.csv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from client.data.class_files import class_names, class_root, in_words, list_images
from client.data.connector import Connector, UnitNaming
from client.data.image_files import ScannedFile, composed, patient_ids, scan_files, tagged_patient
from client.data.image_table import image_table
from client.data.index_csv import INDEX_NAME, Index, IndexRow, find_index, index_warnings, read_index, unlisted
from client.data.reading import ImageReading, RawImage
from client.data.shown_names import of_nobody, shown_name
from client.data.table import ImageTable, OnUndecodable, PrivacyUnit
from common.config import Settings
from common.errors import DataError
from common.plan_data import ImageData
from common.printable import PrintableText
from common.site_config import AUTO_COLUMN

# What tells DICOM files' patients where no index does.
_PATIENT_TAG = "the DICOM tag PatientID"


class ClassFolders(Settings):
    """What a mapping file says of class folders; a site that has no such file says it in its site file."""

    form: Literal["class-folders"] = Field(description="one folder of images for each class")
    patient_column: PrintableText = Field(
        default=AUTO_COLUMN,
        description="column of index.csv that says whose an image is; auto: patient_id if it is there",
    )


def load_table(  # noqa: PLR0913 -- keyword-only
    root: Path,
    classes: Sequence[str] | None = None,
    *,
    on_undecodable: OnUndecodable,
    unit: PrivacyUnit,
    patient_column: str,
    folder: str | None = None,
) -> ImageTable:
    """Read class folders without a plan, whose classes they name themselves; a plan reads by `client.data.source`.

    Files are opened here (so a file that is no image at all is found at once) but decoded only by the feature pass,
    which applies the same `on_undecodable`; `check_decodable` decodes everything now.

    Args:
        root: Folder of class folders, or of `Train/<class>`; may hold index.csv.
        classes: Class names that are allowed, in their order; None takes the folders' names, sorted.
        on_undecodable: As for `image_table`.
        unit: As for `image_table`: index.csv says whose an image is, else a DICOM file's PatientID.
        patient_column: Column of index.csv that says whose an image is; `auto`: patient_id if it is there, else none.
            With `record` it decides nothing.
        folder: Subfolder of `root` that holds the class folders; None means `Train` where there is one, else `root`.

    Raises:
        DataError: If the folder is missing or empty, has a class that is not allowed, contradicts its index.csv,
            or holds an unreadable image that is to be refused; if an image is of no patient though there is a column of
            patients, or though DICOM files name theirs; or if one unit holds at least half of more than ten images.
    """
    reading, names = _read(root, classes, folder=folder, patient_column=patient_column)
    return image_table(reading, names, on_undecodable=on_undecodable, unit=unit, patient_column=reading.patient_column)


def read_class_folders(path: Path, data: ImageData, mapping: ClassFolders) -> ImageReading:
    """Read the images of a folder; see `client.data.connector.Connector`."""
    return _read(path, data.classes, folder=None, patient_column=mapping.patient_column)[0]


def _read(
    root: Path, classes: Sequence[str] | None, *, folder: str | None, patient_column: str
) -> tuple[ImageReading, tuple[str, ...]]:
    base = class_root(root, folder)
    index_folder, index = _index(root, base, patient_column)
    origin = index_folder or base
    names, folders = class_names(base, classes)
    files, passed_over = list_images(base, folders)
    labels = {path.relative_to(origin).as_posix(): label for path, label in files}
    _refuse_other_labels(labels, index, names)
    scans = scan_files([path for path, _ in files], origin)
    images = [_image(path, label, scan, index) for (path, label), scan in zip(labels.items(), scans, strict=True)]
    warnings = [f"passed over and not used: {sentence}" for sentence in in_words(passed_over)]
    if index.rows:
        warnings += index_warnings(images, index, prefix=base.relative_to(origin).as_posix())
    columns = {"patient": index.patient_column, "lesion": "lesion_id", "isic": "isic_id"}
    reading = ImageReading(
        left_out=passed_over,
        warnings=warnings,
        root=origin,
        images=images,
        patient_column=index.patient_column,
        told_by={k: f"the column '{name}' of {INDEX_NAME}" if name else _PATIENT_TAG for k, name in columns.items()},
        untold=index.untold or unlisted(images, index) or _untagged(images, scans, names),
    )
    return reading, names


def _index(root: Path, base: Path, patient_column: str) -> tuple[Path | None, Index]:
    """Where index.csv lies, if there is one, and what it says."""
    folder = find_index(root, base)
    if folder is not None:
        return folder, read_index(folder / INDEX_NAME, patient_column=patient_column)
    if patient_column == AUTO_COLUMN:
        return None, Index({}, None)
    return None, Index(
        {},
        None,
        f"patient_column: seen '{patient_column}', but there is no {INDEX_NAME} beside the class folders; put it "
        f"there, or write '{AUTO_COLUMN}'",
    )


def _refuse_other_labels(labels: Mapping[str, str], index: Index, classes: Sequence[str]) -> None:
    for path, label in labels.items():
        row = index.rows.get(composed(path))
        if row is not None and composed(row.label) != composed(label):
            shown = shown_name(path, sorted(labels), classes)
            raise DataError(f"{INDEX_NAME} gives {shown} another label than its folder's; correct one of the two")


def _image(path: str, label: str, scan: ScannedFile, index: Index) -> RawImage:
    row = index.rows.get(composed(path))
    clean = row.keep_clean if row is not None else None
    return RawImage(path, label, scan.sha256, _ids(row, scan), clean, None if scan.opens else scan.problem)


def _ids(row: IndexRow | None, scan: ScannedFile) -> tuple[str, ...]:
    """All that is known of whose it is; what index.csv says of the patient stands before the file's own word."""
    patients = patient_ids(row.patient if row is not None else "", scan)
    named = [("lesion", row.lesion_id), ("isic", row.isic_id)] if row is not None else []
    return (*patients, *(f"{kind}:{identifier}" for kind, identifier in named if identifier))


def _untagged(images: Sequence[RawImage], scans: Sequence[ScannedFile], classes: Sequence[str]) -> str | None:
    """Where some files say whose they are, one that does not would be a unit of its own."""
    untold = of_nobody(images, classes)
    if not untold or not any(scan.patient for scan in scans):
        return None
    return f"{untold}; list all in {INDEX_NAME} with a column patient_id, or take them out"


def _naming(path: Path, data: ImageData, mapping: ClassFolders) -> UnitNaming:
    """The column of index.csv; else the tag, if any DICOM file names its patient."""
    base = class_root(path, None)
    _, index = _index(path, base, mapping.patient_column)
    if index.untold is not None:
        raise DataError(index.untold)
    if index.patient_column is not None:
        return UnitNaming(index.patient_column, {})
    _, folders = class_names(base, data.classes)
    files, _ = list_images(base, folders)
    return UnitNaming(None, {"patient_tag": "PatientID"} if any(tagged_patient(file) for file, _ in files) else {})


CONNECTOR = Connector(
    form="class-folders",
    kinds=(ImageData,),
    mapping=ClassFolders,
    read=read_class_folders,
    patient_of=lambda _: None,
    tells_outcome=lambda _: True,
    unmapped=lambda patient_column: ClassFolders(form="class-folders", patient_column=patient_column),
    naming=_naming,
)
