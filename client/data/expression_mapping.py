"""What a mapping file of the form expression-csv says; docs/data.md explains it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from client.data.csv_cells import Decimal
from client.data.csv_file import Delimiter, Encoding
from client.data.csv_rows import ColumnName, LabelColumn
from client.data.expression_genes import GeneNames, Versions
from client.data.people import MissingWords, PeopleTable
from common.config import Settings
from common.errors import ConfigError
from common.plan_expression import Scale
from common.printable import PrintableText

# R writes no name above the column of a matrix's row names.
NameColumn = Annotated[PrintableText, StringConstraints(max_length=200, strip_whitespace=True)]


class ExpressionMapping(Settings):
    """A mapping file of the form expression-csv."""

    form: Literal["expression-csv"]
    encoding: Encoding = "utf-8"
    delimiter: Delimiter | None = None
    decimal: Decimal = "."
    scale: Scale
    pseudocount: float | None = Field(default=None, gt=0, le=1000)
    sample: NameColumn | None = None
    gene: NameColumn | None = None
    other_columns: tuple[NameColumn, ...] = Field(default=(), max_length=1000)
    # With no empty name: the column of samples would stand in for it, and each sample be a unit.
    patient: ColumnName | None = None
    label: LabelColumn | None = None
    people: PeopleTable | None = None
    missing: MissingWords = ()
    gene_names: GeneNames | None = None
    ensembl_versions: Versions = "keep"
    absent: tuple[str, ...] = Field(default=(), max_length=5000)

    @model_validator(mode="after")
    def _one_layout(self) -> Self:
        if (self.sample is None) == (self.gene is None):
            raise ConfigError(
                "sample: name either the column `sample`, where each line is a sample, or the column `gene`, where "
                "each line is a gene"
            )
        if self.label is not None and self.people is not None:
            raise ConfigError("label: seen both of `label` and `people`; keep the one that says whose class is which")
        if self.gene is not None and (self.label is not None or self.patient is not None):
            raise ConfigError(
                "gene: seen beside `label` or `patient`; a file with a line for each gene has no column for them: name "
                "a table of `people`"
            )
        if self.people is not None and self.patient is not None:
            raise ConfigError("patient: seen beside `people`; name the patient's column there")
        if self.sample is not None and self.other_columns:
            raise ConfigError(
                "other_columns: seen beside `sample`; columns that are no gene are passed over: remove it"
            )
        return self

    @property
    def patient_column(self) -> str:
        """What tells patients apart."""
        if self.people is not None:
            return self.people.patient_column
        return self.patient or self.sample or "the columns' names"

    @property
    def tells_outcome(self) -> bool:
        """Whether classes are known."""
        return self.label is not None or self.people is not None

    def in_folder(self, folder: Path) -> ExpressionMapping:
        """The same, of a mapping file that lies in a folder."""
        return self.model_copy(
            update={
                "people": None if self.people is None else self.people.in_folder(folder),
                "gene_names": None if self.gene_names is None else self.gene_names.in_folder(folder),
            }
        )
