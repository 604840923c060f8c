"""A table that a mapping names beside the data: of people, or of other names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from client.data.csv_file import CsvForm, Delimiter, Encoding, read_cells
from common.config import Settings


class SideTable(Settings):
    """A CSV file whose first line names its columns."""

    file: Path
    encoding: Encoding = "utf-8"
    delimiter: Delimiter | None = None

    def in_folder(self, folder: Path) -> Self:
        """The same, of a mapping file that lies in a folder."""
        return self.model_copy(update={"file": folder / self.file})

    def cells(self, columns: Sequence[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
        """Line and cells of each record; see `client.data.csv_file.read_cells`."""
        return read_cells(self.file, CsvForm(self.encoding, self.delimiter, ()), columns)
