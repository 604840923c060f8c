"""Connector `vcf`: genotypes in VCF files, and classes in a table of people; docs/data.md explains the mapping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from client.data.connector import Connector
from client.data.genotype_counts import (
    MISSING,
    NOT_SEEN,
    CallTally,
    as_values,
    count_copies,
    is_swapped,
    looks_alike_on_both_strands,
)
from client.data.people import PeopleTable, Person, labelled_rows, read_people
from client.data.reading import Reading
from client.data.vcf_calls import allele_numbers
from client.data.vcf_file import VcfFile, VcfRecord, open_vcf
from common.config import Settings
from common.errors import DataError
from common.plan_data import GenotypeData, Variant

ENDINGS = (".vcf", ".vcf.gz", ".vcf.bgz")

Counts = NDArray[np.int8]
# Columns are counted from 1, as people do; nine stand before the first sample.
FIRST_SAMPLE = 10


class VcfMapping(Settings):
    """A mapping file of the form vcf."""

    form: Literal["vcf"]
    people: PeopleTable | None = None
    absent: Literal["missing", "reference"] = "missing"
    people_span_files: bool = False


@dataclass(slots=True)
class _Found:
    """What the files read so far say.

    Attributes:
        counts: Of each sample that the table of people names: shape (variants,), int8.
        places: Where each of these samples stands.
        unlabelled: Names of the other samples.
        seen: Which of the plan's variants some file holds, by their index.
        tally: Why counts are missing.
    """

    counts: dict[str, Counts] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    unlabelled: set[str] = field(default_factory=set)
    seen: set[int] = field(default_factory=set)
    tally: CallTally = field(default_factory=CallTally)


def read_vcf(path: Path, data: GenotypeData, mapping: VcfMapping) -> Reading:
    """Read a VCF file, or all of a folder; see `client.data.connector.Connector`."""
    people = None if mapping.people is None else read_people(mapping.people, data)
    reading, found = Reading(), _Found()
    sites: dict[tuple[str, int], list[int]] = {}
    for index, variant in enumerate(data.variants):
        sites.setdefault((variant.chromosome, variant.position), []).append(index)
    for file, name in _files(path):
        with open_vcf(file, data.assembly, name=name) as vcf:
            if not mapping.people_span_files:
                _refuse_shared(vcf, found)
            chosen = _variants_of(vcf, data, sites, people=people, found=found, reading=reading)
            _add(vcf, chosen, len(data.variants), people=people, found=found)
            if not vcf.says_assembly:
                reading.warnings.append(f"{name}: does not say its assembly; {data.assembly} is taken")
    _refuse_strangers(path, data, found)
    silent = MISSING if mapping.absent == "missing" else 0
    unseen = sum(int((counts == NOT_SEEN).sum()) for counts in found.counts.values())
    if unseen:
        reading.warnings.append(
            f"{len(data.variants) - len(found.seen)} of the plan's {len(data.variants)} variants stand in no record; "
            f"{unseen} counts that no record tells are taken as {mapping.absent} (`absent` in the mapping)"
        )
    reading.warnings += found.tally.sentences()
    rows = (
        (sample, found.places[sample], as_values(np.where(counts == NOT_SEEN, silent, counts), data.variants))
        for sample, counts in found.counts.items()
    )
    labelled_rows(reading, rows, people, all_missing="no_variant_called")
    if found.unlabelled:
        reading.left_out["sample_without_label"] = len(found.unlabelled)
    return reading


def _files(path: Path) -> list[tuple[Path, str]]:
    """Files, and what messages call them: those of a folder are numbered, since many are named after patients."""
    if not path.is_dir():
        return [(path, path.name)]
    files = sorted(each for each in path.iterdir() if each.name.endswith(ENDINGS) and not each.name.startswith("."))
    if not files:
        raise DataError(f"{path.name}: holds no file that ends in {', '.join(ENDINGS)}; name the folder of VCF files")
    return [(each, f"file {number} of {len(files)} (by name)") for number, each in enumerate(files, start=1)]


def _refuse_shared(vcf: VcfFile, found: _Found) -> None:
    """Two people may go by one name, such as SAMPLE, in files of their own: they must not become one row."""
    for column, sample in enumerate(vcf.samples, start=FIRST_SAMPLE):
        if sample in found.places:
            raise DataError(
                f"{vcf.name} column {column}: names a sample of another file of the folder; if both are of one person, "
                "as in one file for each chromosome, write `people_span_files: true` in the mapping, else give each "
                "sample a name of its own"
            )


def _variants_of(  # noqa: PLR0913 -- keyword-only
    vcf: VcfFile,
    data: GenotypeData,
    sites: Mapping[tuple[str, int], Sequence[int]],
    *,
    people: Mapping[str, Person] | None,
    found: _Found,
    reading: Reading,
) -> dict[int, tuple[int, Counts]]:
    """Number of the record and counts of the file's labelled samples, by index of the variant."""
    columns = [column for column, sample in enumerate(vcf.samples) if people is None or sample in people]
    chosen: dict[int, tuple[int, Counts]] = {}
    others: dict[int, int] = {}
    for record in vcf.records(sites):
        for index in sites[record.chromosome, record.position]:
            variant = data.variants[index]
            if not _holds(record.alleles, variant):
                others[index] = record.number
                continue
            if index in chosen:
                raise DataError(
                    f"{vcf.name}: the records {chosen[index][0]} and {record.number} both hold {variant.id}; keep one"
                )
            chosen[index] = record.number, _counts(record, columns, variant, found.tally)
            if is_swapped(record.alleles, variant):
                _note_swap(reading, f"{vcf.name} record {record.number}", variant, people=len(columns))
    for index in others.keys() - chosen.keys():
        reading.warnings.append(
            f"{vcf.name} record {others[index]}: holds other alleles of {data.variants[index].id} than the plan names; "
            "no strand is guessed: it counts as missing"
        )
        chosen[index] = others[index], np.full(len(columns), MISSING, dtype=np.int8)
    found.seen |= chosen.keys()
    return chosen


def _holds(alleles: Sequence[str], variant: Variant) -> bool:
    """Whether a record tells copies of the plan's pair: it names both, or one and that nobody has another."""
    pair = {variant.reference, variant.alternate}
    return alleles[0] in pair and (pair <= set(alleles) or all(_is_no_bases(each) for each in alleles[1:]))


def _is_no_bases(allele: str) -> bool:
    return allele in {"*", "."} or allele.startswith("<")


def _counts(record: VcfRecord, columns: Sequence[int], variant: Variant, tally: CallTally) -> Counts:
    if not columns:
        return np.zeros(0, dtype=np.int8)
    calls = allele_numbers([record.calls[column] for column in columns], len(record.alleles))
    return count_copies(calls, record.alleles, variant, tally=tally)


def _note_swap(reading: Reading, place: str, variant: Variant, *, people: int) -> None:
    reading.converted[f"{variant.id} with reference and alternate swapped"] += people
    if looks_alike_on_both_strands(variant):
        reading.warnings.append(
            f"{place}: reference and alternate of {variant.id} are swapped, and its bases look the same on the other "
            "strand; make sure that the file tells the forward strand"
        )


def _add(
    vcf: VcfFile,
    chosen: Mapping[int, tuple[int, Counts]],
    variants: int,
    *,
    people: Mapping[str, Person] | None,
    found: _Found,
) -> None:
    """Take in what one file says: files may share people, and may share variants, but not both."""
    labelled = [(column, sample) for column, sample in enumerate(vcf.samples) if people is None or sample in people]
    found.unlabelled.update(sample for sample in vcf.samples if people is not None and sample not in people)
    indices = np.array(sorted(chosen), dtype=np.int64)
    block = np.array([chosen[index][1] for index in sorted(chosen)], dtype=np.int8).reshape(len(chosen), len(labelled))
    for place, (column, sample) in enumerate(labelled):
        counts = found.counts.setdefault(sample, np.full(variants, NOT_SEEN, dtype=np.int8))
        found.places.setdefault(sample, f"{vcf.name} column {column + FIRST_SAMPLE}")
        twice = indices[counts[indices] != NOT_SEEN]
        if twice.size:
            raise DataError(
                f"{vcf.name} record {chosen[int(twice[0])][0]}, column {column + FIRST_SAMPLE}: another file of the "
                "folder tells the same variant of the same sample; keep one of them"
            )
        counts[indices] = block[:, place]


def _refuse_strangers(path: Path, data: GenotypeData, found: _Found) -> None:
    if not found.seen:
        raise DataError(
            f"{path.name}: no record stands at one of the plan's {len(data.variants)} variants; positions must count "
            f"in {data.assembly}, and chromosomes be named 1 to 22, X, Y or MT, with or without `chr`"
        )
    if not found.counts:
        raise DataError(
            f"{path.name}: the table of people names none of its {len(found.unlabelled)} samples; correct "
            "`people.sample` in the mapping, or the table"
        )


def _in_folder(mapping: VcfMapping, folder: Path) -> VcfMapping:
    people = None if mapping.people is None else mapping.people.in_folder(folder)
    return mapping.model_copy(update={"people": people})


CONNECTOR = Connector(
    form="vcf",
    kinds=(GenotypeData,),
    mapping=VcfMapping,
    read=read_vcf,
    patient_of=lambda mapping: mapping.people.patient_column if mapping.people else "sample",
    tells_outcome=lambda mapping: mapping.people is not None,
    in_folder=_in_folder,
)
