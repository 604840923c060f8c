"""Connector `expression-csv`: matrices of gene expression, samples or genes in lines; docs/data.md explains it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from client.data.connector import Connector
from client.data.csv_cells import number
from client.data.csv_file import CsvForm, read_records
from client.data.expression_genes import SiteGenes
from client.data.expression_mapping import ExpressionMapping
from client.data.expression_scale import Rescaling, parts
from client.data.mixed_units import FEWEST_VALUES
from client.data.people import Labels, Person, labelled_rows, read_people, refuse_unnamed
from client.data.reading import Reading, Value
from common.errors import DataError
from common.plan_expression import ExpressionData

# 60,000 genes or transcripts, each with a name or a number of 200 characters.
LONGEST_LINE = 12 << 20
# More than the log2 of any intensity or TPM, and far less than the most expressed genes of any tissue have.
LOOKS_LOGGED = 32.0
Found = Iterator[tuple[str, str, Mapping[str, Value]]]


def read_expression_csv(path: Path, data: ExpressionData, mapping: ExpressionMapping) -> Reading:
    """Read a matrix; see `client.data.connector.Connector`."""
    genes = SiteGenes(data, mapping.gene_names, versions=mapping.ensembl_versions, absent=mapping.absent)
    cells = _Cells(mapping, Rescaling(mapping.scale, mapping.pseudocount, data))
    people: dict[str, Person] = {} if mapping.people is None else read_people(mapping.people, data)
    if mapping.gene is None:
        labels = None if mapping.label is None else Labels(mapping.label, data, mapping.missing)
        found = _samples_in_lines(path, mapping, genes, cells=cells, people=people, labels=labels)
    else:
        found = _genes_in_lines(path, mapping, genes, cells=cells, people=people)
    reading = Reading()
    labelled_rows(reading, found, people if mapping.tells_outcome else None, all_missing="no_gene_measured")
    if cells.rescaling.converts and cells.read:
        reading.converted[f"gene expression from {mapping.scale}"] = cells.read
    if mapping.absent:
        reading.warnings.append(
            f"{len(mapping.absent)} of the plan's {len(data.genes)} genes are absent here: they count as missing"
        )
    reading.warnings += cells.warnings()
    return reading


def _samples_in_lines(  # noqa: PLR0913 -- one argument for each file that takes part
    path: Path,
    mapping: ExpressionMapping,
    genes: SiteGenes,
    *,
    cells: _Cells,
    people: dict[str, Person],
    labels: Labels | None,
) -> Found:
    """Each sample once; where the file has labels of its own, they are put into `people` before it is yielded."""
    sample_column, label = mapping.sample or "", mapping.label
    patient_column = mapping.patient or sample_column
    form = CsvForm(mapping.encoding, mapping.delimiter, (), LONGEST_LINE)
    own = (sample_column, patient_column, *(() if label is None else (label.column,)))
    records = read_records(path, form, own)
    line, names = next(records)
    sample_at, patient_at, *label_at = (names.index(column) for column in own)
    gene_at = _genes_of(path.name, names, genes, line=line, own={sample_at, patient_at, *label_at})
    first: dict[str, int] = {}
    for line, record in records:
        place = f"{path.name} line {line}"
        sample = record[sample_at].strip()
        _refuse_again(sample, f"{place}, column '{sample_column}'", first, here=line, of="line")
        if labels is not None:
            patient = record[patient_at].strip()
            refuse_unnamed(patient, f"{place}, column '{patient_column}'", "patient")
            people[sample] = Person(place, patient, labels.of(record[label_at[0]].strip(), place))
        elif mapping.people is not None and sample not in people:
            yield sample, place, {}
            continue
        values: dict[str, Value] = dict.fromkeys(mapping.absent)
        for column, gene in gene_at:
            values[gene] = cells.value(record[column], f"{place}, column {column + 1} ({gene})")
        yield sample, place, values


def _genes_of(file: str, names: Sequence[str], genes: SiteGenes, *, line: int, own: set[int]) -> list[tuple[int, str]]:
    found = [
        (column, gene)
        for column, name in enumerate(names)
        if column not in own and (gene := genes.at(name, f"{file} line {line}, column {column + 1}")) is not None
    ]
    genes.refuse_missing(f"{file} line {line}")
    return found


def _genes_in_lines(
    path: Path, mapping: ExpressionMapping, genes: SiteGenes, *, cells: _Cells, people: Mapping[str, Person]
) -> Found:
    form = CsvForm(mapping.encoding, mapping.delimiter, (), LONGEST_LINE)
    gene_column = mapping.gene or ""
    others = (gene_column, *mapping.other_columns)
    records = read_records(path, form, others)
    line, names = next(records)
    gene_at, passed = names.index(gene_column), {names.index(column) for column in others}
    samples = [(column, name) for column, name in enumerate(names) if column not in passed]
    first: dict[str, int] = {}
    for column, name in samples:
        _refuse_again(name, f"{path.name} line {line}, column {column + 1}", first, here=column + 1, of="column")
    used = [(column, name) for column, name in samples if mapping.people is None or name in people]
    values: dict[str, dict[str, Value]] = {name: dict.fromkeys(mapping.absent) for _, name in used}
    for line, record in records:
        place = f"{path.name} line {line}"
        gene = genes.at(record[gene_at].strip(), place)
        if gene is None:
            continue
        for column, name in used:
            values[name][gene] = cells.value(record[column], f"{place} ({gene}), column {column + 1}")
    genes.refuse_missing(path.name)
    for column, name in samples:
        yield name, f"{path.name} column {column + 1}", values.get(name, {})


def _refuse_again(sample: str, where: str, first: dict[str, int], *, here: int, of: str) -> None:
    """Refuse a sample without a name, or with the name of an earlier one."""
    if not sample:
        raise DataError(f"{where}: names no sample; fill it in, or remove the {of}")
    if first.setdefault(sample, here) != here:
        raise DataError(f"{where}: names the sample of {of} {first[sample]} again; keep one of them")


class _Cells:
    """Reads cells of numbers, and counts them."""

    def __init__(self, mapping: ExpressionMapping, rescaling: Rescaling) -> None:
        self.rescaling, self.read, self._largest = rescaling, 0, -math.inf
        self._decimal, self._missing = mapping.decimal, frozenset({"", *mapping.missing})

    def value(self, cell: str, where: str) -> float | None:
        """The number in the plan's scale; None where it is missing."""
        cell = cell.strip()
        if cell in self._missing:
            return None
        found = number(cell, where, decimal=self._decimal)
        self.read, self._largest = self.read + 1, max(self._largest, found)
        return self.rescaling.value(found, where)

    def warnings(self) -> list[str]:
        """What all numbers together look like, where no single one is impossible."""
        measure, logged = parts(self.rescaling.scale)
        if logged or measure == "ratio" or self._largest >= LOOKS_LOGGED or self.read < FEWEST_VALUES:
            return []
        sentence = (
            f"none of {self.read} values is above {LOOKS_LOGGED:g}, which '{measure}' would pass where many genes are "
            f"measured; if these are logarithms, write `scale: log2_{measure}` in the mapping"
        )
        return [sentence]


CONNECTOR = Connector(
    form="expression-csv",
    kinds=(ExpressionData,),
    mapping=ExpressionMapping,
    read=read_expression_csv,
    patient_of=lambda mapping: mapping.patient_column,
    tells_outcome=lambda mapping: mapping.tells_outcome,
    in_folder=lambda mapping, folder: mapping.in_folder(folder),
)
