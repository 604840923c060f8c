"""From `DIR/<class>/*.jpg` (or `DIR/Train/<class>/*.jpg`) and its index.csv to an `ImageTable`."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from client.data.images import opens_as_image
from client.data.index import INDEX_NAME, Index, IndexRow, read_index
from client.data.owners import index_warnings, refuse_half_of_one_unit, refuse_unlisted
from client.data.resolve import Candidate, Owner, left_after_duplicates, one_label_per_unit
from client.data.table import ImageRecord, ImageTable, OnUndecodable, PrivacyUnit, UnitName
from common.errors import DataError
from common.plural import counted
from common.site_config import AUTO_COLUMN

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})


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
        unit: `patient` counts all images of a patient as one unit, or of a lesion where index.csv knows no patients;
            `record` counts every image, which protects whoever has several less than the stated epsilon says.
        patient_column: Column of index.csv that says whose an image is; `auto`: patient_id if it is there, else none.
            With `record` it decides nothing.
        folder: Subfolder of `root` that holds the class folders; None means `Train` where there is one, else `root`.

    Raises:
        DataError: If the folder is missing or empty, has a class that the plan does not, contradicts its index.csv,
            or holds an unreadable image that is to be refused; if an image is of no patient though there is a column of
            patients; or if one unit holds at least half of more than ten images.
    """
    base = _class_root(root, folder)
    index_folder, index = _index(root, base, patient_column, unit=unit)
    patients = _patients(index, unit)
    owner: Owner = "patient" if patients else "lesion"
    origin = index_folder or base
    names = _class_names(base, classes)
    files, passed_over = _list_images(base, names)
    warnings = [f"passed over and not used: {sentence}" for sentence in _named(passed_over)]
    candidates = [_candidate(path, origin, index.rows, unit=unit) for path in files]
    if patients:
        refuse_unlisted(candidates, index.rows, column=patients)
    if index.rows:
        warnings += index_warnings(candidates, index.rows, prefix=base.relative_to(origin).as_posix())
    kept, left_out = left_after_duplicates(candidates, warnings, owner=owner)
    labels = one_label_per_unit(kept, warnings, owner=owner)
    if not kept:
        raise DataError(
            "every image in the data folder contradicts another or is marked as not clean; "
            "correct keep_clean in index.csv"
        )
    records = tuple(ImageRecord(c.path, names.index(labels[c.unit]), c.unit, c.sha256, c.ids) for c in kept)
    table = ImageTable(
        origin,
        records,
        names,
        _unit_name(records),
        patient_column=patients,
        warnings=tuple(warnings),
        left_out=dict(Counter(left_out) + passed_over),
    )
    bad = {record.path for record in records if not opens_as_image(table.file(record))}
    whole = table.without_undecodable(bad, on_undecodable=on_undecodable)
    refuse_half_of_one_unit(whole)
    return whole


def find_patient_column(root: Path, *, unit: PrivacyUnit, patient_column: str) -> str | None:
    """The column of patients that `load_table` would use, without a look at the images; None where it uses none.

    Args:
        root: As for `load_table`; so are the others.
        unit: The plan's.
        patient_column: The site's.

    Raises:
        DataError: If the folder is missing, or its index.csv is wrong.
    """
    _, index = _index(root, _class_root(root, None), patient_column, unit=unit)
    return _patients(index, unit)


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


def _unit_name(records: Sequence[ImageRecord]) -> UnitName:
    kinds = {record.unit.partition(":")[0] for record in records}
    return "patient" if "patient" in kinds else "lesion" if "lesion" in kinds else "image"


def _class_root(root: Path, folder: str | None) -> Path:
    if not root.is_dir():
        raise DataError(
            f"the data folder {root} does not exist or is no folder; name the folder that holds the class folders"
        )
    if folder is None:
        return root / "Train" if (root / "Train").is_dir() else root
    if not (root / folder).is_dir():
        raise DataError(f"the data folder {root} has no folder {folder}; it must hold <class>/*.jpg")
    return root / folder


def _class_names(base: Path, classes: Sequence[str] | None) -> tuple[str, ...]:
    found = sorted(entry.name for entry in base.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not found:
        raise DataError(f"the data folder {base} has no class folder; put images into {base.name}/<class>/*.jpg")
    if classes is None:
        return tuple(found)
    unknown = [name for name in found if name not in classes]
    if unknown:
        raise DataError(
            f"the data folder has {counted(len(unknown), 'class folder')} that the plan does not name: "
            f"{', '.join(unknown)}; "
            f"allowed are {', '.join(classes)}"
        )
    return tuple(classes)


def _list_images(base: Path, names: Sequence[str]) -> tuple[list[Path], Counter[str]]:
    """Image files of the class folders, sorted by path, and how many other files were passed over, by reason."""
    files: list[Path] = []
    passed_over: Counter[str] = Counter(outside_class_folders=sum(_is_image(entry) for entry in base.iterdir()))
    for name in names:
        for entry in sorted((base / name).iterdir()) if (base / name).is_dir() else ():
            if entry.is_dir():
                below = [each for each in entry.rglob("*") if not each.is_dir()]
                deep = sum(map(_is_image, below))
                passed_over.update(in_subfolder=deep, not_an_image=len(below) - deep)
            elif _is_image(entry):
                files.append(entry)
            else:
                passed_over["not_an_image"] += 1
    if not files:
        found = ", ".join(_named(passed_over)) or "nothing else"
        raise DataError(
            f"the data folder {base} holds no .jpg, .jpeg or .png file in its class folders, but {found}; "
            "put images directly into the class folders"
        )
    return files, +passed_over


def _is_image(entry: Path) -> bool:
    return entry.suffix.lower() in IMAGE_SUFFIXES and entry.is_file()


def _named(passed_over: Mapping[str, int]) -> list[str]:
    sentences = {
        "in_subfolder": ("image", " in subfolders of class folders"),
        "outside_class_folders": ("image", " outside of class folders"),
        "not_an_image": ("file", " of another kind than .jpg, .jpeg and .png"),
    }
    return [
        counted(passed_over[reason], noun) + words for reason, (noun, words) in sentences.items() if passed_over[reason]
    ]


def _candidate(path: Path, origin: Path, index: dict[str, IndexRow], *, unit: PrivacyUnit) -> Candidate:
    relative = path.relative_to(origin).as_posix()
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"the image {relative} cannot be read: {error.strerror}; check its permissions") from error
    row = index.get(relative)
    if row is not None and row.label != path.parent.name:
        raise DataError(f"{INDEX_NAME} gives {relative} another label than its folder's; correct one of the two")
    ids = _ids(row) if row is not None else ()
    # The first is the patient where there is such a column.
    name = ids[0] if unit == "patient" and ids else f"sha256:{digest}"
    return Candidate(relative, path.parent.name, name, digest, row.keep_clean if row is not None else None, ids)


def _ids(row: IndexRow) -> tuple[str, ...]:
    named = (("patient", row.patient), ("lesion", row.lesion_id), ("isic", row.isic_id))
    return tuple(f"{kind}:{identifier}" for kind, identifier in named if identifier)
