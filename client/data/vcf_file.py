"""The records of a VCF file, line by line, each checked before any other reader sees it.

htslib cannot be given a hostile file: it ends the process on some, takes lines with too many columns and positions
beyond 2^32 without a word, and writes sample names to the standard error (docs/data.md).
"""

from __future__ import annotations

import gzip
import io
import os
import re
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from client.data.special_files import refuse_special
from client.data.vcf_assembly import Assembly, chromosome_of, says_assembly
from common.errors import DataError

MAX_LINE_BYTES = 256 << 20
# Of the lines that begin with ##: some thousands in files of the field, but gzip packs millions into kilobytes.
MAX_META_LINES = 1_000_000
MAX_META_BYTES = 256 << 20
_FIXED = ("#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT")
_GZIP = b"\x1f\x8b"
# Of a bgzip file: a subfield BC in the first block, and an empty block as its end.
_BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
_POSITION = re.compile(rb"[0-9]{1,10}")
# More than eight copies of a chromosome no human cell has; htslib's arrays grow with the longest call.
_CALL = re.compile(rb"(?:\.|[0-9]{1,3})(?:[/|](?:\.|[0-9]{1,3})){0,7}")
_ALLELE_NUMBER = re.compile(rb"[0-9]+")


@dataclass(frozen=True, slots=True)
class VcfRecord:
    """One record of the genome's places that are asked for.

    Attributes:
        number: Among the file's records, from 1.
        chromosome: As plans call it.
        position: Of the first base of `alleles[0]`, from 1.
        alleles: The reference, then the alternates, in upper case.
        calls: Allele numbers of each sample, as VCF writes them; a number is less than `len(alleles)`.
    """

    number: int
    chromosome: str
    position: int
    alleles: tuple[str, ...]
    calls: tuple[bytes, ...]


class VcfFile:
    """An open VCF file whose header has been read.

    Attributes:
        name: What messages call the file.
        samples: As the header names them, each once.
        says_assembly: Whether the header says that positions count in the plan's assembly.
    """

    def __init__(self, stream: IO[bytes], name: str, assembly: Assembly) -> None:
        self.name = name
        self._stream, self._line = stream, 0
        self.says_assembly = False
        self.samples = self._header(assembly)

    def records(self, places: Collection[tuple[str, int]]) -> Iterator[VcfRecord]:
        """Yield the records at some places; the others are checked as far as their place goes, and passed over.

        Args:
            places: Chromosome, as plans call it, and position.

        Raises:
            DataError: If a record is wrong, or the file holds none.
        """
        columns, number = len(_FIXED) + len(self.samples), 0
        while line := self._read_line():
            number += 1
            where = f"{self.name} record {number} (line {self._line})"
            seen = line.count(b"\t") + 1
            if seen != columns:
                raise DataError(
                    f"{where}: has {seen} columns, the header names {columns}; the file was cut off or damaged: "
                    "export it again"
                )
            name, at, rest = line.split(b"\t", 2)
            if not _POSITION.fullmatch(at):
                raise DataError(f"{where}, column POS: is no position; correct the file")
            chromosome = chromosome_of(name.decode("ascii", "replace"))
            if chromosome is not None and (chromosome, int(at)) in places:
                yield _record(rest, where, number, chromosome, int(at))
        if not number:
            raise DataError(f"{self.name}: has a header and no record; name a file with records")

    def _read_line(self) -> bytes:
        """The next line without its end; empty at the end of the file."""
        line = self._stream.readline(MAX_LINE_BYTES)
        if not line:
            return b""
        self._line += 1
        if len(line) == MAX_LINE_BYTES:
            raise DataError(f"{self.name} line {self._line}: is longer than {MAX_LINE_BYTES >> 20} MiB; split the file")
        if not line.endswith(b"\n"):
            raise DataError(
                f"{self.name} line {self._line}: does not end with a line break, so the file was cut off there; copy "
                "it again"
            )
        # A blank line is a line with one column.
        return line.rstrip(b"\r\n") or b" "

    def _header(self, assembly: Assembly) -> tuple[str, ...]:
        first = self._stream.read(3)
        if first == b"BCF":
            raise DataError(f"{self.name}: is BCF; convert it to VCF (bcftools view -O z)")
        line = first + (self._read_line() if first else b"")
        if not line.startswith(b"##fileformat=VCF"):
            seen = "is empty" if not first else "does not begin with ##fileformat=VCF"
            raise DataError(f"{self.name}: {seen}; name a VCF file, plain or compressed by gzip or bgzip")
        size = len(line)
        while line := self._read_line():
            if line.startswith(b"#CHROM"):
                return _samples(line, f"{self.name} line {self._line}")
            place = f"{self.name} line {self._line}"
            if not line.startswith(b"##"):
                raise DataError(f"{place}: the header ends without a line #CHROM that names the samples; correct it")
            size += len(line)
            if self._line > MAX_META_LINES or size > MAX_META_BYTES:
                raise DataError(
                    f"{place}: the header has more than {MAX_META_LINES} lines that begin with ##, or more than "
                    f"{MAX_META_BYTES >> 20} MiB of them; remove those that nobody needs"
                )
            self.says_assembly |= says_assembly(line.decode("utf-8", "replace"), assembly, place=place)
        raise DataError(f"{self.name}: its header has no line #CHROM that names the samples; the file was cut off")


@contextmanager
def open_vcf(path: Path, assembly: Assembly, *, name: str) -> Iterator[VcfFile]:
    """Open a VCF file, plain or compressed by gzip or bgzip, and read its header.

    Args:
        path: The file.
        assembly: The plan's.
        name: What messages call the file; its own name may be a patient's.

    Raises:
        DataError: If the file cannot be read, is no VCF, is cut off or damaged, names a sample twice, or says another
            assembly. Names file, record and column, and never what stands in a record. Also raised from within.
    """
    refuse_special(path, name)
    try:
        with path.open("rb") as raw:
            compressed = raw.read(18)
            if compressed.startswith(_GZIP):
                _refuse_without_end(raw, name, compressed)
            raw.seek(0)
            if not compressed.startswith(_GZIP):
                yield VcfFile(raw, name, assembly)
                return
            with gzip.open(raw) as stream:
                yield VcfFile(io.BufferedReader(stream, 1 << 20), name, assembly)
    except EOFError as error:
        raise DataError(f"{name}: the compressed file was cut off; copy it again") from error
    except (zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{name}: the compressed file is damaged; copy it again") from error
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror}); check path and permissions") from error


def _refuse_without_end(raw: IO[bytes], name: str, head: bytes) -> None:
    """Of a bgzip file that was cut between two blocks, gzip sees nothing."""
    if head[12:14] != b"BC":
        return
    raw.seek(max(0, raw.seek(0, os.SEEK_END) - len(_BGZF_END)))
    if raw.read() != _BGZF_END:
        raise DataError(f"{name}: the compressed file was cut off; copy it again")


def _samples(line: bytes, place: str) -> tuple[str, ...]:
    try:
        columns = line.decode("utf-8").split("\t")
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: the names of samples are no UTF-8 text; write the file again as UTF-8") from error
    if tuple(columns[: len(_FIXED)]) != _FIXED or len(columns) == len(_FIXED):
        raise DataError(
            f"{place}: the columns must be {' '.join(_FIXED)} and then one or more samples, separated by tabs; name a "
            "file with genotypes"
        )
    first: dict[str, int] = {}
    for column, sample in enumerate(columns[len(_FIXED) :], start=len(_FIXED) + 1):
        if not sample.strip():
            raise DataError(f"{place}, column {column}: the sample has no name; name each sample")
        if sample in first:
            raise DataError(f"{place}: columns {first[sample]} and {column} name the same sample; remove one of them")
        first[sample] = column
    return tuple(first)


def _record(rest: bytes, where: str, number: int, chromosome: str, position: int) -> VcfRecord:
    _, reference, alternates, _, _, _, form, cells = rest.split(b"\t", 7)
    keys = form.split(b":")
    if keys[0] != b"GT":
        raise DataError(f"{where}, column FORMAT: does not begin with GT; name a file with genotypes")
    alleles = tuple(each.decode("ascii", "replace").upper() for each in (reference, *alternates.split(b",")))
    if alleles[1:] == (".",):
        alleles = alleles[:1]
    calls = tuple(cells.split(b"\t") if len(keys) == 1 else (cell.partition(b":")[0] for cell in cells.split(b"\t")))
    wrong = {call for call in set(calls) if not _is_call(call, len(alleles))}
    if wrong:
        column = next(place for place, call in enumerate(calls, start=len(_FIXED) + 1) if call in wrong)
        raise DataError(
            f"{where}, column {column}: is no genotype of the record's {len(alleles)} allele(s), such as 0|1, 0/1 or "
            "./.; correct the file"
        )
    return VcfRecord(number, chromosome, position, alleles, calls)


def _is_call(call: bytes, alleles: int) -> bool:
    return bool(_CALL.fullmatch(call)) and all(int(each) < alleles for each in _ALLELE_NUMBER.findall(call))
