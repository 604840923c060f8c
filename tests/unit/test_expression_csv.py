"""Gene expression from matrices: samples or genes in lines, in a site's own names and scale."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from client.data.reading import Reading
from client.data.rows import RowTable
from client.data.source import DataPlace, read_data, read_rows, read_unlabelled
from common.config import parse_settings
from common.errors import ConfigError, DataError
from common.plan_expression import ExpressionData

ENSEMBL = {"TP53": "ENSG00000141510", "HLA-A": "ENSG00000206503", "MYC": "ENSG00000136997"}
GENES = tuple(ENSEMBL)
PLAN: dict[str, Any] = {
    "kind": "expression",
    "classes": ["well", "ill"],
    "held_out": 0.0,
    "held_out_salt": "salt",
    "genes": list(GENES),
    "scale": "log2_tpm",
    "low": 0.0,
    "high": 15.0,
    "decimals": 6,
    "missing": "flag",
}
LABEL: dict[str, Any] = {"column": "state", "classes": {"W": "well", "I": "ill"}}
LINES: dict[str, Any] = {"form": "expression-csv", "scale": "tpm", "sample": "id", "label": LABEL, "missing": ["NA"]}
PEOPLE: dict[str, Any] = {"file": "people.csv", "sample": "id", "label": LABEL}
ACROSS: dict[str, Any] = {"form": "expression-csv", "scale": "tpm", "gene": "gene", "people": PEOPLE, "missing": ["NA"]}
MATRIX = "gene,s1,s2\nTP53,3,1\nHLA-A,0,7\nMYC,NA,15\n"


def plan(**changes: object) -> ExpressionData:
    """The declaration, with other keys."""
    return parse_settings(yaml.safe_dump(PLAN | changes), ExpressionData, source="plan")


def place(folder: Path, text: str | bytes, mapping: dict[str, Any], **changes: object) -> DataPlace:
    """A file and its mapping as a site holds them; a change to None takes a key away."""
    data = folder / "matrix.csv"
    data.write_bytes(text if isinstance(text, bytes) else text.encode())
    said = {key: value for key, value in {**mapping, **changes}.items() if value is not None}
    (folder / "mapping.yaml").write_text(yaml.safe_dump(said), encoding="utf-8")
    return DataPlace(data, folder / "mapping.yaml")


def people(folder: Path, text: str = "id,state\ns1,W\ns2,I\n") -> None:
    """The table of people that ACROSS names."""
    (folder / "people.csv").write_text(text, encoding="utf-8")


def read(where: DataPlace, data: ExpressionData | None = None) -> Reading:
    """What the connector finds."""
    return read_rows(where, data or plan())


def refusal(where: DataPlace, data: ExpressionData | None = None) -> str:
    """The one sentence of a refused file."""
    with pytest.raises(DataError) as caught:
        read(where, data)
    return str(caught.value)


def table(where: DataPlace, data: ExpressionData | None = None) -> RowTable:
    """What a site trains on."""
    loaded = read_data(where, data or plan(), unit="patient")
    assert isinstance(loaded, RowTable)
    return loaded


def write_matrix(path: Path, cells: list[list[str]], delimiter: str) -> None:
    """A file of cells."""
    with path.open("w", encoding="utf-8-sig", newline="") as stream:
        csv.writer(stream, delimiter=delimiter).writerows(cells)


@pytest.mark.parametrize("missing", ["flag", "leave-out"])
def test_two_layouts_two_scales_and_two_sets_of_names_give_the_same_units(tmp_path: Path, missing: str) -> None:
    """Bit for bit, of patients with several samples, up to the plan's rounding."""
    drawn, data = np.random.default_rng(1), plan(missing=missing)
    samples = [
        (f"S{k}", f"P{k // 2}", "WI"[k // 2 % 2], [round(drawn.exponential(100.0), 2) for _ in GENES])
        for k in range(60)
    ]
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    rows = [[name, whose, state, *map(str, tpm)] for name, whose, state, tpm in samples]
    rows[7][4] = "NA"
    write_matrix(one / "matrix.csv", [["id", "person", "state", *GENES], *rows], ",")
    (one / "mapping.yaml").write_text(yaml.safe_dump(LINES | {"patient": "person"}), encoding="utf-8")
    genes = [[f"{ENSEMBL[gene]}.{k + 4}" for k, gene in enumerate(GENES)]]
    across = [["", *(sample[0] for sample in samples)]]
    for k, name in enumerate(genes[0]):
        across.append([name, *(repr(math.log2(tpm[k] + 1)) for *_, tpm in samples)])
    across[2][8] = "NA"
    write_matrix(other / "matrix.csv", [across[0], *reversed(across[1:])], "\t")
    write_matrix(
        other / "people.csv", [["id", "person", "state"], *(list(each[:3]) for each in reversed(samples))], ";"
    )
    write_matrix(other / "names.csv", [["ensembl", "symbol"], *([v, k] for k, v in ENSEMBL.items())], ",")
    mapping = ACROSS | {
        "scale": "log2_tpm",
        "gene": "",
        "people": PEOPLE | {"patient": "person"},
        "ensembl_versions": "drop",
        "gene_names": {"file": "names.csv", "here": "ensembl", "plan": "symbol"},
    }
    (other / "mapping.yaml").write_text(yaml.safe_dump(mapping), encoding="utf-8")
    first, second = (table(DataPlace(each / "matrix.csv", each / "mapping.yaml"), data) for each in (one, other))
    assert first.unit_labels() == second.unit_labels()
    assert len(first.unit_labels()) == 30
    assert first.unit_rows()[0].tobytes() == second.unit_rows()[0].tobytes()
    assert [len(each.records) for each in (first, second)] == ([60, 60] if missing == "flag" else [59, 59])
    assert (first.converted, second.converted) == ({"gene expression from tpm": 179}, {})
    # Control: what rounding takes away is there.
    unrounded = table(DataPlace(one / "matrix.csv", one / "mapping.yaml"), plan(missing=missing, decimals=9))
    assert unrounded.unit_rows()[0].tobytes() != first.unit_rows()[0].tobytes()


@pytest.mark.parametrize(
    ("own", "theirs", "pseudocount", "cell", "value"),
    [
        ("log2_tpm", "tpm", None, "3", 2.0),
        ("log2_tpm", "tpm", None, "0", 0.0),
        ("log2_tpm", "tpm", None, "1e6", round(math.log2(1_000_001), 6)),
        ("log2_tpm", "log2_tpm", None, "2.5", 2.5),
        ("log2_tpm", "log2_tpm", 0.001, "-9.9658", 0.0),
        ("log2_tpm", "log2_tpm", 0.001, repr(math.log2(3.001)), 2.0),
        ("tpm", "log2_tpm", None, "2", 3.0),
        ("tpm", "tpm", None, "1.23456789", 1.234568),
        ("log2_fpkm", "fpkm", None, "7", 3.0),
        ("log2_cpm", "cpm", None, "1", 1.0),
        ("log2_intensity", "intensity", None, "1024", 10.0),
        ("log2_ratio", "ratio", None, "0.25", -2.0),
        ("log2_ratio", "log2_ratio", None, "-2", -2.0),
        ("ratio", "log2_ratio", None, "-1", 0.5),
    ],
)
def test_numbers_come_in_the_plans_scale(  # noqa: PLR0913, PLR0917 -- pytest's parameters
    own: str, theirs: str, pseudocount: float | None, cell: str, value: float, tmp_path: Path
) -> None:
    """By hand; the last cell has another value, so that no one scale fits all."""
    data = plan(scale=own, low=-5.0, high=2000.0)
    where = place(
        tmp_path, f"id,state,TP53,HLA-A,MYC\ns1,W,{cell},NA,NA\n", LINES, scale=theirs, pseudocount=pseudocount
    )
    (row,) = read(where, data).rows
    assert dict(row.values) == {"TP53": value, "HLA-A": None, "MYC": None}


@pytest.mark.parametrize(
    ("scale", "cell", "sentence"),
    [
        (
            "tpm",
            "-0.5",
            (
                "is less than 'tpm' can be, as TPM are never negative; correct the cell, or the mapping's "
                "`scale`, perhaps to log2"
            ),
        ),
        (
            "log2_tpm",
            "-4",
            (
                "is less than 'log2_tpm' can be, as TPM are never negative; correct the cell, or the "
                "mapping's `scale` or `pseudocount` (some tables hold the log2 of 0.001 more)"
            ),
        ),
        (
            "log2_tpm",
            "220.5",
            (
                "is more than 19.9316, the most that 'log2_tpm' can be; correct the cell, or the "
                "mapping's `scale`, perhaps to 'tpm'"
            ),
        ),
        (
            "log2_tpm",
            "1e300",
            (
                "is more than 19.9316, the most that 'log2_tpm' can be; correct the cell, or the "
                "mapping's `scale`, perhaps to 'tpm'"
            ),
        ),
        (
            "tpm",
            "1000001",
            "is more than 1e+06, the most that 'tpm' can be; correct the cell, or the mapping's `scale`",
        ),
        ("tpm", "NaN", "is not a finite number; correct it, or list its word under `missing` in the mapping"),
        ("tpm", "-Inf", "is not a finite number; correct it, or list its word under `missing` in the mapping"),
        ("tpm", "1e999", "is not a finite number; correct it, or list its word under `missing` in the mapping"),
        ("tpm", "3,5", "holds a comma, but the mapping's `decimal` is '.'; correct one of them"),
        ("tpm", "1-Mar", "is not a number; correct it, or list its word under `missing` in the mapping"),
    ],
)
def test_a_cell_that_cannot_be_is_told_by_its_place(scale: str, cell: str, sentence: str, tmp_path: Path) -> None:
    """File, line, column and gene, in both layouts, and never the cell."""
    lines = place(tmp_path, f'id,state,TP53,other,MYC,HLA-A\ns1,W,1,x,1,1\ns2,I,1,x,"{cell}",1\n', LINES, scale=scale)
    assert refusal(lines) == f"matrix.csv line 3, column 5 (MYC): {sentence}"
    people(tmp_path)
    across = place(tmp_path, f'gene,s1,s2\nTP53,1,1\nx,y,z\nMYC,1,"{cell}"\nHLA-A,1,1\n', ACROSS, scale=scale)
    assert refusal(across) == f"matrix.csv line 4 (MYC), column 3: {sentence}"


def test_zero_has_no_logarithm_without_a_pseudocount(tmp_path: Path) -> None:
    """Intensities of 0 are how arrays write unknown."""
    data = plan(scale="log2_intensity")
    where = place(tmp_path, "id,state,TP53,HLA-A,MYC\ns1,W,8,0,4\n", LINES, scale="intensity")
    assert refusal(where, data) == (
        "matrix.csv line 2, column 4 (HLA-A): is 0, which has no logarithm; where 0 means unknown, list it under "
        "`missing` in the mapping"
    )
    where = place(tmp_path, "id,state,TP53,HLA-A,MYC\ns1,W,8,0,4\n", LINES, scale="intensity", missing=["0"])
    assert dict(read(where, data).rows[0].values) == {"TP53": 3.0, "HLA-A": None, "MYC": 2.0}


@pytest.mark.parametrize(
    ("text", "mapping", "sentence"),
    [
        (
            "id,state,TP53,MYC\ns1,W,1,1\n",
            LINES,
            (
                "matrix.csv line 1: lacks 1 of the plan's 3 genes (HLA-A); give the "
                "plan's names for this site's by `gene_names`, or list under `absent` what this site lacks"
            ),
        ),
        (
            "id,state,TP53,HLA-A,TP53,MYC\n",
            LINES,
            (
                "matrix.csv line 1, column 5: is the plan's gene 'TP53', as "
                "matrix.csv line 1, column 3 is; every gene stands once: keep one of them, or correct `gene_names`"
            ),
        ),
        (
            "gene,s1,s2\nTP53,1,1\nMYC,1,1\n",
            ACROSS,
            (
                "matrix.csv: lacks 1 of the plan's 3 genes (HLA-A); give the "
                "plan's names for this site's by `gene_names`, or list under `absent` what this site lacks"
            ),
        ),
        (
            MATRIX + "TP53,1,1\n",
            ACROSS,
            (
                "matrix.csv line 5: is the plan's gene 'TP53', as matrix.csv line 2 is; every "
                "gene stands once: keep one of them, or correct `gene_names`"
            ),
        ),
        ("gene,s1,s1\n", ACROSS, "matrix.csv line 1, column 3: names the sample of column 2 again; keep one of them"),
        ("gene,s1,\n", ACROSS, "matrix.csv line 1, column 3: names no sample; fill it in, or remove the column"),
        (
            MATRIX + "KRAS,1\n",
            ACROSS,
            (
                "matrix.csv line 5: seen 2 cells, 3 columns are named; correct the line (a cell "
                "that holds the delimiter or a line break must stand in quotes)"
            ),
        ),
        (
            "id,state,TP53,HLA-A,MYC\ns1,W,1,1,1\ns1,I,2,2,2\n",
            LINES,
            ("matrix.csv line 3, column 'id': names the sample of line 2 again; keep one of them"),
        ),
        (
            "id,state,TP53,HLA-A,MYC\n,W,1,1,1\n",
            LINES,
            ("matrix.csv line 2, column 'id': names no sample; fill it in, or remove the line"),
        ),
        (
            "id,state,TP53,HLA-A,MYC\ns1,X,1,1,1\n",
            LINES,
            (
                "matrix.csv line 2, column 'state': holds a code that "
                "'label.classes' of the mapping does not list (it lists I, W); add the code there, or correct the cell"
            ),
        ),
        (
            "Gene,s1,s2\n",
            ACROSS,
            (
                "matrix.csv: line 1 names 3 columns, but no column 'gene' (but 'Gene': write it as in "
                "the file); correct the mapping, or list the columns under `header` where the file has no line for them"
            ),
        ),
        ("", ACROSS, "matrix.csv: is empty; its first line must name its columns"),
    ],
)
def test_a_wrong_matrix_is_told_in_one_sentence(
    text: str, mapping: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    """With file, line and column; genes are no patient's data, names of samples are."""
    people(tmp_path)
    assert refusal(place(tmp_path, text, mapping)) == sentence


def test_a_stated_delimiter_that_does_not_fit_and_other_bytes_are_told(tmp_path: Path) -> None:
    """As for every CSV form; a byte order mark and tabs are read."""
    people(tmp_path)
    tabs = "\ufeff" + MATRIX.replace(",", "\t")
    assert len(read(place(tmp_path, tabs, ACROSS)).rows) == 2
    assert "the mapping's `delimiter` is ',', but the file looks separated by tabs" in refusal(
        place(tmp_path, tabs, ACROSS, delimiter=",")
    )
    assert "line 2: holds a NUL byte" in refusal(place(tmp_path, MATRIX.replace("3", "\0"), ACROSS))
    assert "is compressed by gzip" in refusal(place(tmp_path, b"\x1f\x8b\x08", ACROSS))
    assert "line 2: is not utf-8 text" in refusal(place(tmp_path, b"gene,s1,s2\nTP53,\xff,1\n", ACROSS))


def test_a_line_may_hold_all_genes_and_no_more(tmp_path: Path) -> None:
    """60,000 genes are more than a megabyte of line, which other forms refuse; a file without line ends is refused."""
    more = ",".join(f"ENSG{number:011d}.{number % 20}" for number in range(60_000))
    text = f"id,state,TP53,{more},HLA-A,MYC\ns1,W,1,{'0.123456789012345,' * 60_000}3,7\n"
    assert max(map(len, text.splitlines())) > 1 << 20
    assert dict(read(place(tmp_path, text, LINES)).rows[0].values) == {"TP53": 1.0, "HLA-A": 2.0, "MYC": 3.0}
    endless = place(tmp_path, "id,state,TP53," + "x," * (7 << 20), LINES)
    assert "line 1: is longer than 12582912 characters" in refusal(endless)


def test_versions_of_ensembl_ids_are_dropped_where_the_mapping_says_so(tmp_path: Path) -> None:
    """And nothing else is: PAR_Y copies are other genes."""
    data, (tp53, hla, myc) = plan(genes=list(ENSEMBL.values())), ENSEMBL.values()
    text = f"id,state,{tp53}.17,{hla}.3,{hla}.3_PAR_Y,{myc}\ns1,W,1,3,9,7\n"
    assert refusal(place(tmp_path, text, LINES), data) == (
        f"matrix.csv line 1: lacks 2 of the plan's 3 genes ({tp53}, {hla}); the file has Ensembl ids with versions: "
        "write `ensembl_versions: drop` in the mapping"
    )
    where = place(tmp_path, text, LINES, ensembl_versions="drop")
    assert dict(read(where, data).rows[0].values) == {tp53: 1.0, hla: 2.0, myc: 3.0}
    twice = place(tmp_path, text.replace(f"{hla}.3_PAR_Y", f"{hla}.4"), LINES, ensembl_versions="drop")
    assert "line 1, column 5: is the plan's gene 'ENSG00000206503'" in refusal(twice, data)


def test_a_table_of_names_says_which_gene_is_which(tmp_path: Path) -> None:
    """A name that it does not list stands for itself; two names of one gene in the file, or two genes, are refused."""
    names = {"file": "names.csv", "here": "mine", "plan": "symbol"}
    (tmp_path / "names.csv").write_text("mine,symbol\np53,TP53\nnone,\n,KRAS\nx,KRAS\nx,NRAS\n", encoding="utf-8")
    text = "id,state,p53,HLA-A,MYC\ns1,W,1,3,7\n"
    where = place(tmp_path, text, LINES, gene_names=names)
    assert dict(read(where).rows[0].values) == {"TP53": 1.0, "HLA-A": 2.0, "MYC": 3.0}
    both = place(tmp_path, "id,state,p53,HLA-A,MYC,TP53\n", LINES, gene_names=names)
    assert "line 1, column 6: is the plan's gene 'TP53', as matrix.csv line 1, column 3 is" in refusal(both)
    (tmp_path / "names.csv").write_text("mine,symbol\np53,TP53\np53,TP63\n", encoding="utf-8")
    assert refusal(place(tmp_path, text, LINES, gene_names=names)) == (
        "names.csv line 3: gives a name of this site a second name of the plan, and one of both is a gene of the "
        "plan; keep one of the lines"
    )


def test_genes_that_a_site_lacks_are_missing_where_the_plan_flags_them(tmp_path: Path) -> None:
    """As features of tables; a plan that uses no sample without them cannot have such a site."""
    where = place(tmp_path, "id,state,TP53,MYC\ns1,W,1,3\n", LINES, absent=["HLA-A"])
    reading = read(where)
    assert dict(reading.rows[0].values) == {"TP53": 1.0, "HLA-A": None, "MYC": 2.0}
    assert reading.warnings == ["1 of the plan's 3 genes are absent here: they count as missing"]
    for absent, data, sentence in (
        (["HLA-A"], plan(missing="leave-out"), "the plan uses no sample without one of its genes"),
        (["KRAS"], plan(), "seen 'KRAS', which is no gene of the plan"),
        (list(GENES), plan(), "seen all 3 genes of the plan"),
        (["MYC", "MYC"], plan(), "absent: seen a gene twice"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            read(place(tmp_path, "id,state,TP53,MYC\ns1,W,1,3\n", LINES, absent=absent), data)


def test_samples_without_a_label_or_a_number_are_counted(tmp_path: Path) -> None:
    """Other columns are passed over; cells of samples that nobody knows are not looked at."""
    people(tmp_path, "id,state\ns1,W\ns2,\ns3,I\ns9,I\n")
    text = "gene,about,s1,s2,s3,s4\nTP53,a word,1,1,NA,bad\nHLA-A,,1,1,,bad\nMYC,,NA,1,NA,bad\n"
    reading = read(place(tmp_path, text, ACROSS, other_columns=["about"]))
    assert [(row.place, row.patient, row.label) for row in reading.rows] == [("matrix.csv column 3", "s1", "well")]
    assert reading.left_out == {
        "sample_without_label": 1,
        "label_without_sample": 1,
        "missing_label": 1,
        "no_gene_measured": 1,
    }


def test_a_finished_model_may_be_asked_about_samples_without_labels(tmp_path: Path) -> None:
    """In both layouts; to train on them is refused."""
    where = place(tmp_path, MATRIX, ACROSS, people=None)
    _, names = read_unlabelled(where, plan())
    assert [name for name, _ in names] == ["matrix.csv column 2", "matrix.csv column 3"]
    with pytest.raises(ConfigError, match="seen no label; a plan on data of kind 'expression' learns from it"):
        table(where)
    lines = place(tmp_path, "id,TP53,HLA-A,MYC\ns1,1,3,7\n", LINES, label=None)
    assert len(read_unlabelled(lines, plan())[1]) == 1


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"scale": "counts"},
            (
                "scale: seen 'counts', which become comparable by the total of all genes of a sample, and "
                "which genes a file has differs between sites; let the pipeline that made them write TPM or "
                "CPM, and name "
                "that"
            ),
        ),
        ({"scale": "vst"}, "scale: seen 'vst', which is made from all samples of a site together"),
        (
            {"scale": "log2_fpkm"},
            (
                "scale: seen 'log2_fpkm'; the plan's is 'log2_tpm', and FPKM become TPM by no rule for "
                "one number alone; export 'tpm' or 'log2_tpm'"
            ),
        ),
        ({"scale": "rpm"}, "scale: seen 'rpm'; input should be 'tpm', 'log2_tpm'"),
        ({"pseudocount": 0.5}, "pseudocount: seen beside the scale 'tpm', which is no logarithm"),
        ({"pseudocount": 0.0, "scale": "log2_tpm"}, "pseudocount: seen 0.0; input should be greater than 0"),
        ({"patient": ""}, "patient: seen ''; value should have at least 1 item"),
        ({"gene": "gene"}, "name either the column `sample`"),
        ({"sample": None}, "name either the column `sample`"),
        ({"sample": None, "gene": "gene"}, "seen beside `label` or `patient`"),
        ({"people": {**PEOPLE, "label": {"column": "state", "classes": {"W": "well"}}}}, "seen both of `label`"),
        ({"label": None, "people": PEOPLE, "patient": "p"}, "patient: seen beside `people`"),
        ({"other_columns": ["x"]}, "other_columns: seen beside `sample`"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused(changes: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    """With what to do."""
    with pytest.raises(ConfigError) as caught:
        read(place(tmp_path, "id,state,TP53,HLA-A,MYC\ns1,W,1,1,1\n", LINES, **changes))
    assert sentence in str(caught.value)


def lines_of(numbers: list[float]) -> str:
    """A file of one gene's numbers for all genes."""
    return "id,state,TP53,HLA-A,MYC\n" + "".join(
        f"s{k},{'WI'[k % 2]},{each},{each},{each}\n" for k, each in enumerate(numbers)
    )


def test_a_file_in_another_scale_than_its_mapping_says_is_refused_with_the_scale_that_fits(tmp_path: Path) -> None:
    """By the plan's public ranges, all genes together: one gene out of range is clipped and told."""
    data = plan(scale="log2_intensity", low=4.0, high=16.0)
    logged = [5.0 + k for k in range(8)]
    with pytest.raises(DataError) as caught:
        table(place(tmp_path, lines_of(logged), LINES, scale="intensity"), data)
    assert str(caught.value) == (
        "gene expression: most of 24 values lie outside of the plan's ranges in 'log2_intensity'; they would "
        "lie inside "
        "if the mapping's `scale` were 'log2_intensity'; correct `scale` in the mapping, or list the words that mean "
        "missing"
    )
    assert len(table(place(tmp_path, lines_of(logged), LINES, scale="log2_intensity"), data).records) == 8
    ratios = plan(scale="ratio", low=0.0, high=1.5)
    with pytest.raises(DataError, match=r"would lie inside if the mapping's `scale` were 'ratio'"):
        table(place(tmp_path, lines_of([0.7 + k / 100 for k in range(8)]), LINES, scale="log2_ratio"), ratios)
    with pytest.raises(DataError, match=r"'log2_tpm'; correct `scale`"):
        table(place(tmp_path, lines_of([900.0] * 8), LINES), plan(high=2.0))
    above = plan(own_ranges=[{"gene": "MYC", "low": 0.0, "high": 2.0}])
    read_anyway = table(place(tmp_path, lines_of([900.0] * 8), LINES), above)
    assert read_anyway.clipped == {"MYC": 8}


def test_linear_numbers_that_look_like_logarithms_are_warned_of(tmp_path: Path) -> None:
    """They lie inside of every range; ten numbers at least, and none above 32."""
    warning = (
        "none of 24 values is above 32, which 'tpm' would pass where many genes are measured; if these are logarithms, "
        "write `scale: log2_tpm` in the mapping"
    )
    logged = [5.0 + k for k in range(8)]
    assert read(place(tmp_path, lines_of(logged), LINES)).warnings == [warning]
    assert read(place(tmp_path, lines_of([*logged, 33.0]), LINES)).warnings == []
    assert read(place(tmp_path, lines_of(logged[:3]), LINES)).warnings == []
    assert read(place(tmp_path, lines_of(logged), LINES, scale="log2_tpm")).warnings == []
