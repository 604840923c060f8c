"""Tables of patients in CSV: an export of any look is read as the plan means it, or refused by name."""

from __future__ import annotations

import csv
import io
import re
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from client.data.csv_cells import plain_number
from client.data.csv_file import MAX_LINE_CHARACTERS
from client.data.rows import Reading, RowTable
from client.data.source import DataPlace, read_data, read_rows
from common.errors import ConfigError, DataError
from common.plan_data import SurvivalData, TableData

HELD_OUT = {"held_out": 0.2, "held_out_salt": "salt"}
FEATURES: list[dict[str, Any]] = [
    {"kind": "number", "name": "age", "unit": "a", "low": 0, "high": 100, "missing": "leave-out"},
    {
        "kind": "number", "name": "glucose", "unit": "mg/dL", "low": 40, "high": 500, "missing": "flag",
        "other_units": [{"unit": "mmol/L", "factor": 18.016}],
    },
    {"kind": "category", "name": "sex", "values": ["female", "male"], "missing": "flag"},
]  # fmt: skip
TABLE = TableData.model_validate({"kind": "table", "classes": ["well", "ill"], "features": FEATURES} | HELD_OUT)
SURVIVAL = SurvivalData.model_validate(
    {
        "kind": "survival",
        "time_unit": "d",
        "other_time_units": [{"unit": "mo", "factor": 30.4}],
        "cuts": [10.0, 20.0],
        "features": FEATURES,
    }
    | HELD_OUT
)
MAPPING: dict[str, Any] = {
    "form": "csv",
    "patient": "pid",
    "label": {"column": "state", "classes": {"0": "well", "1": "ill", "2": "ill"}},
    "missing": ["NA", "-9"],
    "features": {
        "age": {"column": "age", "unit": "a"},
        "glucose": {"column": "glu", "unit": "mmol/L"},
        "sex": {"column": "sex", "values": {"f": "female", "m": "male"}},
    },
}
HEADER = "pid,age,glu,sex,state"
GOOD = f"{HEADER}\nQ7,61,5,f,0\nQ8,62,6,m,1\n"
# What must never stand in a message: cells of the bad lines below.
SECRETS = ("Q7", "Q8", "Q9", "secret", "61", "62", "1234")


def write(folder: Path, content: str | bytes, mapping: dict[str, Any] | None = None, **changes: Any) -> DataPlace:  # noqa: ANN401 -- YAML values
    """A file and its mapping."""
    raw = content if isinstance(content, bytes) else content.encode()
    (folder / "ward.csv").write_bytes(raw)
    chosen = {k: v for k, v in ((mapping or MAPPING) | changes).items() if v is not ...}
    (folder / "mapping.yaml").write_text(yaml.safe_dump(chosen), encoding="utf-8")
    return DataPlace(folder / "ward.csv", folder / "mapping.yaml")


def read(place: DataPlace, data: TableData | SurvivalData = TABLE) -> RowTable:
    """As a site reads it."""
    table = read_data(place, data, unit="patient")
    assert isinstance(table, RowTable)
    return table


def found(place: DataPlace, data: TableData | SurvivalData = TABLE) -> Reading:
    """What the connector hands over, before it is encoded."""
    return read_rows(place, data)


def refusal(place: DataPlace, data: TableData | SurvivalData = TABLE, *, error: type[Exception] = DataError) -> str:
    """What is said; never what stands in a cell."""
    with pytest.raises(error) as caught:
        read(place, data)
    text = str(caught.value)
    assert not [word for word in SECRETS if re.search(rf"\b{word}\b", text)], text
    return text


def test_codes_units_and_missing_words_become_the_plans(tmp_path: Path) -> None:
    """The example of the documentation in small."""
    lines = "Q7,61,5,f,0\nQ8,62,NA,,2.0\n\nQ9,63,-9.0,M,1\n".replace("M", "m")
    reading = found(write(tmp_path, f"{HEADER}\n{lines}"))
    assert [(r.place, r.patient, dict(r.values), r.label) for r in reading.rows] == [
        ("ward.csv line 2", "Q7", {"age": 61.0, "glucose": pytest.approx(90.08), "sex": "female"}, "well"),
        ("ward.csv line 3", "Q8", {"age": 62.0, "glucose": None, "sex": None}, "ill"),
        ("ward.csv line 5", "Q9", {"age": 63.0, "glucose": None, "sex": "male"}, "ill"),
    ]
    assert reading.converted == {"glucose from mmol/L": 1}
    table = read(write(tmp_path, GOOD))
    assert table.unit_labels() == {"patient:Q7": 0, "patient:Q8": 1}
    assert (table.unit_name, table.patient_column) == ("patient", "pid")


ONE_COLUMN: dict[str, Any] = {
    "patient": "row",
    "label": ...,
    "features": {"age": {"column": "age", "unit": "a"}, "glucose": {"absent": True}, "sex": {"absent": True}},
}


@pytest.mark.parametrize(("text", "changes"), [(GOOD, {}), ("age\n61\n62\n", {"delimiter": ","})])
def test_a_mapping_of_one_column_reads_whole_cells(text: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """Not their first characters: 61 is no 6."""
    reading = found(write(tmp_path, text, **ONE_COLUMN, **changes))
    assert [row.values["age"] for row in reading.rows] == [61.0, 62.0]


def test_a_mapping_of_no_column_is_refused(tmp_path: Path) -> None:
    """Nothing would be read of anybody."""
    data = TABLE.model_copy(update={"features": TABLE.features[1:]})
    features = {"glucose": {"absent": True}, "sex": {"absent": True}}
    place = write(tmp_path, GOOD, **ONE_COLUMN | {"features": features})
    with pytest.raises(ConfigError, match=r"^mapping: names no column of the file; map one feature at least$"):
        found(place, data)


def test_rows_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    """No class, or a number missing that must be there."""
    table = read(write(tmp_path, GOOD + "Q9,60,5,f,\nQ1,NA,5,f,0\nQ2,NA,5,f,NA\n"))
    assert table.left_out == {"missing_label": 2, "missing_value": 1}
    assert len(table.records) == 2


def test_each_row_is_a_patient_where_the_mapping_says_so(tmp_path: Path) -> None:
    """Equal ones too."""
    table = read(write(tmp_path, GOOD.replace("Q8,62,6,m,1", "Q7,61,5,f,0"), patient="row"))
    assert len(table.unit_labels()) == 2
    assert table.patient_column is None


def test_the_same_table_in_other_writing_is_the_same_data(tmp_path: Path) -> None:
    """Byte order marks, encodings, delimiters, line ends, decimal commas, quotes, spaces, other columns, no header."""
    text = f"{HEADER}\nQ7,61.5,5.25,f,0\nQ8,62,6,m,1\n"
    expected = read(write(tmp_path, text)).unit_rows()[0].tolist()
    german = 'pid;age;glu;sex;state;Größe\r\nQ7; 61,5;"5,25";f;0;"1\n2"\r\nQ8;62;6;m;1;\r\n'
    others: list[tuple[str | bytes, dict[str, Any]]] = [
        (text.encode("utf-8-sig"), {}),
        (text.encode("utf-16"), {"encoding": "utf-16"}),
        (german.encode("cp1252"), {"encoding": "cp1252", "decimal": ","}),
        (text.replace(",", "\t"), {}),
        (text.replace(",", "|"), {"delimiter": "|"}),
        (text.replace("\n", "\r"), {}),
        (text.partition("\n")[2], {"header": HEADER.split(",")}),
        (text.rstrip("\n"), {}),
    ]
    for content, changes in others:
        place = write(tmp_path, content, **changes)
        assert read(place).unit_rows()[0].tolist() == expected, content


@given(st.lists(st.tuples(st.text(max_size=9), st.floats(0, 100)), min_size=1, max_size=9), st.sampled_from(",;\t|"))
def test_what_a_csv_writer_writes_is_read_back(rows: list[tuple[str, float]], delimiter: str) -> None:
    """Line breaks, quotes and delimiters within cells; the writer is Python's own."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=delimiter)
    writer.writerow(["note", "age", "state"])
    clean = [(note.replace("\0", ""), age) for note, age in rows]
    writer.writerows([note, repr(age), "0"] for note, age in clean)
    features = {"age": {"column": "age", "unit": "a"}, "glucose": {"absent": True}, "sex": {"absent": True}}
    with tempfile.TemporaryDirectory() as folder:
        reading = found(write(Path(folder), stream.getvalue(), patient="row", features=features))
    assert [row.values for row in reading.rows] == [{"age": age} for _, age in clean]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_is_read_back(value: float) -> None:
    """In the shortest form that Python writes."""
    assert plain_number(repr(value)) == value


@pytest.mark.parametrize(
    "text", ["", "1_000", "٣", "0x10", "1e", ".", "1.2.3", "+-1", "1 000", "NaN", "inf", "9" * 500]
)
def test_what_only_python_calls_a_number_is_none(text: str) -> None:
    """float() takes underscores and the digits of all scripts."""
    assert plain_number(text) is None


LINES: list[tuple[str, str]] = [
    ("Q9,61 years,5,f,0", "column 'age': is not a number; correct it, or list its word under `missing` in the mapping"),
    ("Q9,nan,5,f,0", "column 'age': is not a finite number; correct it, or list its word under `missing` in the map"),
    ("Q9,-inf,5,f,0", "column 'age': is not a finite number"),
    ("Q9,1e999,5,f,0", "column 'age': is not a finite number"),
    ('Q9,61,"1,234",f,0', "column 'glu': looks like a number with thousands separators, or with another decimal mark"),
    ("Q9,61,1 234,f,0", "column 'glu': looks like a number with thousands separators"),
    ('Q9,61,"5,2",f,0', "column 'glu': holds a comma, but the mapping's `decimal` is '.'; correct one of them"),
    ("Q9,61,5,secret,0", "column 'sex': holds a code that 'features.sex.values' of the mapping does not list (it "),
    ("Q9,61,5,f,secret", "column 'state': holds a code that 'label.classes' of the mapping does not list (it lists 0,"),
    (",61,5,f,0", "the column 'pid' is blank; whose each row is must stand there, so fill it in, or delete the row"),
    ("NA,61,5,f,0", "the column 'pid' is blank"),
    ("Q9,61,5,f", "seen 4 cells, 5 columns are named; correct the line"),
    ("Q9,61,5,f,0,", "seen 6 cells, 5 columns are named; correct the line"),
    ("Q9,6\x001,5,f,0", "holds a NUL byte; export the file again, or remove the byte"),
    ('Q9,"secret,5,f,0', "cannot be read as values separated by commas (unexpected end of data); close each quote"),
    ('Q9,"secret"x,5,f,0', "cannot be read as values separated by commas (',' expected after '\"')"),
    (f"Q9,61,5,f,0{'x' * MAX_LINE_CHARACTERS}", f"is longer than {MAX_LINE_CHARACTERS} characters"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "message"), LINES)
def test_a_bad_line_is_named_as_an_editor_counts(tmp_path: Path, line: str, message: str) -> None:
    """Behind a blank line and a cell with line breaks, in files with either line end; never with its cells."""
    text = f'{HEADER}\nQ7,61,5,f,0\n\n"Q\n8",62,6,m,1\n{line}\nQ1,60,5,f,0\n'
    for content in (text, text.replace("\n", "\r\n")):
        said = refusal(write(tmp_path, content))
        assert said.startswith("ward.csv line 6")
        assert message in said


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("first", [True, False])
def test_blank_lines_without_end_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, *, first: bool
) -> None:
    """Before the columns' names and behind them; as many as are allowed are passed over."""
    monkeypatch.setattr("client.data.csv_file.MAX_BLANK_LINES", 100)
    lines = [HEADER, *(f"Q{n},61,5,f,0" for n in range(200))]
    blank = [""] * 100
    text = end.join([*blank, *lines, ""] if first else [*lines, *blank, ""])
    assert len(found(write(tmp_path, text)).rows) == 200
    number = 101 if first else 302
    assert refusal(write(tmp_path, end + text if first else text + end)).startswith(
        f"ward.csv line {number}: more than 100 lines up to here are blank; remove them, or export the file again"
    )


@pytest.mark.parametrize(
    ("cell", "message"),
    [("1.234", "looks like a number with thousands sep"), ("5.2", "holds a point, but the mapping's `decimal` is ','")],
)
def test_a_point_under_a_decimal_comma_is_refused(tmp_path: Path, cell: str, message: str) -> None:
    """It may stand between thousands: a factor of 1000 must not be guessed."""
    assert message in refusal(write(tmp_path, f"{HEADER}\nQ9,61,{cell},f,0\n", decimal=","))


LINES_OF_GOOD = GOOD.partition("\n")[2]
FILES: list[tuple[str | bytes, dict[str, Any], str]] = [
    (GOOD.replace(",", ";"), {"delimiter": ","}, "separated by semicolons; write ';' there, or leave it out"),
    (LINES_OF_GOOD.replace(",", "\t"), {"header": HEADER.split(","), "delimiter": ","}, "the file looks separated"),
    (GOOD, {"header": HEADER.split(",")}, "ward.csv line 1: names the columns; remove `header` from the mapping"),
    (LINES_OF_GOOD, {}, "line 1 names 5 columns, but no column 'age'; correct the mapping, or list the columns und"),
    (GOOD.replace("age", "Age"), {}, "line 1 names 5 columns, but no column 'age' (but 'Age': write it as in the f"),
    (GOOD.replace("pid", "age"), {"patient": "row"}, "ward.csv: has the column 'age' twice; rename or remove one"),
    (GOOD, {"patient": "mrn"}, "but no column 'mrn'"),
    (GOOD.partition("\n")[2], {"header": [*HEADER.split(","), "more"]}, "seen 5 cells, 6 columns are named"),
    ("", {}, "ward.csv: is empty; its first line must name its columns"),
    (HEADER + "\n", {}, "no row of the data can be used (nothing was found)"),
    (b"\x89PNG\r\n" + bytes(range(256)) * 9 + bytes(999), {}, "ward.csv: is a binary file, no CSV file"),
    (b"PK\x03\x04" + bytes(99), {}, "ward.csv: is an Excel workbook or another ZIP archive, no CSV file; export"),
    (b"\x1f\x8b" + bytes(99), {}, "ward.csv: is compressed by gzip, no CSV file"),
    (GOOD.encode("utf-16"), {}, "ward.csv: is UTF-16 text; write `encoding: utf-16` in the mapping"),
    (GOOD.encode() + "Q9,61,5,ä,0\n".encode("cp1252"), {}, "ward.csv line 4: is not utf-8 text; name the file's `enco"),
    (GOOD.encode("utf-16")[:-1], {"encoding": "utf-16"}, "ward.csv: is not utf-16 text; name the file's `encoding`"),
    (GOOD.encode(), {"encoding": "utf-16"}, "ward.csv"),
    ("age" * 200_000, {}, "ward.csv line 1: cannot be read as values separated by commas (field larger than"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "changes", "message"), FILES)
def test_a_file_that_is_not_as_the_mapping_says_is_refused(
    tmp_path: Path, content: str | bytes, changes: dict[str, Any], message: str
) -> None:
    """One sentence, which says what it looks like."""
    assert message in refusal(write(tmp_path, content, **changes))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A folder, or nothing."""
    place = write(tmp_path, GOOD)
    assert "is a folder; name one CSV file" in refusal(DataPlace(tmp_path, place.mapping))
    assert "there is no such file or folder" in refusal(DataPlace(tmp_path / "no", place.mapping))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "there is no such file or folder" in refusal(DataPlace(tmp_path / "loop", place.mapping))


def feature(name: str, **changes: Any) -> dict[str, Any]:  # noqa: ANN401 -- YAML values
    """The mapping's features with one of them replaced, or removed by `gone`."""
    kept = {key: value for key, value in MAPPING["features"].items() if key != name}
    return {"features": kept if changes.get("gone") else kept | {name: changes}}


MAPPINGS: list[tuple[dict[str, Any], str]] = [
    (feature("age", gone=True), "mapping: key 'features.age' is missing; name its column, or write {absent: true} th"),
    (feature("age", absent=True), "features.age: seen `absent: true`; the plan uses no row without this feature"),
    (feature("weight", column="w", unit="kg"), "weight: the plan has no such feature; it has age, glucose, sex"),
    (feature("age", column="age"), "features.age: is a number in the plan; name the column's `unit`, and no `values`"),
    (feature("age", column="age", unit="mo"), "mapping: features.age.unit: seen 'mo'; the plan knows a; hold"),
    (feature("sex", column="sex", unit="1"), "features.sex: is a category in the plan; remove its `unit`"),
    (feature("sex", column="sex", values={"x": "other"}), "features.sex.values: seen 'other'; the plan's values a"),
    (feature("sex", column="sex", absent=True), "seen `absent: true` beside other keys"),
    (feature("sex", values={"m": "male"}), "seen no column; name its `column`, or write `absent: true`"),
    ({"label": {"column": "state", "classes": {"0": "dead"}}}, "label.classes: seen 'dead'; the plan's classes are we"),
    ({"label": ...}, "mapping.yaml: seen no label; a plan on data of kind 'table' learns from it: add it"),
    ({"time": {"column": "t", "unit": "d"}}, "the plan has classes; map a `label`, and neither `time` nor `event`"),
    ({"form": "csvv"}, "form: seen 'csvv'; allowed for data of kind 'table' are"),
    ({"delimiter": "comma"}, "delimiter: seen 'comma'"),
    ({"encoding": "zip"}, "encoding: seen 'zip'"),
    ({"header": ["age", "age"]}, "header: seen 'age' twice; every column needs a name of its own"),
    ({"patient": ...}, "key 'patient' is missing"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), MAPPINGS)
def test_a_mapping_that_does_not_fit_the_plan_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    """Before a line of the data is read."""
    assert message in refusal(write(tmp_path, GOOD, **changes), error=ConfigError)


def test_a_feature_that_a_site_lacks_is_missing_in_all_its_rows(tmp_path: Path) -> None:
    """Allowed where the plan flags it."""
    table = read(write(tmp_path, GOOD, **feature("sex", absent=True)))
    assert table.rows[:, -2].tolist() == [0.5, 0.5]


def test_a_feature_has_words_of_its_own_for_missing(tmp_path: Path) -> None:
    """0 is no glucose, but an age."""
    changes = feature("glucose", column="glu", unit="mmol/L", missing=["0"])
    reading = found(write(tmp_path, f"{HEADER}\nQ7,0,0.0,f,0\n", **changes))
    assert reading.rows[0].values == {"age": 0.0, "glucose": None, "sex": "female"}


def test_codes_that_are_equal_as_numbers_are_told_apart_as_text(tmp_path: Path) -> None:
    """`01` and `1` may be two codes: then a `1.0` is neither."""
    label = {"column": "state", "classes": {"01": "well", "1": "ill"}}
    rows = found(write(tmp_path, f"{HEADER}\nQ7,61,5,f,01\nQ8,61,5,f,1\n", label=label)).rows
    assert [row.label for row in rows] == ["well", "ill"]
    assert "holds a code" in refusal(write(tmp_path, f"{HEADER}\nQ7,61,5,f,1.0\n", label=label))


def test_units_mixed_up_are_refused(tmp_path: Path) -> None:
    """Half of the hospitals of the world hold mg/dL, the other half mmol/L."""
    lines = "".join(f"Q{n},61,{90 + n},f,0\n" for n in range(100, 120))
    said = refusal(write(tmp_path, f"{HEADER}\n{lines}"))
    assert "they would lie inside if they were not converted from mmol/L" in said
    assert read(write(tmp_path, f"{HEADER}\n{lines}", **feature("glucose", column="glu", unit="mg/dL"))).clipped == {}


TIMES: dict[str, Any] = {k: v for k, v in MAPPING.items() if k != "label"} | {
    "time": {"column": "months", "unit": "mo"},
    "event": {"column": "state", "codes": {"alive": "censored", "dead": "seen"}},
}
TIMES_HEADER = "pid,age,glu,sex,months,state"


def test_times_are_converted_and_events_decoded(tmp_path: Path) -> None:
    """Rows without one of them are left out and counted."""
    lines = "Q7,61,5,f,2,alive\nQ8,61,5,f,1,dead\nQ9,61,5,f,,dead\nQ1,61,5,f,3,NA\n"
    table = read(write(tmp_path, f"{TIMES_HEADER}\n{lines}", TIMES), SURVIVAL)
    assert table.unit_labels() == {"patient:Q7": 0, "patient:Q8": 1}
    assert table.unit_rows()[1].tolist() == [60.8, 30.4]
    assert table.left_out == {"missing_time": 1, "missing_event": 1}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Q9,61,5,f,-2,dead", "ward.csv line 2: the time is missing, negative or not finite"),
        ("Q9,61,5,f,soon,dead", "ward.csv line 2, column 'months': is not a number"),
        (
            "Q9,61,5,f,2,secret",
            "column 'state': holds a code that 'event.codes' of the mapping does not list (it lists alive,",
        ),
    ],
)
def test_a_bad_time_or_event_is_refused(tmp_path: Path, line: str, message: str) -> None:
    """As other cells are."""
    assert message in refusal(write(tmp_path, f"{TIMES_HEADER}\n{line}\n", TIMES), SURVIVAL)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"time": {"column": "months", "unit": "wk"}}, "time.unit: seen 'wk'; the plan knows d, mo"),
        ({"event": ...}, "the plan has times to an event; map `time` and `event`, and no `label`"),
        ({"event": {"column": "state", "codes": {"dead": "yes"}}}, "seen 'yes'"),
    ],
)
def test_a_mapping_without_sound_times_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    """Before a line of the data is read."""
    place = write(tmp_path, f"{TIMES_HEADER}\n", TIMES, **changes)
    assert message in refusal(place, SURVIVAL, error=ConfigError)


def test_a_large_file_is_read_by_the_line(tmp_path: Path) -> None:
    """Cells that no feature names are not kept: the reading of 20 MB holds far less. A control keeps the text."""
    wide = "x" * 20_000
    place = write(tmp_path, f"{HEADER},note\n" + "".join(f"Q{n},61,5,f,0,{wide}\n" for n in range(1000)))
    tracemalloc.start()
    try:
        assert len(found(place).rows) == 1000
        streamed = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        assert len(place.path.read_text(encoding="utf-8")) > 20_000_000
        whole = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert streamed < 5_000_000 < whole


def test_a_number_where_classes_are_words_is_no_missing_code(tmp_path: Path) -> None:
    """Whoever maps a measurement as the label must not list each number as a code: nothing here predicts numbers."""
    words = {"column": "state", "classes": {"low": "well", "high": "ill"}}
    said = refusal(write(tmp_path, f"{HEADER}\nQ7,61,5,f,1234.5\n", label=words))
    assert said.startswith("ward.csv line 2, column 'state': holds a number, and 'label.classes' of the mapping lists")
    assert "no plan learns to predict a number" in said
    assert "holds a code" in refusal(write(tmp_path, f"{HEADER}\nQ7,61,5,f,middle\n", label=words))
    assert "holds a code" in refusal(write(tmp_path, f"{HEADER}\nQ7,61,5,f,7\n"))
