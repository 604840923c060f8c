"""Which class each sample of a file belongs to, and whose it is: a site's own table of people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from client.data.csv_cells import Codes
from client.data.csv_rows import Code, ColumnName, LabelColumn
from client.data.reading import RawRow, Reading, Value
from client.data.side_table import SideTable
from common.errors import ConfigError, DataError
from common.plan_features import ClassSettings

MissingWords = Annotated[tuple[Code, ...], Field(max_length=100)]


class PeopleTable(SideTable):
    """A CSV file that names samples, their classes, and perhaps the patients that they were taken of."""

    sample: ColumnName
    label: LabelColumn
    patient: ColumnName | None = None
    missing: MissingWords = ()

    @property
    def patient_column(self) -> str:
        """What tells patients apart."""
        return self.patient or self.sample


@dataclass(frozen=True, slots=True)
class Person:
    """What a table of people says of one sample; `label` is empty where it has none."""

    place: str
    patient: str
    label: str


class Labels:
    """Reads the cells of a label's column."""

    def __init__(self, label: LabelColumn, data: ClassSettings, missing: Iterable[str]) -> None:
        """Check the mapping against the plan.

        Raises:
            ConfigError: If the mapping names a class that the plan does not.
        """
        for name in label.classes.values():
            if name not in data.classes:
                raise ConfigError(
                    f"mapping: label.classes: seen '{name}'; the plan's classes are {', '.join(data.classes)}; write "
                    "one of them"
                )
        self._column, self._missing = label.column, {"", *missing}
        self._codes = Codes(label.classes, "label.classes")

    def of(self, cell: str, place: str) -> str:
        """The class; empty where the cell holds none.

        Raises:
            DataError: If the mapping does not list the cell's code.
        """
        return "" if cell in self._missing else self._codes.meaning(cell, f"{place}, column '{self._column}'")


def read_people(table: PeopleTable, data: ClassSettings) -> dict[str, Person]:
    """Read a table of people.

    Returns:
        By sample, in the order of the file.

    Raises:
        ConfigError: If the mapping names a class that the plan does not.
        DataError: If the file is missing or wrong, names a sample twice, or leaves one without a name.
    """
    labels, people = Labels(table.label, data, table.missing), dict[str, Person]()
    columns = (table.sample, table.label.column, table.patient_column)
    try:
        for line, cells in table.cells(columns):
            _add_person(people, table, labels, f"{table.file.name} line {line}", cells)
    except OSError as error:  # else the file of genotypes would be blamed
        raise DataError(
            f"{table.file.name}: cannot be read ({error.strerror}); `people.file` in the mapping names it, from the "
            "mapping's own folder"
        ) from error
    return people


def _add_person(
    people: dict[str, Person], table: PeopleTable, labels: Labels, place: str, cells: Sequence[str]
) -> None:
    sample, label, patient = cells
    refuse_unnamed(sample, f"{place}, column '{table.sample}'", "sample")
    refuse_unnamed(patient, f"{place}, column '{table.patient_column}'", "patient")
    if sample in people:
        raise DataError(
            f"{place}, column '{table.sample}': names the sample of {people[sample].place} again; keep one of them"
        )
    people[sample] = Person(place, patient, labels.of(label, place))


def refuse_unnamed(cell: str, where: str, what: str) -> None:
    """Refuse an empty name.

    Raises:
        DataError: See above.
    """
    if not cell:
        raise DataError(f"{where}: names no {what}; fill it in, or remove the line")


def labelled_rows(
    reading: Reading,
    found: Iterable[tuple[str, str, Mapping[str, Value]]],
    people: Mapping[str, Person] | None,
    *,
    all_missing: str,
) -> None:
    """Join samples and people to rows, and count those of either that lack the other.

    Args:
        reading: Is added to.
        found: Of each sample once: its name, where it stands, and its values.
        people: By sample; None: labels are not asked for, and every sample is a row.
        all_missing: Why one is left out of whom no value is known.
    """
    seen = 0
    for sample, place, values in found:
        if people is None:
            reading.rows.append(RawRow(place, sample, values))
            continue
        person = people.get(sample)
        if person is None:
            reading.left_out["sample_without_label"] += 1
            continue
        seen += 1
        if not person.label:
            reading.left_out["missing_label"] += 1
        elif all(value is None for value in values.values()):
            reading.left_out[all_missing] += 1
        else:
            reading.rows.append(RawRow(place, person.patient, values, person.label))
    if people is not None and len(people) > seen:
        reading.left_out["label_without_sample"] += len(people) - seen
