"""Resources of FHIR files, one after the other: bundles are read one at a time, and NDJSON line by line.

Nothing of a file is trusted: JSON that Python would read in spite of the standard is refused here.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.data.special_files import refuse_special
from common.errors import DataError
from common.printable import printable

NDJSON_SUFFIXES = frozenset({".ndjson", ".jsonl"})
MAX_BUNDLE_BYTES = 256 << 20
MAX_LINE_BYTES = 16 << 20
_UTF8_BOM = b"\xef\xbb\xbf"
# Each stands for resources as they are; a history would say everything several times, and what was deleted.
_BUNDLE_TYPES = ("batch", "collection", "document", "searchset", "transaction")


@dataclass(frozen=True, slots=True)
class Found:
    """One resource.

    Attributes:
        place: File, and entry or line from 1.
        resource: As JSON has it.
        full_url: What its bundle calls it; empty in NDJSON.
        patients: Of the bundle that it lies in: ids of its Patients, by what the bundle calls them.
    """

    place: str
    resource: dict[str, Any]
    full_url: str
    patients: dict[str, str]


def read_resources(path: Path, left_out: Counter[str]) -> Iterator[Found]:
    """All resources of a file or a folder, in the order of names.

    Args:
        path: A bundle (.json), an NDJSON file (.ndjson, .jsonl), or a folder that holds such files at any depth.
        left_out: Is added to: what is no resource.

    Raises:
        DataError: If there is no such file, or one that is not what its name says.
    """
    for file, name in _files(path, left_out):
        if file.suffix.lower() in NDJSON_SUFFIXES:
            yield from _lines(file, name)
        else:
            yield from _entries(file, name, left_out)


def _files(path: Path, left_out: Counter[str]) -> list[tuple[Path, str]]:
    """Files, and what messages call them.

    Bundles of a folder are numbered in messages: exports name them after patients.
    """
    if not path.is_dir():
        if path.suffix.lower() not in {".json", *NDJSON_SUFFIXES}:
            raise DataError(
                "the data are a file whose name does not end in .json (a bundle) or .ndjson; FHIR is read as JSON: "
                "export it so, or name the right file"
            )
        refuse_special(path, printable(path.name))
        return [(path, printable(path.name))]
    below = sorted(each for each in path.rglob("*") if each.is_file())
    bundles = [each for each in below if each.suffix.lower() == ".json"]
    lists = [each for each in below if each.suffix.lower() in NDJSON_SUFFIXES]
    left_out["file_that_is_no_json_or_ndjson"] += len(below) - len(bundles) - len(lists)
    if not bundles and not lists:
        raise DataError(
            f"the data folder holds no .json and no .ndjson file, but {len(below)} other(s); FHIR is read as JSON: "
            "export it so, or name the right folder"
        )
    numbered = [(each, f"bundle {number} of {len(bundles)} (by name)") for number, each in enumerate(bundles, 1)]
    return numbered + [(each, printable(each.relative_to(path).as_posix())) for each in lists]


def _lines(file: Path, name: str) -> Iterator[Found]:
    try:
        with file.open("rb") as stream:
            number = 0
            while line := stream.readline(MAX_LINE_BYTES + 1):
                number += 1
                place = f"{name}, line {number}"
                if len(line) > MAX_LINE_BYTES:
                    raise DataError(
                        f"{place}: longer than {MAX_LINE_BYTES >> 20} MiB; one resource stands on a line of NDJSON"
                    )
                if number == 1:
                    line = line.removeprefix(_UTF8_BOM)
                if line.strip():
                    yield Found(place, _object(line, place), "", {})
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror}); check its permissions") from error
    if number == 0:
        raise DataError(f"{name}: is empty; export it again, or delete it")


def _entries(file: Path, name: str, left_out: Counter[str]) -> Iterator[Found]:
    try:
        if file.stat().st_size > MAX_BUNDLE_BYTES:
            raise DataError(
                f"{name}: larger than {MAX_BUNDLE_BYTES >> 20} MiB, which one bundle may have; export it as NDJSON, "
                "which is read line by line"
            )
        content = file.read_bytes().removeprefix(_UTF8_BOM)
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror}); check its permissions") from error
    bundle = _object(content, name)
    if bundle.get("resourceType") != "Bundle":
        raise DataError(f"{name}: is JSON, but no FHIR Bundle; single resources go into .ndjson files, one per line")
    if bundle.get("type") not in _BUNDLE_TYPES:
        raise DataError(
            f"{name}: Bundle.type is none of {', '.join(_BUNDLE_TYPES)}; export the resources as they are now"
        )
    entries = bundle.get("entry", [])
    if not isinstance(entries, list):
        raise DataError(f"{name}: Bundle.entry is no list; export it again")
    patients = _patients(entries, name)
    for number, entry in enumerate(entries, 1):
        resource = entry.get("resource") if isinstance(entry, dict) else None
        if isinstance(resource, dict):
            yield Found(f"{name}, entry {number}", resource, _text(entry.get("fullUrl")), patients)
        else:
            left_out["entry_without_a_resource"] += 1


def _patients(entries: list[Any], name: str) -> dict[str, str]:
    """Ids of a bundle's Patients by their `fullUrl`."""
    patients: dict[str, str] = {}
    for number, entry in enumerate(entries, 1):
        resource = entry.get("resource") if isinstance(entry, dict) else None
        if not isinstance(resource, dict) or resource.get("resourceType") != "Patient":
            continue
        url = _text(entry.get("fullUrl"))
        own = _text(resource.get("id")) or last_part(url)
        if url and patients.setdefault(url, own) != own:
            raise DataError(
                f"{name}, entry {number}: its fullUrl is that of another Patient of this bundle, so nobody can say "
                "whose the resources are that refer to it; export it again"
            )
    return patients


def last_part(url: str) -> str:
    """The id at the end of `urn:uuid:ID`, `Patient/ID` or a longer address."""
    return url.replace(":", "/").rpartition("/")[2]


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


class _BadJson(ValueError):
    """A sentence's middle part; names no value."""


def _object(content: bytes, place: str) -> dict[str, Any]:
    start = content.lstrip()[:1]
    if not start:
        raise DataError(f"{place}: is empty; export it again, or delete it")
    if start == b"<":
        raise DataError(f"{place}: is XML; FHIR is read as JSON: export it so")
    try:
        value = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_short,
        )
    except UnicodeDecodeError:
        problem = "holds bytes that are not UTF-8"
    except RecursionError:
        problem = "is nested too deeply"
    except _BadJson as error:
        problem = str(error)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        problem = f"is no JSON from {where} on"
    else:
        if isinstance(value, dict):
            return value
        problem = "is JSON, but no object"
    raise DataError(f"{place}: {problem}; export it again")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _BadJson("has one key twice in an object")
    return found


def _no_constant(_: str) -> float:
    raise _BadJson("holds NaN or Infinity, which JSON does not have")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _BadJson("holds a number that is too large")
    return number


def _short(text: str) -> int:
    # The largest double has 309 digits.
    if len(text) > 300:
        raise _BadJson("holds a number that is too large")
    return int(text)
