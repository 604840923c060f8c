"""Whatever bytes a matrix holds, the connector reads it or says one sentence that names no patient."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.data.expression_csv import read_expression_csv
from client.data.expression_mapping import ExpressionMapping
from client.data.people import PeopleTable
from client.data.reading import Reading
from common.config import parse_settings
from common.errors import DataError
from common.plan_expression import ExpressionData

PLAN = ExpressionData(
    kind="expression",
    classes=("well", "ill"),
    held_out=0.0,
    held_out_salt="salt",
    genes=("TP53", "HLA-A"),
    scale="log2_tpm",
    low=0.0,
    high=15.0,
    decimals=3,
    missing="flag",
)
LABEL = "label: {column: state, classes: {W: well, I: ill}}"
SECRETS = ("anna7", "bob77", "4711.25")
PEOPLE = f"id,state\n{SECRETS[0]},W\n{SECRETS[1]},I\n"
LINES = f"id,state,TP53,HLA-A\n{SECRETS[0]},W,{SECRETS[2]},1\n{SECRETS[1]},I,3,7\n".encode()
ACROSS = f"gene,{SECRETS[0]},{SECRETS[1]}\nTP53,{SECRETS[2]},3\nHLA-A,1,7\n".encode()
PIECES = st.sampled_from(
    [b'"', b",", b"\t", b";", b"\n", b"\r", b"\0", b"-", b"nan", b"inf", b"1e999", b"\xff", b"\xef\xbb\xbf", b"TP53"]
)


def read(content: bytes, *, across: bool) -> Reading:
    """The matrix as a site reads it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "people.csv").write_text(PEOPLE, encoding="utf-8")
        (folder / "matrix.csv").write_bytes(content)
        where = f"gene: gene\npeople: {{file: people.csv, sample: id, {LABEL}}}" if across else f"sample: id\n{LABEL}"
        text = f"form: expression-csv\nscale: tpm\n{where}\n"
        mapping = parse_settings(text, ExpressionMapping, source="mapping").in_folder(folder)
        assert isinstance(mapping.people, PeopleTable) is across
        return read_expression_csv(folder / "matrix.csv", PLAN, mapping)


@given(
    across=st.booleans(),
    changes=st.lists(st.tuples(st.integers(0, 80), st.integers(0, 3), PIECES | st.binary(max_size=4)), max_size=4),
)
def test_a_damaged_matrix_is_read_or_refused_in_one_sentence(
    *, across: bool, changes: list[tuple[int, int, bytes]]
) -> None:
    """Never a traceback, and never a name or a number of a patient."""
    content = ACROSS if across else LINES
    for place, cut, piece in changes:
        content = content[:place] + piece + content[place + cut :]
    try:
        reading = read(content, across=across)
    except DataError as error:
        said = str(error)
    else:
        said = " ".join(reading.warnings)
        numbers = [value for row in reading.rows for value in row.values.values() if isinstance(value, float)]
        assert all(0.0 <= number < 20.0 for number in numbers)
    assert "\n" not in said
    assert not any(secret in said for secret in SECRETS)


@given(
    across=st.booleans(), others=st.lists(st.sampled_from(["", "0", "5.5", "999999", "0.001"]), min_size=2, max_size=2)
)
def test_another_sample_changes_nobody_elses_numbers(*, across: bool, others: list[str]) -> None:
    """What stands of a patient is made of that patient's own cells."""
    first, second = others
    if across:
        changed = f"gene,anna7,bob77\nTP53,4711.25,{first}\nHLA-A,1,{second}\n"
    else:
        changed = f"id,state,TP53,HLA-A\nanna7,W,4711.25,1\nbob77,I,{first},{second}\n"
    (one,) = (row for row in read(changed.encode(), across=across).rows if row.patient == "anna7")
    before = read(ACROSS if across else LINES, across=across).rows
    assert one == before[0]
    assert before[1].values != one.values


def test_the_undamaged_matrices_are_read() -> None:
    """Control: else the damage would prove nothing."""
    for across in (False, True):
        assert [row.patient for row in read(ACROSS if across else LINES, across=across).rows] == ["anna7", "bob77"]
    with pytest.raises(DataError, match="is less than 'tpm' can be"):
        read(LINES.replace(b"4711", b"-4711"), across=False)
