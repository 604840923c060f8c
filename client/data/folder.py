"""From `DIR/<class>/*.jpg` (or `DIR/Train/<class>/*.jpg`) and its index.csv to an `ImageTable`."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from client.data.images import opens_as_image
from client.data.index import INDEX_NAME, IndexRow, read_index
from client.data.resolve import Candidate, left_after_duplicates, one_label_per_unit
from client.data.table import ImageRecord, ImageTable, OnUndecodable, PrivacyUnit
from common.errors import DataError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})


def load_table(
    root: Path,
    classes: Sequence[str] | None = None,
    *,
    on_undecodable: OnUndecodable,
    unit: PrivacyUnit,
    folder: str | None = None,
) -> ImageTable:
    """Read one image folder: list, hash, group by lesion, resolve duplicates and contradictions.

    Files are opened here (so a file that is no image at all is found at once) but decoded only by the feature pass,
    which applies the same `on_undecodable`; `check_decodable` decodes everything now.

    Args:
        root: Folder of class folders, or of `Train/<class>`; may hold index.csv.
        classes: Class names that the plan allows, in its order; None takes the folders' names, sorted.
        on_undecodable: What to do with a file that is no readable image: leave it out by name, or refuse the folder.
        unit: `patient` counts all images of a lesion as one unit; `record` counts every image, which protects a lesion
            with several images less than the stated epsilon says.
        folder: Subfolder of `root` that holds the class folders; None means `Train` where there is one, else `root`.

    Raises:
        DataError: If the folder is missing or empty, has a class that the plan does not, contradicts its index.csv,
            or holds an unreadable image that is to be refused.
    """
    base = _class_root(root, folder)
    index_folder = next((place for place in (root, base) if (place / INDEX_NAME).is_file()), None)
    index = read_index(index_folder / INDEX_NAME) if index_folder is not None else {}
    origin = index_folder or base
    names = _class_names(base, classes)
    files, passed_over = _list_images(base, names)
    warnings = [f"passed over {sentence}: they are not used" for sentence in _named(passed_over)]
    candidates = [_candidate(path, origin, index, unit=unit) for path in files]
    if index:
        warnings += _index_warnings(candidates, index, prefix=base.relative_to(origin).as_posix())
    kept, left_out = left_after_duplicates(candidates, warnings)
    labels = one_label_per_unit(kept, warnings)
    if not kept:
        raise DataError(
            "every image in the data folder contradicts another or is marked as not clean; "
            "correct keep_clean in index.csv"
        )
    records = tuple(ImageRecord(c.path, names.index(labels[c.unit]), c.unit, c.sha256) for c in kept)
    has_lesions = any(record.unit.startswith("lesion:") for record in records)
    counts = dict(Counter(left_out) + passed_over)
    table = ImageTable(origin, records, names, "lesion" if has_lesions else "image", tuple(warnings), counts)
    bad = {record.path for record in records if not opens_as_image(table.file(record))}
    return table.without_undecodable(bad, on_undecodable=on_undecodable)


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
            f"the data folder has class folder(s) that the plan does not name: {', '.join(unknown)}; "
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
        "in_subfolder": "image(s) in subfolders of class folders",
        "outside_class_folders": "image(s) outside of class folders",
        "not_an_image": "file(s) that are not .jpg, .jpeg or .png",
    }
    return [f"{passed_over[reason]} {words}" for reason, words in sentences.items() if passed_over[reason]]


def _candidate(path: Path, origin: Path, index: dict[str, IndexRow], *, unit: PrivacyUnit) -> Candidate:
    relative = path.relative_to(origin).as_posix()
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"the image {relative} cannot be read: {error.strerror}; check its permissions") from error
    row = index.get(relative)
    if row is not None and row.label != path.parent.name:
        raise DataError(
            f"{INDEX_NAME} calls {relative} {row.label!r} but its folder says otherwise; correct one of the two"
        )
    name = f"sha256:{digest}"
    if unit == "patient" and row is not None and (row.lesion_id or row.isic_id):
        name = f"lesion:{row.lesion_id}" if row.lesion_id else f"isic:{row.isic_id}"
    return Candidate(relative, path.parent.name, name, digest, row.keep_clean if row is not None else None)


def _index_warnings(candidates: list[Candidate], index: dict[str, IndexRow], *, prefix: str) -> list[str]:
    present = {candidate.path for candidate in candidates}
    inside = "" if prefix == "." else prefix + "/"
    absent = sum(name.startswith(inside) and name not in present for name in index)
    unlisted = len(present - index.keys())
    warnings = []
    if absent:
        warnings.append(f"{INDEX_NAME} names {absent} file(s) that are not in the class folders")
    if unlisted:
        warnings.append(f"{unlisted} image(s) are not in {INDEX_NAME}: each counts as a unit of its own")
    return warnings
