"""Deal the images that a mapping names to several hospitals: parts with an index of their own, in the plan's words."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import yaml

from client.data import ImageRecord, ImageTable, check_decodable
from client.data.decode import decode_image
from client.data.source import DataPlace, read_data
from common.errors import DataError, LocalProtocolError
from common.plan_data import ImageData
from scripts.demo_sites import write_sites
from scripts.row_files import MAPPING
from scripts.split import HospitalShare, SplitReport, deal, link_or_copy, one_owner_per_picture
from scripts.split_rows import SITES
from scripts.whole_folder import make_room, whole_folder

_DATA, _INDEX, _IMAGES = "data", "index.csv", "images"
_FILE, _LABEL, _PATIENT = "file", "label", "patient_id"


def split_images(
    place: DataPlace, data: ImageData, target: Path, *, hospitals: int, seed: int
) -> tuple[dict[str, DataPlace], SplitReport]:
    """Deal images of any form into `target`/hospital-1 and so on, and write `target`/sites.yaml; all or nothing.

    Each part is a folder of numbered images (hard links where the disk allows it, else copies) with an index, and the
    mapping of form `image-index` that reads it. A patient's images go to one hospital, also under a plan that protects
    single images.

    Args:
        place: Folder of images, and its mapping.
        data: The plan's declaration.
        target: Folder to make; may exist if it is empty.
        hospitals: How many parts, >= 1.
        seed: Public seed.

    Returns:
        What each hospital holds, and what was dealt.

    Raises:
        AlreadyExists: If `target` holds anything.
        ConfigError, DataError: If mapping or data are wrong, or a class has fewer units than hospitals.
        OperatorError: If the disk refuses; nothing is left behind.
    """
    make_room(target)
    loaded = read_data(place, data, unit="patient")
    if not isinstance(loaded, ImageTable):
        raise LocalProtocolError(f"a {type(loaded).__name__} was read for data of kind '{data.kind}'")
    table = check_decodable(loaded, on_undecodable=data.unreadable_images)
    table = one_owner_per_picture(table, lambda record: table.classes[record.label_index])
    owned = _owned(table)
    assignment = deal(table, hospitals, seed=seed)
    parts = [[r for r in table.records if assignment[r.unit] == k] for k in range(hospitals)]
    with whole_folder(target, mode=0o755) as partial:
        made = {
            f"hospital-{k}": _write_part(partial / f"hospital-{k}", table, records, owned=owned)
            for k, records in enumerate(parts, start=1)
        }
        write_sites(partial / SITES, made)
    places = {name: DataPlace(target / name / _DATA, target / name / MAPPING) for name in made}
    shares = tuple(_share(name, places[name].path, table, records) for name, records in zip(made, parts, strict=True))
    return places, SplitReport(table.classes, table.unit_name, shares, table.left_out, table.warnings)


def _owned(table: ImageTable) -> bool:
    """Whether patients are known.

    Raises:
        DataError: If an index of images could not say the same of the parts.
    """
    kinds = {record.unit.partition(":")[0] for record in table.records}
    if kinds not in ({"patient"}, {"sha256"}) or table.decode is not decode_image:
        raise DataError(
            "--mapping: seen images that are told apart by lesions, or that their form decodes in a way of its own; an "
            "index of images, which the parts get, knows patients and whole files only: leave out --plan and --mapping "
            "to deal class folders, or name each hospital's data in a sites file"
        )
    return kinds == {"patient"}


def _write_part(folder: Path, table: ImageTable, records: Sequence[ImageRecord], *, owned: bool) -> DataPlace:
    images = folder / _DATA / _IMAGES
    images.mkdir(parents=True)
    with (folder / _DATA / _INDEX).open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow((_FILE, _LABEL, *((_PATIENT,) if owned else ())))
        for number, record in enumerate(records, start=1):
            original = table.file(record)
            # Numbered, since a name may hold a patient's; how it ends says what kind of file it is.
            name = f"{number:06d}{original.suffix}"
            link_or_copy(original, images / name)
            patient = (record.unit.partition(":")[2],) if owned else ()
            writer.writerow((f"{_IMAGES}/{name}", table.classes[record.label_index], *patient))
    mapping = {"form": "image-index", "index": _INDEX, "path": _FILE, "label": _LABEL}
    text = yaml.safe_dump(mapping | ({"patient": _PATIENT} if owned else {}), sort_keys=False)
    (folder / MAPPING).write_text(text, encoding="utf-8")
    return DataPlace(folder / _DATA, folder / MAPPING)


def _share(name: str, data: Path, table: ImageTable, records: Sequence[ImageRecord]) -> HospitalShare:
    images = Counter(record.label_index for record in records)
    units = Counter({record.unit: record.label_index for record in records}.values())
    classes = range(len(table.classes))
    return HospitalShare(name, data, tuple(images[c] for c in classes), tuple(units[c] for c in classes))
