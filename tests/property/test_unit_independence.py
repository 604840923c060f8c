"""Neighbouring data sets: a unit more or less changes nothing of any other unit."""

from __future__ import annotations

import csv
import tempfile
from functools import cache
from io import BytesIO
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from client.data import ImageTable, held_out, load_table
from client.data.resolve import Candidate, left_after_duplicates
from common.errors import DataError

CLASSES = ("mole", "nevus", "wart")
Row = tuple[int, str, str, str, bool | None]
"""Picture, class, lesion_id, isic_id, keep_clean; a row without ids is in no index that has no patients."""

ROWS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from(CLASSES),
        st.sampled_from(["", "A", "B"]),
        st.sampled_from(["", "I1"]),
        st.sampled_from([None, True, False]),
    ),
    min_size=1,
    max_size=9,
)
Seen = dict[str, tuple[tuple[tuple[str, int, str], ...], bool]]


@cache
def picture(number: int) -> bytes:
    """Bytes of one image; number 3 opens as an image of no format."""
    if number == 3:
        return b"not an image"
    buffer = BytesIO()
    Image.new("RGB", (8, 8), (40 * number, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def unit_of(row: Row) -> str:
    """The unit that a row belongs to, as far as it can be told from the row alone."""
    number, _, lesion, isic, _ = row
    return f"lesion:{lesion}" if lesion else f"isic:{isic}" if isic else f"picture {number}"


def patient_of(row: Row) -> str:
    """Whose the image is, where there is a column of patients: neither the lesion nor the picture alone says it."""
    number, label, lesion, _, _ = row
    return f"P{(number + len(label) + len(lesion)) % 3}"


def write(root: Path, rows: list[tuple[int, Row]], *, patients: bool = False) -> None:
    """A data folder; a file's name does not change when others are left out."""
    for label in CLASSES:
        (root / label).mkdir(parents=True)
    with (root / "index.csv").open("w", newline="", encoding="utf-8") as stream:
        lines = csv.writer(stream)
        owner = ("patient_id",) if patients else ()
        lines.writerow(("path", "label", "lesion_id", "isic_id", "keep_clean", *owner))
        for position, row in rows:
            number, label, lesion, isic, clean = row
            name = f"{label}/{position}.png"
            (root / name).write_bytes(picture(number))
            owner = (patient_of(row),) if patients else ()
            if owner or lesion or isic or clean is not None:
                lines.writerow((name, label, lesion, isic, "" if clean is None else clean, *owner))


def by_unit(table: ImageTable) -> Seen:
    """All that training, evaluation and the feature cache take from each unit."""
    units: dict[str, list[tuple[str, int, str]]] = {}
    for record in table.records:
        units.setdefault(record.unit, []).append((record.path, record.label_index, record.sha256))
    return {unit: (tuple(rows), held_out(unit, salt="s", fraction=0.5)) for unit, rows in units.items()}


def seen(rows: list[tuple[int, Row]], *, patients: bool = False) -> Seen:
    """What a site makes of these files."""
    if not rows:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), rows, patients=patients)
        try:
            return by_unit(
                load_table(Path(folder), CLASSES, on_undecodable="skip", unit="patient", patient_column="auto")
            )
        except DataError:  # nothing is left
            return {}


@settings(max_examples=150, deadline=None)
@given(rows=ROWS, data=st.data())
def test_removing_a_unit_changes_no_other_unit(rows: list[Row], data: st.DataObject) -> None:
    """Paths, label, cache keys and side of each; equal files in several units, with and without ids, are among them."""
    numbered = list(enumerate(rows))
    removed = data.draw(st.sampled_from(sorted({unit_of(row) for row in rows})))
    whole = seen(numbered)
    less = seen([(position, row) for position, row in numbered if unit_of(row) != removed])
    gone = whole.keys() - less.keys()
    assert len(gone) <= 1
    assert less == {unit: what for unit, what in whole.items() if unit not in gone}


@settings(max_examples=100, deadline=None)
@given(rows=ROWS, data=st.data())
def test_removing_a_patient_changes_no_other_patient(rows: list[Row], data: st.DataObject) -> None:
    """The same with a column of patients, who share pictures, labels and lesion ids."""
    numbered = list(enumerate(rows))
    removed = data.draw(st.sampled_from(sorted({patient_of(row) for row in rows})))
    whole = seen(numbered, patients=True)
    less = seen([(position, row) for position, row in numbered if patient_of(row) != removed], patients=True)
    assert whole.keys() <= {f"patient:{patient_of(row)}" for row in rows}
    assert less == {unit: what for unit, what in whole.items() if unit != f"patient:{removed}"}


def test_the_rule_across_units_that_was_here_before_fails() -> None:
    """Control: where one picture stays once in the whole table, lesion B takes an image from lesion A."""
    first = Candidate("mole/1.png", "mole", "lesion:A", "1" * 64, keep_clean=None)
    copy = Candidate("wart/1.png", "wart", "lesion:B", "1" * 64, keep_clean=None)
    warnings: list[str] = []
    kept, left_out = left_after_duplicates([first, copy], warnings, owner="lesion")
    assert kept == [first, copy]
    assert not left_out
    assert "(1 mole = wart): index.csv's keep_clean decides 0, 1 stay with each of their lesions" in warnings[0]
    assert "1 image lies byte-identical in several lesions" in warnings[1]
    as_one_unit = [Candidate(c.path, c.label, "lesion:A", c.sha256, c.keep_clean) for c in (first, copy)]
    assert left_after_duplicates(as_one_unit, [], owner="lesion") == ([], {"conflicting_label": 2})
