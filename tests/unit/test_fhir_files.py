"""What a FHIR file may be: everything else is one sentence that names the place and no value."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from client.data.fhir_files import MAX_LINE_BYTES, Found, read_resources
from common.errors import DataError

PATIENT = {"resourceType": "Patient", "id": "secret-id"}


def found_in(path: Path) -> tuple[list[Found], Counter[str]]:
    """All resources, and what is none."""
    left_out: Counter[str] = Counter()
    return list(read_resources(path, left_out)), +left_out


def bundle(*resources: object, kind: str = "collection") -> str:
    """A bundle of resources."""
    entries = [{"fullUrl": f"urn:uuid:{number}", "resource": each} for number, each in enumerate(resources)]
    return json.dumps({"resourceType": "Bundle", "type": kind, "entry": entries})


def test_bundles_and_lines_are_read_in_the_order_of_names(tmp_path: Path) -> None:
    """Bundles are numbered, since exports name their files after patients; NDJSON is named."""
    (tmp_path / "John_Doe.json").write_text(bundle(PATIENT, {"resourceType": "Group"}))
    (tmp_path / "Ann_Roe.json").write_bytes(b"\xef\xbb\xbf" + bundle(PATIENT).encode())
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "Observation.ndjson").write_text('\n{"resourceType": "Observation"}\r\n\n{"a": 1}')
    (tmp_path / "readme.txt").write_text("text")
    resources, left_out = found_in(tmp_path)
    assert [each.place for each in resources] == [
        "bundle 1 of 2 (by name), entry 1",
        "bundle 2 of 2 (by name), entry 1",
        "bundle 2 of 2 (by name), entry 2",
        "sub/Observation.ndjson, line 2",
        "sub/Observation.ndjson, line 4",
    ]
    assert left_out == {"file_that_is_no_json_or_ndjson": 1}
    assert resources[0].patients == {"urn:uuid:0": "secret-id"}


def test_ndjson_is_read_line_by_line(tmp_path: Path) -> None:
    """The first resource is there before the third line, which is no JSON, is looked at: nothing is held as a whole."""
    (tmp_path / "a.ndjson").write_text('{"n": 1}\n{"n": 2}\nnothing\n')
    resources = read_resources(tmp_path / "a.ndjson", Counter())
    assert next(resources).resource == {"n": 1}
    assert next(resources).resource == {"n": 2}
    with pytest.raises(DataError, match="line 3: is no JSON"):
        next(resources)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"", "x.ndjson: is empty; export it again, or delete it"),
        (b"<Patient/>", "x.ndjson, line 1: is XML; FHIR is read as JSON: export it so"),
        (b'\n{"id": "secret-id"', "x.ndjson, line 2: is no JSON from column 19 on; export it again"),
        (b'{"id": "secret-\xff"}', "x.ndjson, line 1: holds bytes that are not UTF-8; export it again"),
        (b"[" * 100_000, "x.ndjson, line 1: is nested too deeply; export it again"),
        (b'{"a":' * 100_000, "x.ndjson, line 1: is nested too deeply; export it again"),
        (b'{"v": NaN}', "x.ndjson, line 1: holds NaN or Infinity, which JSON does not have; export it again"),
        (b'{"v": -Infinity}', "x.ndjson, line 1: holds NaN or Infinity, which JSON does not have; export it again"),
        (b'{"v": 1e999}', "x.ndjson, line 1: holds a number that is too large; export it again"),
        (b'{"v": 1' + b"0" * 5000 + b"}", "x.ndjson, line 1: holds a number that is too large; export it again"),
        (b'{"v": 1, "v": 2}', "x.ndjson, line 1: has one key twice in an object; export it again"),
        (b'["secret-id"]', "x.ndjson, line 1: is JSON, but no object; export it again"),
        (b"\x00" * 10, "x.ndjson, line 1: is no JSON from column 1 on; export it again"),
    ],
)
def test_a_wrong_line_is_one_sentence(tmp_path: Path, line: bytes, problem: str) -> None:
    """Each names the line, and nothing that stands there."""
    (tmp_path / "x.ndjson").write_bytes(line)
    with pytest.raises(DataError) as seen:
        found_in(tmp_path)
    assert str(seen.value) == problem


def test_a_line_without_end_is_refused(tmp_path: Path) -> None:
    """A line is held as a whole, so it has a bound."""
    (tmp_path / "x.ndjson").write_bytes(b'{"a":"' + b"a" * MAX_LINE_BYTES)
    with pytest.raises(DataError) as seen:
        found_in(tmp_path)
    assert str(seen.value) == "x.ndjson, line 1: longer than 16 MiB; one resource stands on a line of NDJSON"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "x.json: is empty; export it again, or delete it"),
        (" \n", "x.json: is empty; export it again, or delete it"),
        ("<Bundle/>", "x.json: is XML; FHIR is read as JSON: export it so"),
        (
            json.dumps(PATIENT),
            "x.json: is JSON, but no FHIR Bundle; single resources go into .ndjson files, one per line",
        ),
        ('{"a": 1}\n{"a": 2}', "x.json: is no JSON from line 2, column 1 on; export it again"),
        (
            bundle(PATIENT, kind="history"),
            (
                "x.json: Bundle.type is none of batch, collection, document, searchset, transaction; export the "
                "resources as they are now"
            ),
        ),
        (
            '{"resourceType": "Bundle", "type": "collection", "entry": {}}',
            "x.json: Bundle.entry is no list; export it again",
        ),
    ],
)
def test_a_wrong_bundle_is_one_sentence(tmp_path: Path, content: str, problem: str) -> None:
    """A single file is called by its name, which the site file says."""
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(DataError) as seen:
        found_in(tmp_path / "x.json")
    assert str(seen.value) == problem


def test_two_patients_of_one_full_url_are_refused(tmp_path: Path) -> None:
    """Whose the resources are that refer to it, nobody can say."""
    entries = [{"fullUrl": "urn:uuid:1", "resource": PATIENT | {"id": own}} for own in ("secret-a", "secret-b")]
    (tmp_path / "x.json").write_text(json.dumps({"resourceType": "Bundle", "type": "batch", "entry": entries}))
    with pytest.raises(DataError) as seen:
        found_in(tmp_path)
    assert str(seen.value) == (
        "bundle 1 of 1 (by name), entry 2: its fullUrl is that of another Patient of this bundle, so nobody can say "
        "whose the resources are that refer to it; export it again"
    )


def test_entries_without_a_resource_are_counted(tmp_path: Path) -> None:
    """Responses and odd entries are nobody's."""
    entries = [None, 5, {}, {"resource": "text"}, {"resource": PATIENT, "fullUrl": 5}]
    (tmp_path / "x.json").write_text(json.dumps({"resourceType": "Bundle", "type": "batch", "entry": entries}))
    resources, left_out = found_in(tmp_path)
    assert [each.resource for each in resources] == [PATIENT]
    assert left_out == {"entry_without_a_resource": 4}


def _folder_of_xml(folder: Path) -> Path:
    (folder / "x.xml").write_text("<Bundle/>")
    return folder


def _xml_file(folder: Path) -> Path:
    return _folder_of_xml(folder) / "x.xml"


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        (
            _folder_of_xml,
            (
                "the data folder holds no .json and no .ndjson file, but 1 other(s); FHIR is read as JSON: export it "
                "so, or name the right folder"
            ),
        ),
        (
            _xml_file,
            (
                "the data are a file whose name does not end in .json (a bundle) or .ndjson; FHIR is read as JSON: "
                "export it so, or name the right file"
            ),
        ),
    ],
)
def test_other_files_are_one_sentence(tmp_path: Path, place: Callable[[Path], Path], problem: str) -> None:
    """XML by its name."""
    with pytest.raises(DataError) as seen:
        found_in(place(tmp_path))
    assert str(seen.value) == problem


def test_a_file_that_vanishes_is_one_sentence(tmp_path: Path) -> None:
    """It is opened when its turn comes."""
    for name in ("x.json", "x.ndjson"):
        (tmp_path / name).symlink_to(tmp_path / "gone")
        with pytest.raises(DataError, match=f"^{name}: cannot be read \\(No such file or directory\\)"):
            found_in(tmp_path / name)
