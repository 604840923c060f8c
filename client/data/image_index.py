"""Connector `image-index`: images that a CSV file lists, wherever they lie in the data folder."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from client.data.connector import Connector
from client.data.image_files import ScannedFile, composed, is_dicom_file, is_picture, patient_ids, scan_files
from client.data.image_mapping import ImageIndexMapping
from client.data.reading import ImageReading, RawImage
from client.data.shown_names import of_nobody
from client.data.special_files import refuse_special
from client.data.truth import truth
from common.errors import ConfigError, DataError
from common.plan_data import ImageData

_DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t"}
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class _Row:
    """One used row: the class, whose it is (empty where no column says it), and keep_clean."""

    label: str
    patient: str
    keep_clean: bool | None


def read_image_index(root: Path, data: ImageData, mapping: ImageIndexMapping) -> ImageReading:
    """Read the images that an index lists; see `client.data.connector.Connector`."""
    unknown = [name for name in mapping.labels.values() if name not in data.classes]
    if unknown:
        raise ConfigError(
            f"labels: seen the class '{unknown[0]}' that the plan does not know; allowed are {', '.join(data.classes)}"
        )
    if not root.is_dir():
        raise DataError(f"the data folder {root} does not exist or is no folder; name the folder that holds the images")
    left_out: Counter[str] = Counter()
    rows, blank = _read_rows(root, mapping, data, left_out)
    files = _all_images(root)
    if mapping.path is not None:
        chosen = [(path, rows[key]) for key, path in files.items() if key in rows]
        named = {key for key in files if key in rows}
        scans = scan_files([path for path, _ in chosen], root)
    else:
        dicom = [path for path in files.values() if not is_picture(path)]
        scanned = [(path, scan) for path, scan in zip(dicom, scan_files(dicom, root), strict=True)]
        pairs = [(path, scan) for path, scan in scanned if scan.instance in rows]
        _refuse_two_of_one_name([scan for _, scan in pairs], mapping)
        chosen, scans = [(path, rows[scan.instance]) for path, scan in pairs], [scan for _, scan in pairs]
        named = {scan.instance for scan in scans}
    left_out["no_file"] += len(rows.keys() - named)
    left_out["not_in_index"] += len(files) - len(chosen)
    if not chosen:
        raise DataError(
            f"{mapping.index}: none of its {len(rows)} used row(s) names one of the {len(files)} image(s) in the data "
            f"folder by the column '{mapping.path or mapping.sop_instance_uid}'; correct the mapping or the index"
        )
    images = [
        RawImage(
            path.relative_to(root).as_posix(),
            row.label,
            scan.sha256,
            patient_ids(row.patient, scan),
            row.keep_clean,
            None if scan.opens else scan.problem,
        )
        for (path, row), scan in zip(chosen, scans, strict=True)
    ]
    by = f"the column '{mapping.patient}' of {mapping.index}" if mapping.patient else "the DICOM tag PatientID"
    return ImageReading(
        left_out=+left_out,
        warnings=_warnings(left_out),
        root=root,
        images=images,
        told_by={"patient": by},
        untold=blank or _untold(images, mapping, data.classes),
    )


def _all_images(root: Path) -> dict[str, Path]:
    """All images below the folder by their path from it, with composed accents; hidden files and folders left out."""
    found = {}
    for entry in sorted(root.rglob("*")):
        inside = entry.relative_to(root)
        if not any(part.startswith(".") for part in inside.parts) and (is_picture(entry) or is_dicom_file(entry)):
            found[composed(inside.as_posix())] = entry
    return found


def _read_rows(
    root: Path, mapping: ImageIndexMapping, data: ImageData, left_out: Counter[str]
) -> tuple[dict[str, _Row], str | None]:
    """The used rows, by path or by SOPInstanceUID; and where one does not say whose it is, though it was to."""
    rows: dict[str, _Row] = {}
    blank: str | None = None
    for line, cells in _cells(root, mapping):
        place = f"{mapping.index} line {line}"
        if mapping.split is not None and cells[mapping.split.column] not in mapping.split.use:
            left_out["other_split"] += 1
            continue
        label = cells[mapping.label] if mapping.label is not None else ""
        if label in mapping.leave_out:
            left_out["other_label"] += 1
            continue
        patient = cells[mapping.patient] if mapping.patient is not None else ""
        if mapping.patient is not None and not patient and blank is None:
            blank = (
                f"{place}: the column '{mapping.patient}' is blank; whose each image is must stand there, so fill it "
                "in, or delete the row"
            )
        key = _name_of_image(cells, mapping, place=place)
        if key in rows:
            raise DataError(f"{place} names an image a second time; keep one row per image")
        clean = truth(cells[mapping.keep_clean], place=place) if mapping.keep_clean is not None else None
        known = _class_of(label, mapping, data, place=place) if mapping.label is not None else ""
        rows[key] = _Row(known, patient, clean)
    return rows, blank


def _cells(root: Path, mapping: ImageIndexMapping) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and stripped cells of each row; blank lines are passed over."""
    try:
        refuse_special(root / mapping.index, str(mapping.index))
        with (root / mapping.index).open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, delimiter=_DELIMITERS[mapping.delimiter], strict=True)
            header = list(reader.fieldnames or ())
            for name in mapping.columns:
                if header.count(name) != 1:
                    # What stands in the first line may be a patient's, so it is never shown.
                    raise DataError(
                        f"{mapping.index}: has the column '{name}' {header.count(name)} times, once is allowed; its "
                        f"first line, with '{mapping.delimiter}' between cells, names {len(header)} column(s); correct "
                        "the mapping"
                    )
            for cells in reader:
                if None in cells or any(cells[name] is None for name in mapping.columns):
                    raise DataError(
                        f"{mapping.index} line {reader.line_num} has more or fewer cells than the first line; mend it"
                    )
                yield reader.line_num, {name: cells[name].strip() for name in mapping.columns}
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(
            f"{mapping.index} cannot be read as UTF-8 separated values: {error}; save it as such"
        ) from error
    except OSError as error:
        raise DataError(f"{mapping.index} cannot be read: {error.strerror}; name the index in the mapping") from error


def _name_of_image(cells: Mapping[str, str], mapping: ImageIndexMapping, *, place: str) -> str:
    name = cells[mapping.path or mapping.sop_instance_uid or ""]
    if not name:
        raise DataError(f"{place} names no image; complete or delete the row")
    if mapping.path is None:
        return name
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{place} names an image outside of the data folder; write paths from the data folder on")
    return composed(path.as_posix())


def _class_of(label: str, mapping: ImageIndexMapping, data: ImageData, *, place: str) -> str:
    known = mapping.labels.get(label)
    if known is not None:
        return known
    named = next((name for name in data.classes if composed(name) == composed(label)), None)
    if named is None:
        codes = list(mapping.labels)
        listed = ", ".join(codes[:_SHOWN]) + (", ..." if len(codes) > _SHOWN else "") or "none"
        raise DataError(
            f"{place}: the label is none of the plan's classes ({', '.join(data.classes)}), and neither 'labels' of "
            f"the mapping (it lists {listed}) nor 'leave_out' has it; add it to one of them, or correct the cell"
        )
    return named


def _refuse_two_of_one_name(scans: list[ScannedFile], mapping: ImageIndexMapping) -> None:
    """One image that was saved in two ways would be two."""
    digests: dict[str, set[str]] = defaultdict(set)
    for scan in scans:
        digests[scan.instance].add(scan.sha256)
    several = sum(len(each) > 1 for each in digests.values())
    if several:
        raise DataError(
            f"{mapping.index}: {several} SOPInstanceUID(s) of it stand in several files that differ; keep one file of "
            "each, or list images by path"
        )


def _untold(images: list[RawImage], mapping: ImageIndexMapping, classes: Sequence[str]) -> str | None:
    untold = of_nobody(images, classes)
    if not untold or not any(image.ids for image in images):
        return None
    return f"{mapping.index}: {untold}; name a column of patients in the mapping ('patient')"


def _warnings(left_out: Counter[str]) -> list[str]:
    sentences = {
        "other_split": "row(s) of the index are of another split: they are not used",
        "other_label": "row(s) of the index have a label that the mapping leaves out",
        "no_file": "row(s) of the index name an image that is not in the data folder",
        "not_in_index": "image(s) in the data folder are in no used row of the index: they are not used",
    }
    return [f"{left_out[reason]} {words}" for reason, words in sentences.items() if left_out[reason]]


CONNECTOR = Connector(
    form="image-index",
    kinds=(ImageData,),
    mapping=ImageIndexMapping,
    read=read_image_index,
    patient_of=lambda mapping: mapping.patient,
    tells_outcome=lambda mapping: mapping.label is not None,
)
