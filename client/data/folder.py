"""From `DIR/<class>/*.jpg` (or `DIR/Train/<class>/*.jpg`, or DICOM files) and its index.csv to an `ImageTable`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from client.data.class_folders import class_names, class_root, in_words, list_images
from client.data.image_files import ScannedFile, composed, patient_ids, scan_files, tagged_patient
from client.data.image_table import Found, resolved_table
from client.data.index import INDEX_NAME, Index, IndexRow, read_index
from client.data.owners import index_warnings, refuse_unlisted
from client.data.resolve import Candidate
from client.data.table import ImageTable, OnUndecodable, PrivacyUnit
from common.errors import DataError
from common.site_config import AUTO_COLUMN

# What tells DICOM files' patients where no index does.
_PATIENT_TAG = "the DICOM tag PatientID"


def load_table(  # noqa: PLR0913 -- keyword-only
    root: Path,
    classes: Sequence[str] | None = None,
    *,
    on_undecodable: OnUndecodable,
    unit: PrivacyUnit,
    patient_column: str,
    folder: str | None = None,
) -> ImageTable:
    """Read one image folder: list, hash, group by patient or lesion, resolve duplicates and contradictions.

    Files are opened here (so a file that is no image at all is found at once) but decoded only by the feature pass,
    which applies the same `on_undecodable`; `check_decodable` decodes everything now.

    Args:
        root: Folder of class folders, or of `Train/<class>`; may hold index.csv.
        classes: Class names that the plan allows, in its order; None takes the folders' names, sorted.
        on_undecodable: What to do with a file that is no readable image: leave it out by name, or refuse the folder.
        unit: `patient` counts all images of a patient as one unit (index.csv says whose an image is, else a DICOM
            file's PatientID), or of a lesion where nobody knows patients;
            `record` counts every image, which protects whoever has several less than the stated epsilon says.
        patient_column: Column of index.csv that says whose an image is; `auto`: patient_id if it is there, else none.
            With `record` it decides nothing.
        folder: Subfolder of `root` that holds the class folders; None means `Train` where there is one, else `root`.

    Raises:
        DataError: If the folder is missing or empty, has a class that the plan does not, contradicts its index.csv,
            or holds an unreadable image that is to be refused; if an image is of no patient though there is a column of
            patients, or though DICOM files name theirs; or if one unit holds at least half of more than ten images.
    """
    base = class_root(root, folder)
    index_folder, index = _index(root, base, patient_column, unit=unit)
    patients = _patients(index, unit)
    origin = index_folder or base
    names, folders = class_names(base, classes)
    files, passed_over = list_images(base, folders)
    scanned = scan_files([path for path, _ in files], origin)
    scans = {path.relative_to(origin).as_posix(): scan for (path, _), scan in zip(files, scanned, strict=True)}
    labels = {path.relative_to(origin).as_posix(): label for path, label in files}
    candidates = [_candidate(path, labels[path], scan, index.rows, unit=unit) for path, scan in scans.items()]
    tagged = unit == "patient" and any(scan.patient for scan in scans.values())
    if patients:
        refuse_unlisted(candidates, index.rows, column=patients)
    elif tagged:
        _refuse_untagged([each for each in candidates if scans[each.path].opens])
    warnings = [f"passed over and not used: {sentence}" for sentence in in_words(passed_over)]
    if index.rows:
        warnings += index_warnings(candidates, index.rows, prefix=base.relative_to(origin).as_posix())
    columns = {"patient": patients, "lesion": "lesion_id", "isic": "isic_id"}
    found = Found(
        origin,
        candidates,
        scans,
        names,
        patient_column=patients,
        columns={k: f"the column '{name}' of {INDEX_NAME}" if name else _PATIENT_TAG for k, name in columns.items()},
        warnings=warnings,
        left_out=passed_over,
    )
    return resolved_table(found, on_undecodable=on_undecodable, owner="patient" if patients or tagged else "lesion")


def find_patient_column(root: Path, *, unit: PrivacyUnit, patient_column: str) -> str | None:
    """The column of patients that `load_table` would use, without a look at the images; None where it uses none.

    Args:
        root: As for `load_table`; so are the others.
        unit: The plan's.
        patient_column: The site's.

    Raises:
        DataError: If the folder is missing, or its index.csv is wrong.
    """
    _, index = _index(root, class_root(root, None), patient_column, unit=unit)
    return _patients(index, unit)


def patients_are_tagged(root: Path, classes: Sequence[str]) -> bool:
    """Whether a DICOM file in the class folders names its patient (PatientID), as `load_table` would find it.

    Args:
        root: As for `load_table`.
        classes: The plan's.

    Raises:
        DataError: If the folder is wrong, or a file is DICOM and pydicom is not installed.
        OSError: If a file cannot be read.
    """
    base = class_root(root, None)
    _, folders = class_names(base, classes)
    files, _ = list_images(base, folders)
    return any(tagged_patient(path) for path, _ in files)


def _patients(index: Index, unit: PrivacyUnit) -> str | None:
    return index.patient_column if unit == "patient" else None


def _index(root: Path, base: Path, patient_column: str, *, unit: PrivacyUnit) -> tuple[Path | None, Index]:
    """Where index.csv lies, if there is one, and what it says."""
    folder = next((place for place in (root, base) if (place / INDEX_NAME).is_file()), None)
    if folder is not None:
        return folder, read_index(folder / INDEX_NAME, patient_column=patient_column, required=unit == "patient")
    if unit == "patient" and patient_column != AUTO_COLUMN:
        raise DataError(
            f"patient_column: seen '{patient_column}', but there is no {INDEX_NAME} beside the class folders; put it "
            f"there, or write '{AUTO_COLUMN}'"
        )
    return None, Index({}, None)


def _candidate(
    path: str, label: str, scan: ScannedFile, index: Mapping[str, IndexRow], *, unit: PrivacyUnit
) -> Candidate:
    row = index.get(composed(path))
    if row is not None and composed(row.label) != composed(label):
        raise DataError(f"{INDEX_NAME} gives {path} another label than its folder's; correct one of the two")
    ids = _ids(row, scan)
    # The first is the patient where one is known.
    name = ids[0] if unit == "patient" and ids else f"sha256:{scan.sha256}"
    return Candidate(path, label, name, scan.sha256, row.keep_clean if row is not None else None, ids)


def _ids(row: IndexRow | None, scan: ScannedFile) -> tuple[str, ...]:
    """All that is known of whose it is; what index.csv says of the patient stands before the file's own word."""
    patients = patient_ids(row.patient if row is not None else "", scan)
    named = [("lesion", row.lesion_id), ("isic", row.isic_id)] if row is not None else []
    return (*patients, *(f"{kind}:{identifier}" for kind, identifier in named if identifier))


def _refuse_untagged(candidates: Sequence[Candidate]) -> None:
    """Where some files say whose they are, one that does not would be a unit of its own: see above."""
    untold = sum(not candidate.unit.startswith("patient:") for candidate in candidates)
    if untold:
        raise DataError(
            f"{untold} of {len(candidates)} images do not say whose they are, while DICOM files beside them name their "
            f"patients (PatientID); list all in {INDEX_NAME} with a column patient_id, or take them out"
        )
