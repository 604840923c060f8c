"""The cells of a file of delimiter-separated values, a line at a time, with what is wrong with such files in words."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from client.data.special_files import refuse_special
from common.errors import DataError

Encoding = Literal[
    "utf-8", "utf-16", "cp1250", "cp1251", "cp1252", "iso-8859-1", "iso-8859-2", "iso-8859-15", "shift_jis", "gb18030"
]
Delimiter = Literal[",", ";", "\t", "|"]

MAX_LINE_CHARACTERS = 1 << 20
# No table has so many, and without a bound a file of nothing else is read for minutes.
MAX_BLANK_LINES = 1_000_000
_SAMPLE_CHARACTERS = 1 << 17
_DELIMITERS: tuple[Delimiter, ...] = (",", ";", "\t", "|")
_SPELLED = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_OTHER_FORMS = {
    b"PK\x03\x04": "an Excel workbook or another ZIP archive",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"\x1f\x8b": "compressed by gzip",
    b"%PDF": "a PDF document",
    b"SQLite format": "a database",
    b"PAR1": "a Parquet file",
}
_UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, slots=True)
class CsvForm:
    """How a file is written.

    Attributes:
        encoding: Of its text; UTF-8 may begin with a byte order mark.
        delimiter: Between cells; None: found from the first line.
        header: Names of its columns where no line of the file names them; else empty.
        longest_line: Characters that a line may have.
    """

    encoding: Encoding
    delimiter: Delimiter | None
    header: tuple[str, ...]
    longest_line: int = MAX_LINE_CHARACTERS


def read_cells(path: Path, form: CsvForm, columns: Sequence[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield of each record the line on which it begins, from 1 as an editor counts, and the cells of `columns`.

    Cells come without white space around them. The file is read by the line; blank lines are passed over.

    Args:
        path: The file.
        form: How it is written.
        columns: Names of the columns that are used.

    Raises:
        OSError: If it cannot be read.
        DataError: If it is no such file, lacks a column or has it twice, or has a line with more or
            fewer cells. Names file, line and column, and never what stands in a cell.
    """
    records = read_records(path, form, columns)
    _, names = next(records)
    places = [names.index(column) for column in columns]
    for line, cells in records:
        yield line, tuple(cells[place].strip() for place in places)


def read_records(path: Path, form: CsvForm, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield the names of all columns, without white space around them, and then each record's cells as they stand.

    Arguments and errors are those of `read_cells`. Each record has as many cells as there are names.
    """
    try:
        _refuse_other_forms(path, form.encoding)
        yield from _records(path, form, columns)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path.name}{_undecodable_line(path, form.encoding)}: is not {form.encoding} text; name the file's "
            "`encoding` in the mapping (often cp1252), or save it as UTF-8"
        ) from error
    except UnicodeError as error:
        raise DataError(
            f"{path.name}: is not {form.encoding} text; name the file's `encoding` in the mapping"
        ) from error


def _records(path: Path, form: CsvForm, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    with _open(path, form.encoding) as stream:
        first = io.StringIO(stream.read(_SAMPLE_CHARACTERS), newline="")
    delimiter = _delimiter(path.name, first, form, columns)
    with _open(path, form.encoding) as stream:
        records = _numbered(stream, path.name, delimiter, longest_line=form.longest_line)
        line, names = (0, form.header) if form.header else _header(next(records, None), path.name)
        _refuse_columns(names, columns, path.name, listed=bool(form.header))
        yield line, list(names)
        for line, cells in records:
            if len(cells) != len(names):
                raise DataError(
                    f"{path.name} line {line}: seen {len(cells)} cells, {len(names)} columns are named; correct the "
                    "line (a cell that holds the delimiter or a line break must stand in quotes)"
                )
            yield line, cells


def _open(path: Path, encoding: Encoding) -> IO[str]:
    return path.open(encoding="utf-8-sig" if encoding == "utf-8" else encoding, newline="")


def _lines(stream: IO[str], name: str, longest: int) -> Iterator[str]:
    """The lines; one without an end must not fill the memory."""
    number = blank = 0
    while line := stream.readline(longest + 1):
        number += 1
        if len(line) > longest:
            raise DataError(
                f"{name} line {number}: is longer than {longest} characters; name a file with one line for each row"
            )
        if "\0" in line:
            raise DataError(f"{name} line {number}: holds a NUL byte; export the file again, or remove the byte")
        blank += len(line) < 3 and not line.strip("\r\n")
        if blank > MAX_BLANK_LINES:
            raise DataError(
                f"{name} line {number}: more than {MAX_BLANK_LINES} lines up to here are blank; remove them, or export "
                "the file again"
            )
        yield line


def _numbered(
    stream: IO[str], name: str, delimiter: Delimiter, *, longest_line: int
) -> Iterator[tuple[int, list[str]]]:
    """Records that are not blank, each with the line on which it begins."""
    # strict: a quote that is not closed would swallow the rest of the file without a word.
    reader = csv.reader(_lines(stream, name, longest_line), delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"{name} line {line}: cannot be read as values separated by {_SPELLED[delimiter]} ({error}); "
                "close each quote, and write a quote within quotes twice"
            ) from error
        if cells:
            yield line, cells


def _header(record: tuple[int, list[str]] | None, name: str) -> tuple[int, tuple[str, ...]]:
    if record is None:
        raise DataError(f"{name}: is empty; its first line must name its columns")
    return record[0], tuple(cell.strip() for cell in record[1])


def _refuse_columns(names: Sequence[str], columns: Sequence[str], name: str, *, listed: bool) -> None:
    """Refuse used columns that are not there once. What stands in line 1 may be a patient, so it is never shown."""
    for column in columns:
        if names.count(column) > 1:
            raise DataError(f"{name}: has the column '{column}' twice; rename or remove one of them")
        if column not in names:
            alike = [each for each in names if each.casefold() == column.casefold()]
            hint = f" (but '{alike[0]}': write it as in the file)" if alike else ""
            where = "the mapping's `header` names" if listed else "line 1 names"
            raise DataError(
                f"{name}: {where} {len(names)} columns, but no column '{column}'{hint}; correct the mapping"
                + ("" if listed else ", or list the columns under `header` where the file has no line for them")
            )


def _delimiter(name: str, sample: io.StringIO, form: CsvForm, columns: Sequence[str]) -> Delimiter:
    """The stated delimiter, or the one under which the first line is as the mapping says."""
    first = {each: _first_record(sample, each) for each in _DELIMITERS}
    if form.header and any(set(columns) <= set(cells) for cells in first.values()):
        raise DataError(f"{name} line 1: names the columns; remove `header` from the mapping")
    fitting = [
        each
        for each, cells in first.items()
        if (len(cells) == len(form.header) if form.header else set(columns) <= set(cells))
    ]
    if form.delimiter is None:
        if len(fitting) > 1:
            raise DataError(f"{name}: its delimiter is not clear; name it as `delimiter` in the mapping")
        return fitting[0] if fitting else max(first, key=lambda each: len(first[each]))
    if fitting and form.delimiter not in fitting:
        raise DataError(
            f"{name}: the mapping's `delimiter` is {form.delimiter!r}, but the file looks separated by "
            f"{_SPELLED[fitting[0]]}; write {fitting[0]!r} there, or leave it out"
        )
    return form.delimiter


def _first_record(sample: io.StringIO, delimiter: Delimiter) -> list[str]:
    sample.seek(0)
    try:
        cells = next((cells for cells in csv.reader(sample, delimiter=delimiter) if cells), [])
    except csv.Error:
        return []  # a cell too long: not separated by this
    return [cell.strip() for cell in cells]


def _refuse_other_forms(path: Path, encoding: Encoding) -> None:
    if path.is_dir():
        raise DataError(f"{path.name}: is a folder; name one CSV file")
    refuse_special(path, path.name)
    with path.open("rb") as stream:
        head = stream.read(4096)
    form = next((form for mark, form in _OTHER_FORMS.items() if head.startswith(mark)), None)
    if form is not None:
        raise DataError(f"{path.name}: is {form}, no CSV file; export it as CSV in UTF-8")
    if encoding != "utf-16" and head.startswith(_UTF_16_MARKS):
        raise DataError(f"{path.name}: is UTF-16 text; write `encoding: utf-16` in the mapping, or save it as UTF-8")
    if encoding != "utf-16" and head.count(b"\0") > len(head) // 16:
        raise DataError(f"{path.name}: is a binary file, no CSV file; export it as CSV in UTF-8")


def _undecodable_line(path: Path, encoding: Encoding) -> str:
    """Where the first bad bytes are: the text stream decodes by the block, and cannot tell."""
    if encoding == "utf-16":
        return ""
    with path.open("rb") as stream:
        for number, line in enumerate(iter(lambda: stream.readline(MAX_LINE_CHARACTERS), b""), start=1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError:
                return f" line {number}"
    return ""
