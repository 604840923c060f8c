"""Connector `genotype-csv`: a table of people with a column for each variant; docs/data.md explains the mapping."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from client.data.connector import Connector
from client.data.csv_file import CsvForm, Delimiter, Encoding, read_cells
from client.data.csv_rows import ColumnName, LabelColumn
from client.data.genotype_counts import MISSING, NO_COPY, NOT_CALLED, CallTally, count_copies
from client.data.people import (
    Labels,
    MissingWords,
    PeopleTable,
    Person,
    labelled_rows,
    read_people,
    refuse_unnamed,
)
from client.data.reading import Reading, Value
from common.config import Settings
from common.errors import ConfigError, DataError
from common.plan_data import GenotypeData, Variant

_COUNTS = {"0": 0, "1": 1, "2": 2, "0.0": 0, "1.0": 1, "2.0": 2}
_ALLELES = re.compile(r"([ACGT.])([ACGT.])?|([ACGT]{1,50}|\.)[/|]([ACGT]{1,50}|\.)")
# One cell in a file of a thousand people has a few forms: memory for more would be another file's.
_MOST_FORMS = 4096


class GenotypeCsvMapping(Settings):
    """A mapping file of the form genotype-csv."""

    form: Literal["genotype-csv"]
    encoding: Encoding = "utf-8"
    delimiter: Delimiter | None = None
    sample: ColumnName
    patient: ColumnName | None = None
    label: LabelColumn | None = None
    people: PeopleTable | None = None
    missing: MissingWords = ()
    columns: dict[str, ColumnName] = Field(default={}, max_length=5000)
    absent: tuple[str, ...] = Field(default=(), max_length=5000)

    @model_validator(mode="after")
    def _labels_once(self) -> Self:
        if self.label is not None and self.people is not None:
            raise ConfigError(
                "label: seen both of `label` and `people`; name the file's own column as `label`, or "
                "another file as `people`"
            )
        if self.people is not None and self.patient is not None:
            raise ConfigError("patient: seen beside `people`; name the patient's column there")
        return self

    @property
    def patient_column(self) -> str:
        """What tells patients apart."""
        return self.people.patient_column if self.people is not None else self.patient or self.sample


def read_genotype_csv(path: Path, data: GenotypeData, mapping: GenotypeCsvMapping) -> Reading:
    """Read a file of genotypes; see `client.data.connector.Connector`."""
    _check_names(data, mapping)
    reading, tally = Reading(), CallTally()
    people: dict[str, Person] = {} if mapping.people is None else read_people(mapping.people, data)
    rows = _rows(path, data, mapping, people=people, tally=tally)
    labelled_rows(reading, rows, people if _tells_outcome(mapping) else None, all_missing="no_variant_called")
    reading.warnings += tally.sentences()
    if mapping.absent:
        reading.warnings.append(
            f"{len(mapping.absent)} of the plan's {len(data.variants)} variants are absent here: they count as missing"
        )
    return reading


def _check_names(data: GenotypeData, mapping: GenotypeCsvMapping) -> None:
    known = {variant.id for variant in data.variants}
    for name in (*mapping.columns, *mapping.absent):
        if name not in known:
            raise ConfigError(f"mapping: seen the variant '{name}', which the plan does not name; correct the mapping")
    if known <= set(mapping.absent):
        raise ConfigError(
            f"mapping: absent: seen all {len(known)} variants of the plan; one at least must have a column here"
        )


def _rows(
    path: Path, data: GenotypeData, mapping: GenotypeCsvMapping, *, people: dict[str, Person], tally: CallTally
) -> Iterator[tuple[str, str, Mapping[str, Value]]]:
    """Each sample once; where the file has labels of its own, they are put into `people` before it is yielded."""
    here = [variant for variant in data.variants if variant.id not in set(mapping.absent)]
    labels = None if mapping.label is None else Labels(mapping.label, data, mapping.missing)
    own: tuple[str, ...] = () if mapping.label is None else (mapping.label.column, mapping.patient or mapping.sample)
    genotypes = [mapping.columns.get(variant.id, variant.id) for variant in here]
    cells_of = [
        _Cells(variant, column, mapping.missing, tally) for variant, column in zip(here, genotypes, strict=True)
    ]
    first: dict[str, int] = {}
    form, start = CsvForm(mapping.encoding, mapping.delimiter, ()), 1 + len(own)
    for line, cells in read_cells(path, form, (mapping.sample, *own, *genotypes)):
        place, sample = f"{path.name} line {line}", cells[0]
        refuse_unnamed(sample, f"{place}, column '{mapping.sample}'", "sample")
        if sample in first:
            raise DataError(
                f"{place}, column '{mapping.sample}': names the sample of line {first[sample]} again; keep one of them"
            )
        first[sample] = line
        if labels is not None:
            refuse_unnamed(cells[2], f"{place}, column '{own[1]}'", "patient")
            people[sample] = Person(place, cells[2], labels.of(cells[1], place))
        elif sample not in people and mapping.people is not None:
            yield sample, place, {}
            continue
        counts: dict[str, Value] = dict.fromkeys(mapping.absent)
        for reader, cell in zip(cells_of, cells[start:], strict=True):
            counts[reader.id] = reader.count(cell, place)
        yield sample, place, counts


class _Cells:
    """Reads the cells of one variant's column."""

    def __init__(self, variant: Variant, column: str, missing: Sequence[str], tally: CallTally) -> None:
        self.id = variant.id
        self._variant, self._column, self._tally = variant, column, tally
        self._missing = frozenset({"", *missing})
        self._known: dict[str, tuple[float | None, CallTally]] = {}

    def count(self, cell: str, place: str) -> float | None:
        """Copies of the plan's alternate, or None where missing.

        Raises:
            DataError: If the cell is none of what the form allows.
        """
        known = self._known.get(cell)
        if known is None:
            known = self._read(cell, place)
            if len(self._known) < _MOST_FORMS:
                self._known[cell] = known
        self._tally.calls += 1
        if known[0] is None:
            self._tally.missing.update(known[1].missing)
        return known[0]

    def _read(self, cell: str, place: str) -> tuple[float | None, CallTally]:
        tally = CallTally()
        if cell in _COUNTS and cell not in self._missing:
            return float(_COUNTS[cell]), tally
        found = None if cell in self._missing else _ALLELES.fullmatch(cell.upper())
        if found is None and cell not in self._missing:
            raise DataError(
                f"{place}, column '{self._column}': is no genotype; two alleles such as AG, A/G or A|G, one of X, Y or "
                "MT, the counts 0, 1 and 2 of the plan's alternate, or a word listed under `missing` are allowed"
            )
        carried = [] if found is None else [each for each in found.groups() if each is not None]
        names = sorted({each for each in carried if each != "."})
        numbers = [NOT_CALLED if each == "." else names.index(each) for each in carried] or [NOT_CALLED]
        calls = np.array([[*numbers, NO_COPY][:2]], dtype=np.int64)
        (count,) = count_copies(calls, names, self._variant, tally=tally).tolist()
        return None if count == MISSING else float(count), tally


def _in_folder(mapping: GenotypeCsvMapping, folder: Path) -> GenotypeCsvMapping:
    if mapping.people is None:
        return mapping
    return mapping.model_copy(update={"people": mapping.people.in_folder(folder)})


def _tells_outcome(mapping: GenotypeCsvMapping) -> bool:
    return mapping.label is not None or mapping.people is not None


CONNECTOR = Connector(
    form="genotype-csv",
    kinds=(GenotypeData,),
    mapping=GenotypeCsvMapping,
    read=read_genotype_csv,
    patient_of=lambda mapping: mapping.patient_column,
    tells_outcome=_tells_outcome,
    in_folder=_in_folder,
)
