"""The 1000 Genomes Project's people, read from VCF and from CSV: the same rows, and those of a plain reading."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.data.rows import RowTable, encode_rows
from client.data.source import DataPlace, read_rows
from common.config import load_settings
from common.plan import Plan
from common.plan_data import GenotypeData, Variant

ANCESTRY = Path(__file__).parents[2].parent / "shared" / "data" / "ancestry"
CONFIGS = Path(__file__).parents[2] / "configs"
SUPERPOPULATIONS = ("AFR", "AMR", "EAS", "EUR", "SAS")

pytestmark = pytest.mark.skipif(not ANCESTRY.is_dir(), reason="the ancestry data set is not here")


def records_of(path: Path) -> list[list[str]]:
    """Split lines of a VCF file: the test's own reading."""
    with path.open(encoding="utf-8") as stream:
        return [line.rstrip("\n").split("\t") for line in stream if not line.startswith("#")]


def data_of(records: list[list[str]]) -> GenotypeData:
    """A declaration of all variants of a file."""
    variants = (Variant(id=r[2], chromosome=r[0], position=int(r[1]), reference=r[3], alternate=r[4]) for r in records)
    return GenotypeData(
        kind="genotypes",
        classes=SUPERPOPULATIONS,
        held_out=0.2,
        held_out_salt="salt",
        assembly="GRCh37",
        variants=tuple(variants),
    )


def read_as_shipped(name: str, path: Path, data: GenotypeData, folder: Path) -> RowTable:
    """Read by a mapping of configs/mappings, beside which a site would have put its table of people."""
    (folder / "people.csv").unlink(missing_ok=True)
    (folder / "people.csv").symlink_to(path.parent / f"{path.name.split('.')[0]}.1kG.csv")
    mapping = folder / name
    mapping.write_text((CONFIGS / "mappings" / name).read_text(encoding="utf-8"), encoding="utf-8")
    reading = read_rows(DataPlace(path, mapping), data)
    assert not reading.left_out
    assert not reading.warnings
    return encode_rows(reading, data, unit="patient", patient_column="sample")


@pytest.mark.parametrize("panel", ["kidd", "seldin"])
def test_vcf_and_csv_give_everybody_the_same_row(panel: str, tmp_path: Path) -> None:
    """Two hospitals may hold one person's genotypes in two forms; 2504 people, every variant."""
    records = records_of(ANCESTRY / f"{panel}.aisnp.1kg.vcf")
    data = data_of(records)
    from_vcf = read_as_shipped("ancestry-vcf.yaml", ANCESTRY / f"{panel}.aisnp.1kg.vcf", data, tmp_path)
    from_csv = read_as_shipped("ancestry-csv.yaml", ANCESTRY / f"{panel}.1kG.csv", data, tmp_path)
    rows, _ = from_vcf.unit_rows()
    assert from_vcf.unit_labels() == from_csv.unit_labels()
    assert len(rows) == 2504
    assert np.array_equal(rows, from_csv.unit_rows()[0])
    # The digests of records too: a person whom two hospitals hold in two forms is known as the same.
    assert {r.sha256 for r in from_vcf.records} == {r.sha256 for r in from_csv.records}
    with (ANCESTRY / f"{panel}.aisnp.1kg.vcf").open(encoding="utf-8") as stream:
        header = next(line for line in stream if line.startswith("#CHROM")).rstrip("\n").split("\t")
    counts = {
        f"patient:{sample}": [r[column].count("1") - 1 for r in records]
        for column, sample in enumerate(header)
        if column >= 9
    }
    scale = rows[0, -1] / np.sqrt(max(1.0, len(records) / 4))
    assert np.allclose(rows[:, :-1], np.array([counts[unit] for unit in sorted(counts)]) * scale, atol=1e-15)


def test_the_shipped_plan_names_the_variants_as_the_reference_panel_does() -> None:
    """Numbers, positions and alleles are facts about the reference, so a slip of the pen shows."""
    plan = load_settings(CONFIGS / "plans" / "ancestry.yaml", Plan)
    assert isinstance(plan.data, GenotypeData)
    assert plan.data.classes == SUPERPOPULATIONS
    named = {v.id: (v.chromosome, v.position, v.reference, v.alternate) for v in plan.data.variants}
    records = records_of(ANCESTRY / "seldin.aisnp.1kg.vcf")
    assert named == {r[2]: (r[0], int(r[1]), r[3], r[4]) for r in records}
    assert len(named) == 127
