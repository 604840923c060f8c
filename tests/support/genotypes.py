"""Small plans on genotypes, and the files that tests of the connectors write."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from client.data.reading import Reading
from client.data.source import DataPlace, read_rows
from common.plan_data import GenotypeData, Variant

VARIANTS = (
    Variant(id="rs1", chromosome="1", position=100, reference="A", alternate="G"),
    Variant(id="rs2", chromosome="2", position=200, reference="C", alternate="T"),
    Variant(id="rs3", chromosome="X", position=300, reference="A", alternate="T"),
)
CODES = {"E": "EUR", "A": "AFR"}
FIXED = ("#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT")
META = (
    "##fileformat=VCFv4.2",
    "##contig=<ID=1,length=249250621>",
    '##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">',
)


def genotype_data(variants: Sequence[Variant] = VARIANTS) -> GenotypeData:
    """A declaration with the classes EUR and AFR, in GRCh37."""
    return GenotypeData(
        kind="genotypes",
        classes=("EUR", "AFR"),
        held_out=0.0,
        held_out_salt="salt",
        assembly="GRCh37",
        variants=tuple(variants),
    )


def vcf_text(records: Sequence[str], samples: Sequence[str] = ("ann", "bob"), meta: Sequence[str] = META) -> str:
    """A VCF file; words of a record are separated by spaces: chromosome, position, reference, alternate, calls."""
    lines = [*meta, "\t".join((*FIXED, *samples))]
    for record in records:
        chromosome, position, reference, alternate, *calls = record.split()
        lines.append("\t".join((chromosome, position, ".", reference, alternate, ".", "PASS", "AC=1;DB", "GT", *calls)))
    return "\n".join(lines) + "\n"


def write_people(folder: Path, labels: Mapping[str, str]) -> None:
    """people.csv with the columns sample, group and person."""
    with (folder / "people.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("sample", "group", "person"))
        writer.writerows((sample, label, f"person of {sample}") for sample, label in labels.items())


def read_mapped(path: Path, mapping: Mapping[str, object], data: GenotypeData) -> Reading:
    """Read a file by a mapping that is written beside it, as a site does."""
    place = path.parent / "mapping.yaml"
    place.write_text(yaml.safe_dump(dict(mapping)), encoding="utf-8")
    return read_rows(DataPlace(path, place), data)


def read_vcf_text(folder: Path, text: str | bytes, *, absent: str = "missing", name: str = "site.vcf") -> Reading:
    """Read one VCF file of the samples ann (EUR) and bob (AFR)."""
    write_people(folder, {"ann": "E", "bob": "A"})
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_mapped(path, vcf_mapping(absent=absent), genotype_data())


def vcf_mapping(*, absent: str = "missing") -> dict[str, object]:
    """A mapping for people.csv beside it."""
    people = {"file": "people.csv", "sample": "sample", "label": {"column": "group", "classes": CODES}}
    return {"form": "vcf", "people": people, "absent": absent}


def counts_of(reading: Reading) -> list[list[object]]:
    """The counts of each row in the plan's order."""
    return [[row.values.get(variant.id) for variant in VARIANTS] for row in reading.rows]
