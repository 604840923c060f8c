"""Deal one image folder to several hospitals: every class in equal parts, a patient's images always together."""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from client.data import ImageRecord, ImageTable, OnUndecodable, check_decodable, load_table
from client.data.index_csv import INDEX_NAME
from client.data.resolve import Candidate, Owner, left_after_duplicates, one_label_per_unit
from common.errors import DataError
from common.plural import counted
from common.site_config import AUTO_COLUMN
from scripts.whole_folder import make_room, whole_folder

_IDS = ("patient", "lesion", "isic")


@dataclass(frozen=True, slots=True)
class HospitalShare:
    """What one hospital was dealt.

    Attributes:
        name: `hospital-1` and so on.
        data: Its folder of class folders and index.csv.
        images: Number of images by class, in the report's order of classes.
        units: Number of patients (or lesions, or images, see `SplitReport.unit_name`) by class.
    """

    name: str
    data: Path
    images: tuple[int, ...]
    units: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SplitReport:
    """What `split_dataset` did.

    Attributes:
        classes: Class names, sorted.
        unit_name: `patient`, `lesion` or `image`: what was kept together.
        shares: One per hospital.
        left_out: Files that nobody was dealt, by reason.
        warnings: Sentences about duplicates, contradictions and unreadable files.
    """

    classes: tuple[str, ...]
    unit_name: str
    shares: tuple[HospitalShare, ...]
    left_out: Mapping[str, int]
    warnings: tuple[str, ...]


def deal(table: ImageTable, hospitals: int, *, seed: int) -> dict[str, int]:
    """Decide which hospital gets which unit.

    Within a class, units with most images are dealt first, each to the hospital that has fewest images of the class
    so far; among equals the one with fewest units of it, then fewest images in all, decides.

    Args:
        table: Images with their units.
        hospitals: How many hospitals, >= 1.
        seed: Public seed of the order among equals; any integer.

    Returns:
        Hospital number, 0 to hospitals - 1, by unit.

    Raises:
        DataError: If a class has fewer units than there are hospitals.
    """
    sizes = Counter(record.unit for record in table.records)
    by_class: dict[int, list[str]] = defaultdict(list)
    for unit, label_index in table.unit_labels().items():
        by_class[label_index].append(unit)
    assignment: dict[str, int] = {}
    totals = [0] * hospitals
    for label_index, name in enumerate(table.classes):
        units = sorted(by_class[label_index], key=lambda unit: (-sizes[unit], _shuffle_key(seed, unit)))
        if len(units) < hospitals:
            raise DataError(
                f"class {name!r} has {counted(len(units), f'usable {table.unit_name}')} for {hospitals} hospitals; "
                "each hospital needs one at least: add images, remove the class, or deal to fewer hospitals"
            )
        images, counts = [0] * hospitals, [0] * hospitals
        for unit in units:
            chosen = min(range(hospitals), key=lambda k: (images[k], counts[k], totals[k], k))
            assignment[unit] = chosen
            images[chosen] += sizes[unit]
            counts[chosen] += 1
            totals[chosen] += sizes[unit]
    return assignment


def _shuffle_key(seed: int, unit: str) -> bytes:
    """Order that looks random, and is the same in every version of Python and numpy."""
    return hashlib.sha256(f"{seed}:{unit}".encode()).digest()


def split_dataset(
    source: Path, target: Path, *, hospitals: int, seed: int, on_undecodable: OnUndecodable
) -> SplitReport:
    """Deal `source` into `target/hospital-1/data/<class>/` and so on, all of it or nothing.

    Images are hard links where the disk allows it (no second copy of a large data set), else copies. An official
    `Test` folder beside `Train` is not dealt.

    Args:
        source: `Train/<class>/*.jpg` or `<class>/*.jpg`, with or without index.csv.
        target: Folder to make; may exist if it is empty.
        hospitals: How many parts, >= 1.
        seed: Public seed.
        on_undecodable: Leave out images that cannot be decoded, or refuse.

    Raises:
        AlreadyExists: If `target` holds anything.
        DataError: If `source` is wrong, or a class has fewer units than hospitals.
        OperatorError: If the disk refuses; nothing is left behind.
    """
    if hospitals < 1:
        raise DataError(f"{hospitals} hospitals: at least one must be dealt to")
    make_room(target)
    loaded = load_table(source, on_undecodable=on_undecodable, unit="patient", patient_column=AUTO_COLUMN)
    whole = check_decodable(loaded, on_undecodable=on_undecodable)
    table = one_owner_per_picture(whole, lambda record: _inside(whole, record).parts[0])
    assignment = deal(table, hospitals, seed=seed)
    with whole_folder(target, mode=0o755) as partial:
        shares = tuple(
            _write_share(table, [r for r in table.records if assignment[r.unit] == k], partial, number=k + 1)
            for k in range(hospitals)
        )
    placed = tuple(
        HospitalShare(each.name, target / each.data.relative_to(partial), each.images, each.units) for each in shares
    )
    return SplitReport(table.classes, table.unit_name, placed, table.left_out, table.warnings)


def one_owner_per_picture(table: ImageTable, label_of: Callable[[ImageRecord], str]) -> ImageTable:
    """Leave out pictures of several units, of which a site keeps each: else two hospitals would hold one picture.

    No privacy is lost here: what is dealt is fixed before the hospitals and their budgets exist.

    Args:
        table: Images with their units.
        label_of: Name of an image's own class, as far as it is known beside its unit's.
    """
    files = {record.path: record for record in table.records}
    owner: Owner = "patient" if table.unit_name == "patient" else "lesion"
    as_one_unit = [Candidate(r.path, label_of(r), r.sha256, r.sha256, None) for r in table.records]
    kept, left_out = left_after_duplicates(as_one_unit, [], owner=owner)
    if not left_out:
        return table
    labels = one_label_per_unit([replace(each, unit=files[each.path].unit) for each in kept], [], owner=owner)
    records = [files[each.path] for each in kept]
    counts = Counter(table.left_out) + Counter(left_out)
    warning = (
        f"{sum(left_out.values())} files of images that lie byte-identical in several {owner}s are dealt to nobody"
    )
    return replace(
        table,
        records=tuple(replace(record, label_index=table.classes.index(labels[record.unit])) for record in records),
        warnings=(*table.warnings, warning),
        left_out=dict(counts),
    )


def _write_share(table: ImageTable, records: list[ImageRecord], root: Path, *, number: int) -> HospitalShare:
    name = f"hospital-{number}"
    data = root / name / "data"
    # A column of patients that is blank would be an error at the site.
    columns = _IDS if table.unit_name == "patient" else _IDS[1:]
    rows = []
    for record in records:
        original = table.file(record)
        inside = _inside(table, record)
        label = inside.parts[0]
        copy = data / inside
        copy.parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(original, copy)
        ids = {kind: identifier for kind, _, identifier in (one.partition(":") for one in record.ids)}
        rows.append((inside.as_posix(), label, *(ids.get(kind, "") for kind in columns), "True"))
    with (data / INDEX_NAME).open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("path", "label", *(f"{kind}_id" for kind in columns), "keep_clean"))
        writer.writerows(rows)
    units = {record.unit: record.label_index for record in records}
    classes = range(len(table.classes))
    images = Counter(record.label_index for record in records)
    return HospitalShare(
        name, data, tuple(images[c] for c in classes), tuple(list(units.values()).count(c) for c in classes)
    )


def _inside(table: ImageTable, record: ImageRecord) -> PurePosixPath:
    """Path from the class folder on; a DICOM file may lie deeper in it."""
    parts = PurePosixPath(record.path).parts
    return PurePosixPath(*parts[next(place for place, part in enumerate(parts) if part in table.classes) :])


def link_or_copy(original: Path, copy: Path) -> None:
    """Have the same file under another name, as a hard link where the disk allows it, else as a copy."""
    original = original.resolve()  # a hard link to a symbolic link would be one more symbolic link
    try:
        os.link(original, copy)
    except OSError:  # another disk, a file system without links, or a file of another user
        shutil.copyfile(original, copy)
