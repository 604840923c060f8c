"""A plan's declaration of gene expression, and what everybody makes of it: inputs, words, drawn patients, parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from client.check_pictures import histograms
from client.data.rows import RawRow, Reading, RowTable, encode_rows
from client.data.source import read_data, read_rows
from client.task_in_words import task_in_words
from common.config import parse_settings
from common.errors import ConfigError
from common.plan import Plan
from common.plan_expression import ExpressionData
from scripts.row_files import write_rows
from scripts.split_rows import split_rows
from scripts.synthetic_rows import draw_rows
from tests.support.small_federation import TEMPLATE

GENES = [f"HLA-{k}" for k in range(12)]
PLAN: dict[str, Any] = {
    "kind": "expression",
    "classes": ["ill", "well"],
    "held_out": 0.2,
    "held_out_salt": "salt",
    "genes": GENES,
    "scale": "log2_tpm",
    "low": 0.0,
    "high": 16.0,
    "decimals": 9,
    "missing": "flag",
}


def declared(**changes: object) -> ExpressionData:
    """The declaration, with other keys."""
    return parse_settings(yaml.safe_dump(PLAN | changes), ExpressionData, source="plan")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"genes": ["TP53", "TP53"]}, "plan: genes: seen 'TP53' twice; every gene stands once; remove one"),
        ({"genes": []}, "plan: genes: seen [];"),
        ({"genes": ["a gene"]}, "plan: genes.0: seen 'a gene';"),
        ({"low": 16.0}, "plan: genes: seen low 16 and high 16; low must be less"),
        ({"own_ranges": [{"gene": "KRAS", "low": 0, "high": 1}]}, "plan: own_ranges: seen 'KRAS', which is none of"),
        ({"own_ranges": [{"gene": "HLA-1", "low": 1, "high": 1}]}, "HLA-1: seen low 1 and high 1; low must be less"),
        (
            {"own_ranges": [{"gene": "HLA-1", "low": 0, "high": high} for high in (1, 2)]},
            "own_ranges: seen 'HLA-1' twice",
        ),
        ({"scale": "counts"}, "plan: scale: seen 'counts', which become comparable by the total of all genes"),
        ({"scale": "zscore"}, "so that other patients stand in each number"),
        ({"decimals": 10}, "plan: decimals: seen 10;"),
    ],
)
def test_a_wrong_declaration_is_refused_by_its_key(changes: dict[str, Any], sentence: str) -> None:
    """One sentence; what cannot be compared between sites, with the reason."""
    with pytest.raises(ConfigError) as caught:
        declared(**changes)
    assert sentence in str(caught.value)


def test_each_gene_is_a_number_of_its_range() -> None:
    """The norm of no row is above 1, whatever the numbers are; missing ones have a flag."""
    data = declared(own_ranges=[{"gene": "HLA-3", "low": 4.0, "high": 8.0}])
    rows = [
        RawRow("a", "p", dict.fromkeys(GENES, 16.0), "ill"),
        RawRow("b", "q", dict.fromkeys(GENES, 4.0), "well"),
        RawRow("c", "r", {"HLA-0": 16.0}, "well"),
    ]
    encoded = encode_rows(Reading(rows=rows), data, unit="patient", patient_column="id")
    assert encoded.rows.shape == (3, data.inputs) == (3, 25)
    assert np.linalg.norm(encoded.rows, axis=1) == pytest.approx([1, np.sqrt((11 / 4 + 1 + 3) / 15), 1])
    # Twelve genes, and a constant whose square is a quarter of that.
    assert (encoded.rows[1] * np.sqrt(15))[[0, 1, 6, 7, 24]] == pytest.approx([-0.5, 0, -1, 0, np.sqrt(3)])
    assert (encoded.rows[2] * np.sqrt(15))[[0, 1, 2, 3]] == pytest.approx([1, 0, 0, 1])
    assert encoded.clipped == {"HLA-3": 1}
    assert histograms(encoded, rows, data).startswith(b"\x89PNG")


def test_many_clipped_genes_are_one_sentence() -> None:
    """Hundreds would hide what else there is; few are named."""
    genes = [f"G{k}" for k in range(31)]
    high, middle = dict.fromkeys(genes, 18.0), dict.fromkeys(genes, 8.0)
    rows = [
        RawRow("a", "p", high, "ill"),
        RawRow("b", "q", middle | {"G7": 17.0}, "ill"),
        RawRow("c", "r", middle, "ill"),
    ]

    def warned(**changes: object) -> tuple[str, ...]:
        data = declared(genes=genes, **changes)
        return encode_rows(Reading(rows=rows), data, unit="patient", patient_column="id").warnings

    assert warned() == (
        (
            "32 values of 31 features lie outside of the plan's ranges, most of G7, G0, G1, G2, G3: the ranges' "
            "ends are taken"
        ),
    )
    few = warned(own_ranges=[{"gene": "G0", "low": 0.0, "high": 18.0}])
    assert len(few) == 30
    assert few[0] == "1 value of G1 lies outside of the plan's range: its end is taken"


def test_a_plan_on_expression_says_what_it_is_and_which_models_it_takes() -> None:
    """As `approve` shows it: a list of hundreds of genes would hide the rest."""
    template = TEMPLATE | {"data": PLAN, "model": {"kind": "mlp", "hidden": [4], "seed": 1}}
    plan = parse_settings(yaml.safe_dump(template), Plan, source="plan")
    assert task_in_words(plan.data) == (
        "tell 2 classes apart: ill, well; by the expression of 12 genes (log2_tpm, 0 to 16)"
    )
    with pytest.raises(ConfigError, match=r"model.kind: seen 'cox' with data of kind 'expression'; allowed there: "):
        parse_settings(yaml.safe_dump(template | {"model": {"kind": "cox"}}), Plan, source="plan")


def test_drawn_patients_are_read_as_they_were_written_and_dealt(tmp_path: Path) -> None:
    """Through the connector that hospitals use, for demos and `fedward split`."""
    data = declared()
    drawn = draw_rows(data, 90, seed=2)
    place = write_rows(tmp_path / "all", drawn, data)
    found = read_rows(place, data)
    assert [dict(row.values) for row in found.rows] == [dict(row.values) for row in drawn]
    assert [row.label for row in found.rows] == [row.label for row in drawn]
    places, _ = split_rows(place, data, tmp_path / "parts", hospitals=3, seed=0)
    parts = [read_data(part, data, unit="patient") for part in places.values()]
    assert [len(part.unit_labels()) for part in parts] == [30, 30, 30]
    whole = read_data(place, data, unit="patient")
    assert isinstance(whole, RowTable)
    assert sorted(row.tobytes() for part in parts if isinstance(part, RowTable) for row in part.rows) == sorted(
        row.tobytes() for row in whole.rows
    )
