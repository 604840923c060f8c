"""Broken and hostile VCF files: one sentence with file, record and column, and never a crash or a genotype."""

from __future__ import annotations

import gzip
import os
import random
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from common.errors import DataError
from tests.support.genotypes import FIXED, META, read_vcf_text, vcf_text

GOOD = "1 100 A G 0|1 1/1"
HEADER = "\n".join((*META, "\t".join((*FIXED, "ann", "bob")))) + "\n"
LINE = "1\t100\trs1\tA\tG\t.\tPASS\t.\tGT\t0|1\t1/1\n"

CASES: list[tuple[str | bytes, str]] = [
    ("", ": is empty; name a VCF file, plain or compressed by gzip or bgzip"),
    (gzip.compress(b""), ": is empty; name a VCF file, plain or compressed by gzip or bgzip"),
    (
        "name,age\nMeyer,51\n",
        ": does not begin with ##fileformat=VCF; name a VCF file, plain or compressed by gzip or bgzip",
    ),
    (b"BCF\x02\x02" + bytes(50), ": is BCF; convert it to VCF (bcftools view -O z)"),
    (HEADER, ": has a header and no record; name a file with records"),
    (
        "\n".join(META) + "\n",
        ": its header has no line #CHROM that names the samples; the file was cut off",
    ),
    (
        "\n".join(META) + "\n" + LINE,
        " line 4: the header ends without a line #CHROM that names the samples; correct it",
    ),
    (
        "\n".join((*META, "\t".join(FIXED[:8]))) + "\n1\t100\trs1\tA\tG\t.\tPASS\t.\n",
        (
            " line 4: the columns must be #CHROM POS ID REF ALT QUAL FILTER INFO FORMAT and then one or more samples, "
            "separated by tabs; name a file with genotypes"
        ),
    ),
    (vcf_text([GOOD], ["ann", "ann"]), " line 4: columns 10 and 11 name the same sample; remove one of them"),
    (vcf_text([GOOD], ["ann", ""]), " line 4, column 11: the sample has no name; name each sample"),
    (
        (HEADER + LINE).replace("ann", "\udce9").encode("utf-8", "surrogateescape"),
        " line 4: the names of samples are no UTF-8 text; write the file again as UTF-8",
    ),
    (
        vcf_text([GOOD, "2 200 C T 0/1"]),
        " record 2 (line 6): has 10 columns, the header names 11; the file was cut off or damaged: export it again",
    ),
    (
        vcf_text([GOOD, "5 900 C T 0/1 0/0 0/0"]),
        " record 2 (line 6): has 12 columns, the header names 11; the file was cut off or damaged: export it again",
    ),
    (
        HEADER + LINE + "\n" + LINE,
        " record 2 (line 6): has 1 columns, the header names 11; the file was cut off or damaged: export it again",
    ),
    (
        HEADER + LINE + LINE[:-2],
        " line 6: does not end with a line break, so the file was cut off there; copy it again",
    ),
    (vcf_text(["1 99999999999999 A G 0/0 0/0"]), " record 1 (line 5), column POS: is no position; correct the file"),
    (vcf_text(["1 -5 A G 0/0 0/0"]), " record 1 (line 5), column POS: is no position; correct the file"),
    (vcf_text([GOOD, "1 100 A G 0/0 0/0"]), ": the records 1 and 2 both hold rs1; keep one"),
    (
        HEADER + LINE.replace("GT", "DP"),
        " record 1 (line 5), column FORMAT: does not begin with GT; name a file with genotypes",
    ),
    *(
        (
            vcf_text([f"1 100 A G 0/1 {call}"]),
            (
                " record 1 (line 5), column 11: is no genotype of the record's 2 allele(s), such as 0|1, 0/1 or ./.; "
                "correct the file"
            ),
        )
        for call in ("0|7", "x|y", "0|", "0\\1", "1e3", "-1", "99999999999", "/".join("0" * 9))
    ),
    (
        vcf_text(["NC_000001.10 100 A G 0/0 0/0"]),
        (
            ": no record stands at one of the plan's 3 variants; positions must count in GRCh37, and chromosomes be "
            "named 1 to 22, X, Y or MT, with or without `chr`"
        ),
    ),
    (
        vcf_text([GOOD], ["HG1", "HG2"]),
        ": the table of people names none of its 2 samples; correct `people.sample` in the mapping, or the table",
    ),
]


@pytest.mark.parametrize(("content", "sentence"), CASES)
def test_a_broken_file_is_told_in_one_sentence(content: str | bytes, sentence: str, tmp_path: Path) -> None:
    """With file, record and column, and nothing that stands in it."""
    with pytest.raises(DataError) as caught:
        read_vcf_text(tmp_path, content)
    assert str(caught.value) == f"site.vcf{sentence}"


def many_records() -> bytes:
    """A file of some hundred kilobytes."""
    generator = random.Random(1)  # noqa: S311 -- no secret
    calls = ["0|0", "0|1", "1|1"]
    records = [f"3 {k} A G {generator.choice(calls)} {generator.choice(calls)}" for k in range(1, 20000)]
    return vcf_text(records).encode()


@pytest.mark.parametrize("length", [12, 5000, -4])
def test_a_compressed_file_that_was_cut_off_is_refused(length: int, tmp_path: Path) -> None:
    """At any place: in its head, within, and in the sum that ends it."""
    with pytest.raises(DataError) as caught:
        read_vcf_text(tmp_path, gzip.compress(many_records())[:length])
    assert str(caught.value) == "site.vcf: the compressed file was cut off; copy it again"


def test_a_damaged_compressed_file_is_refused(tmp_path: Path) -> None:
    """By its checksum, where the bytes still make sense."""
    whole = bytearray(gzip.compress(many_records(), compresslevel=0))
    # A reference in the middle, so that every record still reads well.
    whole[whole.index(b"\tA\tG", len(whole) // 2) + 1] = ord("C")
    with pytest.raises(DataError) as caught:
        read_vcf_text(tmp_path, bytes(whole))
    assert str(caught.value) == "site.vcf: the compressed file is damaged; copy it again"


def test_a_million_samples_are_no_trouble(tmp_path: Path) -> None:
    """Only those that the table of people names are read."""
    names = [f"S{k}" for k in range(10**6)]
    text = vcf_text([], ["ann", *names]) + LINE.rstrip("\n").replace("\t1/1", "") + "\t0|1" * 10**6 + "\n"
    reading = read_vcf_text(tmp_path, text)
    assert len(reading.rows) == 1
    assert reading.left_out["sample_without_label"] == 10**6


def test_a_line_without_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few kilobytes of gzip may hold gigabytes of one letter."""
    monkeypatch.setattr("client.data.vcf_file.MAX_LINE_BYTES", 1 << 20)
    packer = zlib.compressobj(wbits=31)
    bomb = packer.compress(HEADER.encode()) + packer.compress(b"A" * (1 << 24)) + packer.flush()
    with pytest.raises(DataError) as caught:
        read_vcf_text(tmp_path, bomb)
    assert str(caught.value) == "site.vcf line 5: is longer than 1 MiB; split the file"


@pytest.mark.parametrize("bound", ["MAX_META_LINES", "MAX_META_BYTES"])
def test_a_header_without_end_is_refused(bound: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some kilobytes of gzip may hold millions of its lines; the control has as many as are allowed."""
    limits = {"MAX_META_LINES": 1000, "MAX_META_BYTES": 1 << 20}
    lines = {"MAX_META_LINES": 1000, "MAX_META_BYTES": 16}[bound]
    monkeypatch.setattr(f"client.data.vcf_file.{bound}", limits[bound])
    line = "##x=" + "y" * ((1 << 20) // lines - 5 if bound == "MAX_META_BYTES" else 0) + "\n"
    meta, columns = HEADER.rsplit("#CHROM", 1)
    few = lines - meta.count("\n") if bound == "MAX_META_LINES" else lines - 1
    good = f"{meta}{line * few}#CHROM{columns}{LINE}"
    assert len(read_vcf_text(tmp_path, gzip.compress(good.encode())).rows) == 2
    with pytest.raises(DataError, match=r"^site\.vcf line [0-9]+: the header has more than .* begin with ##, or more"):
        read_vcf_text(tmp_path, gzip.compress(f"{meta}{line * (few + 2)}#CHROM{columns}{LINE}".encode()))


# Ends a process that gives it to cyvcf2 0.35 as it is: a call that is none, in a file without ##contig. Found by
# changing bytes of a good file.
CRASHING = vcf_text(["1 100 A G 0/x 0/1"], meta=(META[0], META[2])).replace("AC=1;DB", ".")
RAW = "import sys; from cyvcf2 import VCF; [v.genotype.array() for v in VCF(sys.argv[1])]"


def test_nothing_reaches_the_standard_error_of_a_site(tmp_path: Path) -> None:
    """Without the check htslib would write a header's line of samples there, names and all; the control shows it."""
    named = "\n".join(META) + "\n" + "\t".join((*FIXED[:5], *FIXED[6:], "Anna_Meyer")) + "\n" + LINE
    path = tmp_path / "site.vcf"
    path.write_text(named, encoding="utf-8")
    control = subprocess.run(  # noqa: S603
        [sys.executable, "-c", RAW, str(path)], capture_output=True, check=False, text=True
    )
    assert "Anna_Meyer" in control.stderr
    program = (
        "import sys; from pathlib import Path; from tests.support.genotypes import read_vcf_text\n"
        "try: read_vcf_text(Path(sys.argv[1]), Path(sys.argv[2]).read_bytes())\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    ours = subprocess.run(  # noqa: S603
        [sys.executable, "-c", program, str(tmp_path), str(path)],
        capture_output=True,
        check=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": "."},
    )
    assert ours.stdout.startswith("DataError site.vcf line 4: the columns must be")
    assert not ours.stderr
    assert "Anna" not in ours.stdout


def test_a_file_that_ends_cyvcf2_is_one_sentence(tmp_path: Path) -> None:
    """The control: a version that withstands it takes the reason for checking files first away, or part of it."""
    path = tmp_path / "site.vcf"
    path.write_text(CRASHING, encoding="utf-8")
    control = subprocess.run(  # noqa: S603
        [sys.executable, "-c", RAW, str(path)], capture_output=True, check=False
    )
    assert control.returncode < 0
    with pytest.raises(DataError, match=r"^site.vcf record 1 \(line 4\), column 10: is no genotype of the record"):
        read_vcf_text(tmp_path, CRASHING)


@pytest.mark.parametrize("seed", range(8))
def test_changed_bytes_give_an_error_or_rows(seed: int, tmp_path: Path) -> None:
    """Whatever a file holds, the process lives, and only errors of this project are raised."""
    generator = random.Random(seed)  # noqa: S311 -- no secret
    good = vcf_text([GOOD, "2 200 C T,<*> ./1 .", "X 300 A T 1 0/1", "2 205 C . 0/0 0|0"]).encode()
    refused = 0
    for _ in range(100):
        content = bytearray(good)
        for _ in range(generator.randrange(1, 6)):
            place = generator.randrange(len(content))
            match generator.randrange(4):
                case 0:
                    content[place] = generator.randrange(256)
                case 1:
                    del content[place : place + generator.randrange(1, 30)]
                case 2:
                    start = generator.randrange(len(content))
                    content[place:place] = content[start : start + 40]
                case _:
                    content[place:place] = bytes([generator.choice(b"\t\n,:|/.0<>=")]) * generator.randrange(1, 40)
        try:
            read_vcf_text(tmp_path, bytes(content))
        except DataError:
            refused += 1
    assert 0 < refused <= 100
