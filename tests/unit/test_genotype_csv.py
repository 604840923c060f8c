"""Copies of the plan's alternate, from tables with a column for each variant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from common.errors import ConfigError, DataError
from tests.support.genotypes import CODES, counts_of, genotype_data, read_mapped, write_people

LABEL: dict[str, Any] = {"column": "group", "classes": CODES}
MAPPING: dict[str, Any] = {"form": "genotype-csv", "sample": "id", "label": LABEL, "missing": ["--", "NN"]}


def read_table(folder: Path, text: str, **changes: object) -> Any:  # noqa: ANN401 -- a Reading
    """Read a table by MAPPING; a change to None takes a key away."""
    (folder / "site.csv").write_text(text, encoding="utf-8")
    mapping = {key: value for key, value in {**MAPPING, **changes}.items() if value is not None}
    return read_mapped(folder / "site.csv", mapping, genotype_data())


@pytest.mark.parametrize(
    ("cell", "count"),
    [
        ("AA", 0),
        ("AG", 1),
        ("GA", 1),
        ("gg", 2),
        ("A/G", 1),
        ("G|G", 2),
        ("0", 0),
        ("1", 1),
        ("2.0", 2),
        ("", None),
        ("--", None),
        ("NN", None),
        ("./.", None),
        ("A/.", None),
        ("G", None),
        ("AT", None),
        ("CC", None),
    ],
)
def test_each_way_to_write_a_genotype(cell: str, count: float | None, tmp_path: Path) -> None:
    """Another allele, half a call, and one copy beside X, Y and MT are missing, as in VCF files."""
    reading = read_table(tmp_path, f"id,rs1,rs2,rs3,group\np1,{cell},CT,AT,E\n")
    assert counts_of(reading) == [[count, 1, 1]]
    assert bool(reading.warnings) == (count is None)


@pytest.mark.parametrize(("cell", "count"), [("T", 2), ("A", 0), ("TA", 1)])
def test_one_copy_of_x_counts_twice(cell: str, count: float, tmp_path: Path) -> None:
    """As in VCF files."""
    assert counts_of(read_table(tmp_path, f"id,rs1,rs2,rs3,group\np1,AA,CC,{cell},E\n")) == [[0, 0, count]]


@pytest.mark.parametrize("cell", ["XY", "3", "A-G", "AGT", "0/1", "?", "1e0", "nan", "A/G/T", "-1"])
def test_anything_else_is_refused_with_line_and_column(cell: str, tmp_path: Path) -> None:
    """And never shown."""
    with pytest.raises(DataError) as caught:
        read_table(tmp_path, f"id,rs1,rs2,rs3,group\np1,AA,CC,AA,E\np2,AA,{cell},AA,E\n")
    assert str(caught.value) == (
        "site.csv line 3, column 'rs2': is no genotype; two alleles such as AG, A/G or A|G, one of X, Y or MT, the "
        "counts 0, 1 and 2 of the plan's alternate, or a word listed under `missing` are allowed"
    )


def test_columns_may_have_other_names_or_be_absent(tmp_path: Path) -> None:
    """A site names what it lacks; a column that is just not there is a mistake."""
    reading = read_table(tmp_path, "id,first,rs2,group\np1,AG,TT,E\n", columns={"rs1": "first"}, absent=["rs3"])
    assert counts_of(reading) == [[1, 2, None]]
    assert reading.warnings == ["1 of the plan's 3 variants are absent here: they count as missing"]
    with pytest.raises(DataError) as caught:
        read_table(tmp_path, "id,rs1,rs2,group\np1,AG,TT,E\n")
    assert str(caught.value).startswith("site.csv: line 1 names 4 columns, but no column 'rs3'")
    with pytest.raises(ConfigError) as refused:
        read_table(tmp_path, "id,rs1,rs2,group\n", absent=["rs9"])
    assert str(refused.value) == ("mapping: seen the variant 'rs9', which the plan does not name; correct the mapping")


@pytest.mark.parametrize("label", [LABEL, None])
def test_a_mapping_without_a_variant_is_refused(label: dict[str, Any] | None, tmp_path: Path) -> None:
    """Nothing would be known of anybody; the control has one variant."""
    text = "id,rs1,group\np1,AG,E\n"
    with pytest.raises(ConfigError) as caught:
        read_table(tmp_path, text, label=label, absent=["rs1", "rs2", "rs3"])
    assert str(caught.value) == (
        "mapping: absent: seen all 3 variants of the plan; one at least must have a column here"
    )
    assert counts_of(read_table(tmp_path, text, label=label, absent=["rs2", "rs3"])) == [[1, None, None]]


def test_labels_may_stand_in_another_file(tmp_path: Path) -> None:
    """As they do beside VCF files; people of one file alone are counted."""
    write_people(tmp_path, {"p1": "E", "p3": "A"})
    people = {"file": "people.csv", "sample": "sample", "label": LABEL, "patient": "person"}
    reading = read_table(tmp_path, "id,rs1,rs2,rs3\np1,AA,CC,AA\np2,AG,CT,AT\n", label=None, people=people)
    assert [(row.patient, row.label) for row in reading.rows] == [("person of p1", "EUR")]
    assert dict(reading.left_out) == {"sample_without_label": 1, "label_without_sample": 1}


def test_people_without_a_label_or_a_genotype_are_counted(tmp_path: Path) -> None:
    """They are no error."""
    reading = read_table(tmp_path, "id,rs1,rs2,rs3,group\np1,AA,CC,AA,\np2,,NN,--,E\np3,AA,CC,AA,A\n")
    assert [row.patient for row in reading.rows] == ["p3"]
    assert dict(reading.left_out) == {"missing_label": 1, "no_variant_called": 1}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "id,rs1,rs2,rs3,group\np1,AA,CC,AA,E\np1,AG,CC,AA,E\n",
            "site.csv line 3, column 'id': names the sample of line 2 again; keep one of them",
        ),
        (
            "id,rs1,rs2,rs3,group\n,AA,CC,AA,E\n",
            "site.csv line 2, column 'id': names no sample; fill it in, or remove the line",
        ),
        (
            "id,rs1,rs2,rs3,group\np1,AA,CC,AA,XX\n",
            (
                "site.csv line 2, column 'group': holds a code that 'label.classes' of the mapping does not list (it "
                "lists A, E); add the code there, or correct the cell"
            ),
        ),
        ("", "site.csv: is empty; its first line must name its columns"),
    ],
)
def test_a_wrong_table_is_told_in_one_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    """With file, line and column, and nothing that stands in it."""
    with pytest.raises(DataError) as caught:
        read_table(tmp_path, text)
    assert str(caught.value) == sentence


def test_a_table_of_people_names_each_sample_once(tmp_path: Path) -> None:
    """Two labels for one sample would leave the choice to chance."""
    (tmp_path / "people.csv").write_text("sample,group\np1,E\np1,A\n", encoding="utf-8")
    people = {"file": "people.csv", "sample": "sample", "label": LABEL}
    with pytest.raises(DataError) as caught:
        read_table(tmp_path, "id,rs1,rs2,rs3\np1,AA,CC,AA\n", label=None, people=people)
    assert str(caught.value) == (
        "people.csv line 3, column 'sample': names the sample of people.csv line 2 again; keep one of them"
    )


def test_a_table_of_people_that_is_not_there_is_named_itself(tmp_path: Path) -> None:
    """The shipped mapping asks for one beside it; the file of genotypes is there, and not to blame."""
    people = {"file": "people.csv", "sample": "sample", "label": LABEL}
    with pytest.raises(DataError) as caught:
        read_table(tmp_path, "id,rs1,rs2,rs3\np1,AA,CC,AA\n", label=None, people=people)
    assert str(caught.value) == (
        "people.csv: cannot be read (No such file or directory); `people.file` in the mapping names it, from the "
        "mapping's own folder"
    )


OTHER_LABEL = {"column": "g", "classes": {"E": "EUR"}}


def test_labels_are_named_once(tmp_path: Path) -> None:
    """Both is a mistake in the mapping; without either there are rows without labels, for a finished model."""
    text = "id,rs1,rs2,rs3,group\np1,AA,CC,AA,E\n"
    with pytest.raises(ConfigError, match="label: seen both of `label` and `people`"):
        read_table(tmp_path, text, people={"file": "p.csv", "sample": "s", "label": OTHER_LABEL})
    (row,) = read_table(tmp_path, text, label=None).rows
    assert not row.label
    assert row.values["rs1"] == read_table(tmp_path, text).rows[0].values["rs1"]
