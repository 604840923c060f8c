"""Rows of numbers from what connectors find: bounded by public constants, and each unit's from its own rows alone."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from sklearn.compose import ColumnTransformer
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder

from client.data.missing_values import missing_in_words
from client.data.reading import RawRow, Reading
from client.data.rows import RowTable, encode_rows, left_out_in_words
from client.data.table import PrivacyUnit
from common.config import parse_settings
from common.errors import ConfigError, DataError
from common.plan_data import GenotypeData, SurvivalData, TableData, row_scale
from common.plan_features import NumberFeature

SHADES = ("dark", "light", "grey")
FEATURES: list[dict[str, Any]] = [
    {"kind": "number", "name": "age", "unit": "a", "low": 0, "high": 100, "missing": "flag"},
    {"kind": "number", "name": "dose", "unit": "mg", "low": -1, "high": 3, "missing": "leave-out"},
    {"kind": "category", "name": "shade", "values": list(SHADES), "missing": "flag"},
]
HELD_OUT = {"held_out": 0.2, "held_out_salt": "salt"}
TABLE = TableData.model_validate({"kind": "table", "classes": ["ill", "well"], "features": FEATURES} | HELD_OUT)
SURVIVAL = SurvivalData.model_validate(
    {"kind": "survival", "time_unit": "d", "cuts": [10.0, 20.0], "features": FEATURES} | HELD_OUT
)
GENOTYPES = GenotypeData.model_validate(
    {
        "kind": "genotypes",
        "classes": ["ill", "well"],
        "assembly": "GRCh38",
        "variants": [
            {"id": f"rs{n}", "chromosome": "1", "position": n, "reference": "A", "alternate": "C"} for n in (1, 2, 3)
        ],
    }
    | HELD_OUT
)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"reference": "C"},
            r"variants\.1: rs2: seen the same bases as reference and alternate; they must differ$",
        ),
        (
            {"position": 1},
            r"variants: seen 'rs1' and 'rs2' at the same place with the same two alleles; every variant.*remove one$",
        ),
        (
            {"position": 1, "reference": "C", "alternate": "A"},
            r"variants: seen 'rs1' and 'rs2' at the same place with the same two alleles; .*$",
        ),
        ({"position": 1, "alternate": "G"}, None),
        ({"position": 1, "chromosome": "2"}, None),
        ({"position": 1, "reference": "AC"}, None),
    ],
)
def test_a_plan_names_each_variant_once_and_by_two_alleles(change: dict[str, Any], sentence: str | None) -> None:
    """Else a count would mean nothing, or count twice; the last three are the controls."""
    content = GENOTYPES.model_dump(mode="json")
    content["variants"][1] |= change
    if sentence is None:
        assert len(parse_settings(yaml.safe_dump(content), GenotypeData, source="plan").variants) == 3
        return
    with pytest.raises(ConfigError, match=sentence):
        parse_settings(yaml.safe_dump(content), GenotypeData, source="plan")


numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-200, 200)
raw_rows = st.builds(
    RawRow,
    place=st.just("a.csv line 2"),
    patient=st.none() | st.sampled_from(["p0", "p1", "p2", "p3"]),
    values=st.fixed_dictionaries(
        {"age": numbers, "dose": numbers}, optional={"shade": st.none() | st.sampled_from(SHADES)}
    ),
    label=st.sampled_from(["ill", "well"]),
)
# Fewer than `mixed_units.FEWEST_VALUES` rows: what that check refuses has its own tests.
few_rows = st.lists(raw_rows, max_size=8)


def row(patient: str | None = None, label: str = "ill", **values: Any) -> RawRow:  # noqa: ANN401 -- any value
    """A row in which no value need be missing."""
    return RawRow("a.csv line 2", patient, {"age": 50.0, "dose": 1.0, "shade": "dark", **values}, label)


def encoded(rows: Sequence[RawRow], data: Any = TABLE, *, unit: PrivacyUnit = "patient") -> RowTable:  # noqa: ANN401
    """The rows as a site reads them."""
    return encode_rows(Reading(rows=list(rows)), data, unit=unit, patient_column="pid")


def by_unit(rows: Sequence[RawRow], *, unit: PrivacyUnit = "patient") -> dict[str, tuple[int, bytes]]:
    """Each unit's label and row, bit by bit; empty where nothing is left."""
    if not any(each.values.get("dose") is not None for each in rows):
        return {}
    try:
        table = encoded(rows, unit=unit)
    except DataError as error:
        assert "no row of the data can be used" in str(error)  # noqa: PT017 -- hypothesis may tear all patients
        return {}
    labels = table.unit_labels()
    return {name: (labels[name], one.tobytes()) for name, one in zip(labels, table.unit_rows()[0], strict=True)}


@given(few_rows)
def test_no_row_is_longer_than_one(rows: list[RawRow]) -> None:
    """What clipping and noise count on, for whatever a connector hands over; of units as of records."""
    if by_unit(rows):
        table = encoded(rows)
        for each in (table.rows, table.unit_rows()[0]):
            assert np.linalg.norm(each, axis=1).max() <= 1 + 1e-12
            assert each.shape[1] == TABLE.inputs


@given(st.lists(st.sampled_from([0, 1, 2, None]), min_size=3, max_size=3))
def test_no_genotype_is_longer_than_one(counts: list[int | None]) -> None:
    """Homozygotes of either kind reach the bound."""
    values = {f"rs{n}": count for n, count in zip((1, 2, 3), counts, strict=True)}
    table = encoded([RawRow("a.vcf", None, values, "ill")], GENOTYPES)
    assert np.linalg.norm(table.rows[0]) <= 1 + 1e-12
    assert [math.copysign(1, v) if v else 0 for v in table.rows[0][:3]] == [
        0 if count is None else count - 1 for count in counts
    ]


def test_the_longest_row_has_length_one() -> None:
    """The bound is tight: a scale any larger would break it."""
    longest = encoded([row(age=0.0, dose=3.0)]).rows[0]
    assert np.linalg.norm(longest) == pytest.approx(1.0)
    assert row_scale(TABLE) == 0.5


@given(few_rows, raw_rows, st.integers(0, 8))
def test_another_patient_changes_nobody_elses_row(rows: list[RawRow], extra: RawRow, at: int) -> None:
    """Add/remove neighbours: units as a multiset differ in the added one alone."""
    stranger = replace(extra, patient="stranger")
    without, having = by_unit(rows), by_unit([*rows[:at], stranger, *rows[at:]])
    having.pop("patient:stranger", None)
    assert having == without


@given(few_rows, raw_rows, st.integers(0, 8))
def test_another_record_changes_no_other_record(rows: list[RawRow], extra: RawRow, at: int) -> None:
    """The same where each row is a unit: also a twin takes nothing from, and adds nothing to, the first."""
    without, having = by_unit(rows, unit="record"), by_unit([*rows[:at], extra, *rows[at:]], unit="record")
    assert without.items() <= having.items()
    assert len(having) - len(without) == (extra.values["dose"] is not None)


@given(few_rows, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(rows: list[RawRow], shuffle: random.Random) -> None:
    """A file sorted otherwise is the same data, bit by bit."""
    other = list(rows)
    shuffle.shuffle(other)
    assert by_unit(other) == by_unit(rows)
    assert by_unit(other, unit="record") == by_unit(rows, unit="record")


def test_equal_rows_are_different_people() -> None:
    """Where each row is a patient; where a column names patients, equal rows of one are one unit."""
    assert len(encoded([row(), row(), row()]).unit_labels()) == 3
    assert len(encoded([row("p"), row("p"), row("q")]).unit_labels()) == 2
    assert len(encoded([row("p"), row("p"), row("q")], unit="record").unit_labels()) == 3


def test_how_a_number_is_written_changes_no_unit() -> None:
    """1 is 1.0, 0.0 is -0.0, and a missing entry is None: a site may export its table again."""
    one = encoded([row(age=1, dose=0.0, shade=None)])
    other = RawRow("b.csv line 9", None, {"dose": -0.0, "age": 1.0}, "ill")
    assert encoded([other]).unit_labels() == one.unit_labels()
    assert encoded([row(age=2)]).unit_labels() != one.unit_labels()


def test_a_patients_row_is_the_mean_of_its_rows() -> None:
    """Two visits count as one person."""
    rows, _ = encoded([row("p", age=100.0), row("p", age=0.0)]).unit_rows()
    assert rows[0][0] == 0
    assert rows.shape == (1, TABLE.inputs)


def test_a_patient_of_two_labels_is_left_out() -> None:
    """Neither label can be believed; other patients stay, and so do records where records are units."""
    rows = [row("p"), row("p", "well"), row("q"), row("p")]
    table = encoded(rows)
    assert table.unit_labels() == {"patient:q": 0}
    assert table.left_out == {"conflicting_label": 3}
    assert any("1 patient(s) carry more than one label" in warning for warning in table.warnings)
    assert len(encoded(rows, unit="record").unit_labels()) == 4


def test_a_missing_value_is_flagged_or_leaves_the_row_out() -> None:
    """As the plan says for each feature; a flagged number is 0 with its flag on, and none of a category's values."""
    table = encoded([row(age=None), row(dose=None), row(shade=None)])
    assert table.left_out == {"missing_value": 1}
    assert table.missing == {"age": 1, "dose": 1, "shade": 1}
    half = row_scale(TABLE)
    age, age_missing, dose, *shade, shade_missing, constant = table.rows[0] / half
    assert (age, age_missing, dose, shade, shade_missing, constant) == (0, 1, 0, [1, 0, 0], 0, 1)
    *_, dark, light, grey, shade_missing, constant = table.rows[1] / half
    assert (dark, light, grey, shade_missing, constant) == (0, 0, 0, 1, 1)
    assert list(left_out_in_words(table.left_out)) == ["1 missing value"]
    assert list(left_out_in_words({"missing_value": 2, "undecodable": 2})) == ["2 missing values", "2 undecodable"]


def test_a_feature_that_no_row_tells_is_told() -> None:
    """A mapping of the wrong column looks like this; one value, or a mapping that says so, and nothing is amiss."""
    rows = [row(age=None), row(age=None), row(age=None, dose=None)]
    table = encoded(rows)
    assert table.missing == {"age": 3, "dose": 1}
    assert table.warnings[0].startswith("1 feature is missing in all 3 rows: age; see whether the mapping names")
    assert list(missing_in_words(table.missing, TABLE)) == [
        "3 values of age",
        "1 value of dose: the plan leaves such rows out",
    ]
    assert not any("missing" in warning for warning in encoded([*rows, row()]).warnings)
    lacking = [replace(each, values={k: v for k, v in each.values.items() if k != "age"}) for each in rows]
    assert encoded(lacking).missing == table.missing
    assert not any("missing" in warning for warning in encoded(lacking).warnings)


def test_many_features_with_missing_values_are_summed_up() -> None:
    """Nobody would read a line for each of thousands."""
    *lines, last = missing_in_words({f"rs{n}": 100 - n for n in range(33)}, GENOTYPES)
    assert (len(lines), lines[0], last) == (30, "100 values of rs0", "207 values of 3 other features")


def test_numbers_outside_of_the_range_count_as_its_end_and_are_counted() -> None:
    """Only in rows that are used; without any there is no warning."""
    table = encoded([row(age=-5.0), row(age=101.0), row(age=100.0), row(age=400.0, dose=None)])
    assert table.clipped == {"age": 2}
    assert table.warnings == ("2 values of age lie outside of the plan's range: its end is taken",)
    assert [each[0] / row_scale(TABLE) for each in table.rows] == [-1, 1, 1]
    assert encoded([row()]).warnings == ()


def test_the_encoding_is_that_of_scikit_learn() -> None:
    """An independent oracle: public ranges to [-1, 1], one input for each value of a category."""
    values = np.random.default_rng(0).uniform((0, -1), (100, 3), (50, 2))
    rows = [row(age=a, dose=d, shade=SHADES[i % 3]) for i, (a, d) in enumerate(values)]
    oracle = ColumnTransformer(
        [
            ("numbers", MinMaxScaler((-1, 1)).fit(np.array([[0, -1], [100, 3]])), [0, 1]),
            ("shade", OneHotEncoder(categories=[list(SHADES)], sparse_output=False), [2]),
        ]
    )
    cells = np.array(
        [
            [0, -1, "dark"],
            [100, 3, "dark"],
            *([a, d, r.values["shade"]] for (a, d), r in zip(values, rows, strict=True)),
        ],
        dtype=object,
    )
    expected = oracle.fit_transform(cells)[2:] * row_scale(TABLE)
    found = encoded(rows).rows
    np.testing.assert_allclose(found[:, [0, 2, 3, 4, 5]], expected, atol=1e-12)
    assert not found[:, [1, 6]].any()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (row(label="dead"), r"a.csv line 2: its label is none of the plan's classes \(ill, well\)"),
        (row(shade="pink"), r"a.csv line 2: shade is none of the plan's values \(dark, light, grey\)"),
        (row(age=math.nan), "a.csv line 2: age is not a finite number"),
        (row(age=math.inf), "a.csv line 2: age is not a finite number"),
        (row(age=10**400), "a.csv line 2: age is not a finite number"),
        (row(age="old"), "a.csv line 2: age is not a finite number"),
        (row(weight=3.0), "a.csv line 2: names 'weight', which the plan does not"),
        (row(dose=None), r"no row of the data can be used \(1 missing value\), missing are dose; correct"),
    ],
)
def test_a_row_that_the_plan_does_not_know_is_refused(raw: RawRow, message: str) -> None:
    """With its place, and never its value."""
    with pytest.raises(DataError, match=message) as caught:
        encoded([raw])
    assert "pink" not in str(caught.value)
    assert "dead" not in str(caught.value)


def test_an_allele_count_of_three_is_refused() -> None:
    """Dosages and other ploidies are no counts."""
    for wrong in (3, 0.5, "1", -1, math.nan):
        with pytest.raises(DataError, match="the allele count of rs1 is none of 0, 1, 2"):
            encoded([RawRow("a.vcf record 1", None, {"rs1": wrong}, "ill")], GENOTYPES)


def test_nothing_found_is_a_sentence() -> None:
    """An empty file must not look like a crash."""
    with pytest.raises(DataError, match="nothing was found"):
        encoded([])


def test_times_and_events_of_survival() -> None:
    """A patient's rows must agree on both."""
    rows = [
        replace(row("p"), time=5.0, event=True, label=""),
        replace(row("p", age=1.0), time=5.0, event=True, label=""),
        replace(row("q"), time=7, event=False, label=""),
        replace(row("r"), time=7.0, event=True, label=""),
        replace(row("r"), time=8.0, event=True, label=""),
    ]
    table = encoded(rows, SURVIVAL)
    assert table.unit_labels() == {"patient:p": 1, "patient:q": 0}
    assert table.unit_rows()[1].tolist() == [5.0, 7.0]
    assert table.left_out == {"conflicting_label": 2}
    assert any("more than one time" in warning for warning in table.warnings)
    for time in (None, -1.0, math.nan, math.inf):
        with pytest.raises(DataError, match="the time is missing, negative or not finite"):
            encoded([replace(rows[0], time=time)], SURVIVAL)


def test_times_that_a_connector_adds_to_classes_are_passed_over() -> None:
    """Of one row only, they would be taken for another row's."""
    table = encoded([row("p"), replace(row("q"), time=3.0)])
    assert table.times.size == table.unit_rows()[1].size == 0


GLUCOSE: dict[str, Any] = {
    "kind": "number", "name": "glucose", "unit": "mg/dL", "low": 40, "high": 500, "missing": "flag",
    "other_units": [{"unit": "mmol/L", "factor": 18.016}],
}  # fmt: skip


def glucose(values: Sequence[float | None]) -> RowTable:
    """A table of one number."""
    data = TABLE.model_copy(update={"features": (NumberFeature.model_validate(GLUCOSE),)})
    return encoded([RawRow("a.csv line 2", None, {"glucose": value}, "ill") for value in values], data)


def test_a_unit_that_was_mixed_up_is_refused_with_the_one_that_fits() -> None:
    """mmol/L taken for mg/dL, and the other way; a few odd patients are no mistake."""
    start = "glucose: most of its 20 values lie outside of the plan's range, 40 to 500 mg/dL; they would lie inside if "
    with pytest.raises(DataError) as caught:
        glucose([5.0 + i / 10 for i in range(20)])
    assert str(caught.value).startswith(start + "they were mmol/L; correct its unit in the mapping")
    with pytest.raises(DataError) as caught:
        glucose([(90.0 + i) * 18.016 for i in range(20)])
    assert str(caught.value).startswith(start + "they were not converted from mmol/L; ")
    with pytest.raises(DataError, match=r"500 mg/dL; correct its unit"):
        glucose([0.0] * 11 + [100.0] * 9)
    assert glucose([0.0] * 9 + [100.0] * 11 + [None] * 100).clipped == {"glucose": 9}
    assert glucose([600.0]).clipped == {"glucose": 1}


def test_a_range_that_no_float_can_span_is_refused() -> None:
    """Its inputs would be NaN."""
    text = yaml.safe_dump(GLUCOSE | {"low": -1.5e308, "high": 1.5e308})
    with pytest.raises(ConfigError, match=r"glucose: the range from -1.5e[+]308 to 1.5e[+]308 is too wide"):
        parse_settings(text, NumberFeature, source="plan.yaml")


@pytest.mark.parametrize(
    ("patient", "unit", "words"),
    [
        (None, "patient", "counts as a patient of its own"),
        (None, "record", "counts as a record of its own"),
        ("Q7", "record", "counts as a record of its own"),
        ("Q7", "patient", "enters its patient's mean more than once"),
    ],
)
def test_equal_rows_are_counted_in_a_warning(patient: str | None, unit: PrivacyUnit, words: str) -> None:
    """A table that was exported twice trains on everybody twice. The control is one row of each; no value is told."""
    rows = [row(patient), row(patient), row(patient, age=61.0), row(patient, age=62.0), row(patient, age=62.0)]
    assert encoded(rows, unit=unit).warnings == (f"4 rows are equal to another row: each {words}",)
    assert encoded(rows[1:4], unit=unit).warnings == ()


def test_equal_rows_of_different_patients_are_no_copies() -> None:
    """What is equal says the same of the same person."""
    assert encoded([row("Q7"), row("Q8")]).warnings == ()
