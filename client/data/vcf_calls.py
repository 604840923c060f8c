"""Allele numbers of one record's calls, read by cyvcf2 (htslib)."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.errors import DataError

_META = b'##fileformat=VCFv4.2\n##contig=<ID=1>\n##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">\n'


def allele_numbers(calls: Sequence[bytes], alleles: int) -> NDArray[np.int64]:
    """Read the calls of a checked record.

    htslib gets the calls alone, under numbers for names: whatever it may say of them on the standard error names
    nobody, and what crashes it never reaches it.

    Args:
        calls: One for each sample, at least one, as `client.data.vcf_file.VcfRecord` holds them.
        alleles: How many the record names.

    Returns:
        Shape (samples, copies), int64: numbers of alleles; -1 where not called; -2 where a sample has fewer copies.

    Raises:
        DataError: If cyvcf2 is not installed.
    """
    try:
        from cyvcf2 import VCF  # noqa: PLC0415 -- an optional package
    except ImportError as error:
        raise DataError("VCF files need cyvcf2, which is not installed; install fedward[data]") from error
    samples = "\t".join(map(str, range(len(calls)))).encode()
    alternates = ",".join(["C"] * (alleles - 1)) or "."
    columns = b"#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\t" + samples
    cells = f"1\t1\t.\tA\t{alternates}\t.\t.\t.\tGT\t".encode() + b"\t".join(calls)
    # In memory: genotypes are not to lie in a temporary folder.
    with os.fdopen(os.memfd_create("calls"), "w+b") as stream:
        stream.write(_META + columns + b"\n" + cells + b"\n")
        stream.flush()
        stream.seek(0)
        reader = VCF(stream)
        numbers: NDArray[np.int64] = next(reader).genotype.array()[:, :-1].astype(np.int64)
        reader.close()
    return numbers
