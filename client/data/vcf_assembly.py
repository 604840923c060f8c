"""Whether a VCF file counts positions in the plan's reference: what its header says of it."""

from __future__ import annotations

import re
from typing import Literal

from common.errors import DataError

Assembly = Literal["GRCh37", "GRCh38"]

# Bases of each chromosome, from the Genome Reference Consortium's releases. MT is left out: of GRCh37 two are in use.
LENGTHS: dict[Assembly, dict[str, int]] = {
    "GRCh37": {
        "1": 249250621, "2": 243199373, "3": 198022430, "4": 191154276, "5": 180915260, "6": 171115067,
        "7": 159138663, "8": 146364022, "9": 141213431, "10": 135534747, "11": 135006516, "12": 133851895,
        "13": 115169878, "14": 107349540, "15": 102531392, "16": 90354753, "17": 81195210, "18": 78077248,
        "19": 59128983, "20": 63025520, "21": 48129895, "22": 51304566, "X": 155270560, "Y": 59373566,
    },
    "GRCh38": {
        "1": 248956422, "2": 242193529, "3": 198295559, "4": 190214555, "5": 181538259, "6": 170805979,
        "7": 159345973, "8": 145138636, "9": 138394717, "10": 133797422, "11": 135086622, "12": 133275309,
        "13": 114364328, "14": 107043718, "15": 101991189, "16": 90338345, "17": 83257441, "18": 80373285,
        "19": 58617616, "20": 64444167, "21": 46709983, "22": 50818468, "X": 156040895, "Y": 57227415,
    },
}  # fmt: skip

_NAMES = {
    "GRCh37": re.compile(r"grch37|hg19|hs37|\bb37\b|v37\b", re.IGNORECASE),
    "GRCh38": re.compile(r"grch38|hg38|hs38|\bb38\b|v38\b", re.IGNORECASE),
    "NCBI36": re.compile(r"ncbi36|hg18|\bb36\b|v36\b", re.IGNORECASE),
}
_SAYS = re.compile(r"##(?:reference|assembly)=|##contig=<")
_CONTIG_NAME = re.compile(r"[<,]ID=([^,>]*)")
_CONTIG_LENGTH = re.compile(r"[<,]length=([0-9]{1,12})(?=[,>])")


def chromosome_of(name: str) -> str | None:
    """The plan's name of a chromosome, 1 to 22, X, Y or MT, from a file's; None for any other contig."""
    bare = name[3:] if name[:3].lower() == "chr" else name
    bare = "MT" if bare.upper() in {"M", "MT"} else bare.upper()
    return bare if bare == "MT" or bare in LENGTHS["GRCh37"] else None


def says_assembly(line: str, assembly: Assembly, *, place: str) -> bool:
    """Whether a line of the header says that positions count in the plan's assembly.

    Args:
        line: Of the header, without its end.
        assembly: The plan's.
        place: File and line, for messages.

    Raises:
        DataError: If it says another one: by name, or by the length of a chromosome.
    """
    if not _SAYS.match(line):
        return False
    named = {name for name, pattern in _NAMES.items() if pattern.search(line)}
    if named and assembly not in named:
        raise DataError(
            f"{place}: says that positions count in {min(named)}; the plan counts in {assembly}: lift the file over, "
            "or agree on a plan in the file's assembly"
        )
    name, length = _CONTIG_NAME.search(line), _CONTIG_LENGTH.search(line)
    chromosome = chromosome_of(name[1]) if name and line.startswith("##contig") else None
    expected = LENGTHS[assembly].get(chromosome or "")
    if expected is None or length is None:
        return bool(named)
    if int(length[1]) != expected:
        raise DataError(
            f"{place}: says that chromosome {chromosome} has {int(length[1])} bases; in the plan's {assembly} it has "
            f"{expected}: lift the file over, or agree on a plan in the file's assembly"
        )
    return True
