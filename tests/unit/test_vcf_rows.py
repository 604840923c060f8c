"""Copies of the plan's alternate, from VCF files as hospitals write them."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import pytest

from client.data.rows import encode_rows
from common.errors import ConfigError, DataError
from common.plan_data import Variant
from tests.support.genotypes import (
    VARIANTS,
    counts_of,
    genotype_data,
    read_mapped,
    read_vcf_text,
    vcf_mapping,
    vcf_text,
    write_people,
)

ALL = ("1 100 A G 0|1 1/1", "2 200 C T 0/0 1|0", "X 300 A T 1 0/1")


def test_phased_and_unphased_calls_count_copies_of_the_alternate(tmp_path: Path) -> None:
    """Also those of a single X, which count twice, as callers do that write it as a pair."""
    reading = read_vcf_text(tmp_path, vcf_text(ALL))
    assert counts_of(reading) == [[1, 0, 2], [2, 1, 1]]
    assert [(row.patient, row.label, row.place) for row in reading.rows] == [
        ("ann", "EUR", "site.vcf column 10"),
        ("bob", "AFR", "site.vcf column 11"),
    ]
    assert not reading.warnings
    assert not reading.left_out


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ("./.", "not called"),
        (".", "not called"),
        ("./1", "called by half"),
        ("0|.", "called by half"),
        ("1", "of a single copy beside X, Y and MT"),
        ("0/1/1", "of more than two copies"),
    ],
)
def test_a_call_without_two_alleles_is_missing(call: str, reason: str, tmp_path: Path) -> None:
    """A guess at the other half would be a made-up genotype."""
    reading = read_vcf_text(tmp_path, vcf_text((f"1 100 A G {call} 0/1", *ALL[1:])))
    assert counts_of(reading)[0] == [None, 0, 2]
    assert counts_of(reading)[1] == [1, 1, 1]
    assert reading.warnings == [f"1 of 6 calls count as missing: 1 {reason}"]


def test_missing_calls_are_told_even_where_longer_ones_stand_beside_them(tmp_path: Path) -> None:
    """Arrays of calls are padded to the longest one of a record."""
    reading = read_vcf_text(tmp_path, vcf_text(("1 100 A G 0/1/1 0/1", "2 200 C T . 1/1", ALL[2])))
    assert counts_of(reading) == [[None, None, 2], [1, 2, 1]]


def test_a_swapped_reference_gives_the_same_count(tmp_path: Path) -> None:
    """Some exports put the more frequent allele first; the copies of the plan's alternate do not change."""
    swapped = ("1 100 G A 1|0 0/0", *ALL[1:])
    reading = read_vcf_text(tmp_path, vcf_text(swapped))
    assert counts_of(reading) == [[1, 0, 2], [2, 1, 1]]
    assert dict(reading.converted) == {"rs1 with reference and alternate swapped": 2}


def test_a_swap_that_looks_like_the_other_strand_is_told(tmp_path: Path) -> None:
    """A and T are each other's complement: nobody can tell a swap from another strand."""
    (warning,) = read_vcf_text(tmp_path, vcf_text((*ALL[:2], "X 300 T A 0/1 0/0"))).warnings
    assert warning == (
        "site.vcf record 3: reference and alternate of rs3 are swapped, and its bases look the same on the other "
        "strand; make sure that the file tells the forward strand"
    )


@pytest.mark.parametrize("alleles", ["T C", "A T", "AC A", "T A,G"])
def test_another_pair_of_alleles_is_missing_and_never_turned(alleles: str, tmp_path: Path) -> None:
    """T and C is the plan's pair on the other strand: it may as well be another variant."""
    reading = read_vcf_text(tmp_path, vcf_text((f"1 100 {alleles} 0/1 1/1", *ALL[1:])), absent="reference")
    assert [row[0] for row in counts_of(reading)] == [None, None]
    assert reading.warnings[0] == (
        "site.vcf record 1: holds other alleles of rs1 than the plan names; no strand is guessed: it counts as missing"
    )


def test_at_a_site_of_three_alleles_carriers_of_the_third_are_missing(tmp_path: Path) -> None:
    """The two others are counted by name, wherever they stand."""
    reading = read_vcf_text(tmp_path, vcf_text(("1 100 A T,G 0/2 1/2", "2 200 C T,<*> 0/0 1/1", ALL[2])))
    assert counts_of(reading) == [[1, 0, 2], [None, 2, 1]]
    assert reading.warnings == ["1 of 6 calls count as missing: 1 with an allele that the plan does not name"]


def test_a_record_without_alternates_says_that_nobody_has_one(tmp_path: Path) -> None:
    """Files of all sites write these."""
    reading = read_vcf_text(tmp_path, vcf_text(("1 100 A . 0/0 0/0", "2 200 T <NON_REF> 0/0 ./.", ALL[2])))
    assert counts_of(reading) == [[0, 2, 2], [0, None, 1]]


def test_split_sites_take_the_record_of_the_plans_alleles(tmp_path: Path) -> None:
    """An insertion at the same place is another variant."""
    reading = read_vcf_text(tmp_path, vcf_text(("1 100 A T 0/0 0/0", "1 100 A AG 0/0 0/1", *ALL)))
    assert counts_of(reading) == [[1, 0, 2], [2, 1, 1]]
    assert not reading.warnings


@pytest.mark.parametrize("prefix", ["chr", "Chr", ""])
def test_chromosomes_may_have_the_prefix_chr(prefix: str, tmp_path: Path) -> None:
    """And other contigs are passed over."""
    records = [*(prefix + record for record in ALL), "GL000191.1 100 A G 0/0 0/0", "chrUn_1 100 A G ./. 0/0"]
    assert counts_of(read_vcf_text(tmp_path, vcf_text(records))) == [[1, 0, 2], [2, 1, 1]]


def test_the_mitochondrion_is_mt_or_chrm(tmp_path: Path) -> None:
    """UCSC calls it chrM; it has no pair, so one copy counts as both."""
    data = genotype_data((Variant(id="m", chromosome="MT", position=73, reference="A", alternate="G"),))
    write_people(tmp_path, {"ann": "E", "bob": "A"})
    for name in ("MT", "chrM", "chrMT"):
        (tmp_path / "site.vcf").write_text(vcf_text([f"{name} 73 A G 1 0"]), encoding="utf-8")
        reading = read_mapped(tmp_path / "site.vcf", vcf_mapping(), data)
        assert [row.values["m"] for row in reading.rows] == [2, 0]


def test_a_variant_without_a_record_is_missing_or_the_reference_as_the_mapping_says(tmp_path: Path) -> None:
    """Files of single patients often leave out sites where the patient has the reference."""
    missing = read_vcf_text(tmp_path, vcf_text(ALL[:1]))
    reference = read_vcf_text(tmp_path, vcf_text(ALL[:1]), absent="reference")
    assert counts_of(missing) == [[1, None, None], [2, None, None]]
    assert counts_of(reference) == [[1, 0, 0], [2, 0, 0]]
    assert missing.warnings == [
        (
            "2 of the plan's 3 variants stand in no record; 4 counts that no record tells are taken as missing "
            "(`absent` in the mapping)"
        )
    ]


@pytest.mark.parametrize("name", ["site.vcf.gz", "site.vcf"])
def test_gzip_is_known_by_its_bytes(name: str, tmp_path: Path) -> None:
    """The name may lie."""
    reading = read_vcf_text(tmp_path, gzip.compress(vcf_text(ALL).encode()), name=name)
    assert counts_of(reading) == [[1, 0, 2], [2, 1, 1]]


def test_bgzip_is_read_and_its_end_is_looked_for(tmp_path: Path) -> None:
    """Cut off between two blocks, it is whole for gzip."""
    end = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
    block = bytearray(gzip.compress(vcf_text(ALL).encode(), mtime=0))
    block[3] = 4
    block[10:10] = b"\x06\x00BC\x02\x00" + (len(block) + 7).to_bytes(2, "little")
    assert counts_of(read_vcf_text(tmp_path, bytes(block) + end, name="a.vcf.gz")) == [[1, 0, 2], [2, 1, 1]]
    with pytest.raises(DataError) as caught:
        read_vcf_text(tmp_path, bytes(block), name="a.vcf.gz")
    assert str(caught.value) == "a.vcf.gz: the compressed file was cut off; copy it again"


def test_a_folder_may_hold_a_file_for_each_chromosome_or_each_patient(tmp_path: Path) -> None:
    """Other files, such as an index, are passed over."""
    write_people(tmp_path, {"ann": "E", "bob": "A"})
    folder = tmp_path / "genomes"
    folder.mkdir()
    (folder / "chr1.vcf").write_text(vcf_text(ALL[:1]), encoding="utf-8")
    (folder / "rest-ann.vcf").write_text(vcf_text(("2 200 C T 0/0", "X 300 A T 1"), ["ann"]), encoding="utf-8")
    (folder / "rest-bob.vcf").write_text(vcf_text(("2 200 C T 0/1", "X 300 A T 0/1"), ["bob"]), encoding="utf-8")
    (folder / "chr1.vcf.gz.tbi").write_bytes(b"index")
    mapping = vcf_mapping() | {"people_span_files": True}
    assert counts_of(read_mapped(folder, mapping, genotype_data())) == [[1, 0, 2], [2, 1, 1]]
    (folder / "twice.vcf").write_text(vcf_text(ALL[1:2]), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_mapped(folder, mapping, genotype_data())
    assert str(caught.value) == (
        "file 4 of 4 (by name) record 1, column 10: another file of the folder tells the same variant of the same "
        "sample; keep one of them"
    )


@pytest.mark.parametrize("asked", [True, False])
def test_two_files_of_one_sample_name_are_two_people_unless_the_mapping_says_else(
    tmp_path: Path, *, asked: bool
) -> None:
    """Many callers name every sample SAMPLE: two people would be one row, with or without a table of people."""
    write_people(tmp_path, {"SAMPLE": "E"})
    folder = tmp_path / "genomes"
    folder.mkdir()
    (folder / "a.vcf").write_text(vcf_text(("1 100 A G 0/1", "2 200 C T 0/1"), ["SAMPLE"]), encoding="utf-8")
    (folder / "b.vcf").write_text(vcf_text(("X 300 A T 1/1",), ["SAMPLE"]), encoding="utf-8")
    mapping = {key: value for key, value in vcf_mapping().items() if asked or key != "people"}
    for refused in (mapping, mapping | {"people_span_files": False}):
        with pytest.raises(DataError) as caught:
            read_mapped(folder, refused, genotype_data())
        assert str(caught.value) == (
            "file 2 of 2 (by name) column 10: names a sample of another file of the folder; if both are of one person, "
            "as in one file for each chromosome, write `people_span_files: true` in the mapping, else give each sample "
            "a name of its own"
        )
    assert counts_of(read_mapped(folder, mapping | {"people_span_files": True}, genotype_data())) == [[1, 1, 2]]


def test_files_of_different_samples_need_no_word_in_the_mapping(tmp_path: Path) -> None:
    """The control of the test above; nobody asks about a sample without a label, who is in no row."""
    write_people(tmp_path, {"ann": "E", "bob": "A"})
    folder = tmp_path / "genomes"
    folder.mkdir()
    (folder / "a.vcf").write_text(vcf_text(("1 100 A G 0/1 0/0",), ["ann", "else"]), encoding="utf-8")
    (folder / "b.vcf").write_text(vcf_text(("1 100 A G 1/1 0/0",), ["bob", "else"]), encoding="utf-8")
    assert counts_of(read_mapped(folder, vcf_mapping(), genotype_data())) == [[1, None, None], [2, None, None]]


def test_files_of_a_folder_are_numbered_in_messages(tmp_path: Path) -> None:
    """Hospitals name them after patients, and warnings reach the log of the site."""
    write_people(tmp_path, {"ann": "E", "bob": "A"})
    folder = tmp_path / "genomes"
    folder.mkdir()
    records = ("1 100 T C 0/1", "2 200 C T 0/1", "X 300 T A 0/1")
    (folder / "secret-ann.vcf").write_text(vcf_text(ALL, ["ann", "cyd"]), encoding="utf-8")
    (folder / "secret-bob.vcf").write_text(vcf_text(records, ["bob"], meta=[META_1]), encoding="utf-8")
    reading = read_mapped(folder, vcf_mapping(), genotype_data())
    assert [row.place for row in reading.rows] == [f"file {k} of 2 (by name) column 10" for k in (1, 2)]
    assert [warning.partition(":")[0] for warning in reading.warnings] == [
        "file 2 of 2 (by name) record 3",
        "file 2 of 2 (by name) record 1",
        "file 2 of 2 (by name)",
    ]
    assert "secret" not in " ".join(reading.warnings)
    (folder / "secret-bob.vcf").write_text(vcf_text(records[:1], ["bob"])[:-9], encoding="utf-8")
    with pytest.raises(DataError, match=r"^file 2 of 2 \(by name\) line 5: does not end with a line break") as caught:
        read_mapped(folder, vcf_mapping(), genotype_data())
    assert "secret" not in str(caught.value)


def test_samples_and_labels_that_lack_the_other_are_counted(tmp_path: Path) -> None:
    """So is a person of whom nothing was called, who would be a row of zeros."""
    samples = ["ann", "bob", "cyd", "dan", "eve"]
    records = ["1 100 A G 0/1 0/0 0/0 ./. 0/0", "2 200 C T 0/0 0/0 1/1 . 0/0", "X 300 A T 0/0 0/0 1/1 ./1 0/0"]
    (tmp_path / "site.vcf").write_text(vcf_text(records, samples), encoding="utf-8")
    write_people(tmp_path, {"ann": "E", "cyd": "", "dan": "A", "fay": "A", "guy": "E"})
    reading = read_mapped(tmp_path / "site.vcf", vcf_mapping(), genotype_data())
    assert [row.patient for row in reading.rows] == ["ann"]
    assert dict(reading.left_out) == {
        "sample_without_label": 2,
        "missing_label": 1,
        "no_variant_called": 1,
        "label_without_sample": 2,
    }


def test_samples_of_one_patient_are_one_unit(tmp_path: Path) -> None:
    """A patient may have been sequenced twice."""
    (tmp_path / "site.vcf").write_text(vcf_text(ALL), encoding="utf-8")
    (tmp_path / "people.csv").write_text("sample,group,who\nann,E,p1\nbob,E,p1\n", encoding="utf-8")
    mapping = vcf_mapping()
    mapping["people"] = {**vcf_mapping()["people"], "patient": "who"}  # type: ignore[dict-item]
    reading = read_mapped(tmp_path / "site.vcf", mapping, genotype_data())
    table = encode_rows(reading, genotype_data(), unit="patient", patient_column="who")
    assert list(table.unit_labels()) == ["patient:p1"]


@pytest.mark.parametrize(
    "line",
    [
        "##contig=<ID=chr1,length=249250621>",
        "##contig=<ID=2,assembly=b37>",
        "##reference=ftp://somewhere/hs37d5.fa.gz",
        "##reference=file:///hg19ToHg38/ucsc.hg19.fasta",
    ],
)
def test_a_header_may_say_the_plans_assembly(line: str, tmp_path: Path) -> None:
    """One that says nothing is taken, with a word about it."""
    assert not read_vcf_text(tmp_path, vcf_text(ALL, meta=[META_1, line])).warnings
    (warning,) = read_vcf_text(tmp_path, vcf_text(ALL, meta=[META_1])).warnings
    assert warning == "site.vcf: does not say its assembly; GRCh37 is taken"


META_1 = "##fileformat=VCFv4.1"


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ("##contig=<ID=1,length=248956422>", "says that chromosome 1 has 248956422 bases; in the plan's GRCh37 it has"),
        ("##contig=<ID=chr3,length=199501827>", "says that chromosome 3 has 199501827 bases; in the plan's"),
        ("##contig=<ID=1,assembly=GRCh38>", "says that positions count in GRCh38; the plan counts in GRCh37:"),
        ("##reference=GRCh38_full_analysis_set_plus_decoy_hla.fa", "says that positions count in GRCh38; the plan"),
        ("##reference=file:///data/hg18.fasta", "says that positions count in NCBI36; the plan counts in GRCh37:"),
    ],
)
def test_another_assembly_is_refused(line: str, seen: str, tmp_path: Path) -> None:
    """The same position is another base there: no record would fit, or worse, the wrong one."""
    with pytest.raises(DataError, match=r"; the plan|the plan's") as caught:
        read_vcf_text(tmp_path, vcf_text(ALL, meta=[META_1, line]))
    assert str(caught.value).startswith(f"site.vcf line 2: {seen}")
    assert str(caught.value).endswith("lift the file over, or agree on a plan in the file's assembly")


def test_a_mapping_with_a_class_that_the_plan_lacks_is_refused(tmp_path: Path) -> None:
    """Before any genotype is read."""
    mapping = vcf_mapping()
    mapping["people"] = {"file": "people.csv", "sample": "s", "label": {"column": "group", "classes": {"E": "XYZ"}}}
    (tmp_path / "site.vcf").touch()
    with pytest.raises(ConfigError) as caught:
        read_mapped(tmp_path / "site.vcf", mapping, genotype_data())
    assert str(caught.value) == (
        "mapping: label.classes: seen 'XYZ'; the plan's classes are EUR, AFR; write one of them"
    )


def test_without_cyvcf2_one_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an optional package."""
    monkeypatch.setitem(sys.modules, "cyvcf2", None)
    with pytest.raises(DataError) as caught:
        read_vcf_text(tmp_path, vcf_text(ALL))
    assert str(caught.value) == "VCF files need cyvcf2, which is not installed; install fedward[data]"


def test_every_possible_row_has_norm_one_at_most(tmp_path: Path) -> None:
    """The clipping of gradients rests on it; ann and bob are at the bound, as homozygous people are."""
    data = genotype_data([VARIANTS[0].model_copy(update={"id": f"v{k}", "position": 100 + k}) for k in range(50)])
    (tmp_path / "site.vcf").write_text(vcf_text([f"1 {100 + k} A G 1/1 0/0" for k in range(50)]), encoding="utf-8")
    write_people(tmp_path, {"ann": "E", "bob": "A"})
    reading = read_mapped(tmp_path / "site.vcf", vcf_mapping(), data)
    rows, _ = encode_rows(reading, data, unit="patient", patient_column="sample").unit_rows()
    assert rows.shape == (2, data.inputs)
    assert (rows**2).sum(axis=1) == pytest.approx([1.0, 1.0], abs=1e-12)
    assert rows[0, -1] ** 2 == pytest.approx(0.2)
