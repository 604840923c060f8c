"""What plans declare of gene expression: genes, one scale, and a public range."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from common.config import Settings
from common.errors import PlanError
from common.plan_features import ClassSettings, NumberFeature, refuse_no_range, refuse_twice

_OF_ALL_SAMPLES = (
    "is made from all samples of a site together, so that other patients stand in each number, and no two sites compare"
)
_OF_ALL_GENES = (
    "become comparable by the total of all genes of a sample, and which genes a file has differs between sites"
)
_NO_SCALES = {
    "counts": _OF_ALL_GENES,
    "raw_counts": _OF_ALL_GENES,
    "log2_counts": _OF_ALL_GENES,
    "vst": _OF_ALL_SAMPLES,
    "rlog": _OF_ALL_SAMPLES,
    "z": _OF_ALL_SAMPLES,
    "zscore": _OF_ALL_SAMPLES,
}


def _explain(scale: object) -> object:
    why = _NO_SCALES.get(scale.lower()) if isinstance(scale, str) else None
    if why is not None:
        raise PlanError(f"seen '{scale}', which {why}; let the pipeline that made them write TPM or CPM, and name that")
    return scale


Measure = Literal["tpm", "cpm", "fpkm", "intensity", "ratio"]
Scale = Annotated[
    Literal[
        "tpm",
        "log2_tpm",
        "cpm",
        "log2_cpm",
        "fpkm",
        "log2_fpkm",
        "intensity",
        "log2_intensity",
        "ratio",
        "log2_ratio",
    ],
    BeforeValidator(_explain),
]
GeneName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:@/-]{1,64}$")]


class Gene(NumberFeature):
    """One gene as the number that it is to a model."""

    name: GeneName = Field(description="symbol, Ensembl id or probe")


class GeneRange(Settings):
    """The range of one gene that differs from the others'."""

    gene: GeneName = Field(description="one of `genes`")
    low: float = Field(description="public lower end of its range; never taken from data")
    high: float = Field(description="public upper end of its range")

    @model_validator(mode="after")
    def _a_range(self) -> Self:
        refuse_no_range(self.gene, self.low, self.high)
        return self


class ExpressionData(ClassSettings):
    """How strongly genes are expressed in samples of patients, each of one class."""

    kind: Literal["expression"] = Field(description="expression of declared genes, all in one scale")
    genes: tuple[GeneName, ...] = Field(
        min_length=1, max_length=5000, description="symbols, Ensembl ids or probes, in the order of the inputs"
    )
    scale: Scale = Field(
        description="what the numbers are; log2 of tpm, cpm and fpkm is log2(x + 1), of intensity and ratio log2(x)"
    )
    low: float = Field(description="public lower end of every gene's range, in that scale; never taken from data")
    high: float = Field(description="public upper end of every gene's range")
    own_ranges: tuple[GeneRange, ...] = Field(
        default=(), max_length=5000, description="genes whose range is another one"
    )
    decimals: int = Field(
        ge=0, le=9, description="places behind the point that numbers are rounded to, after they are in that scale"
    )
    missing: Literal["flag", "leave-out"] = Field(
        description="flag: one more input for each gene says that it is missing; leave-out: a sample without one of "
        "the genes is not used"
    )

    @model_validator(mode="after")
    def _ranges_of_genes(self) -> Self:
        refuse_twice("genes", self.genes, "gene")
        refuse_no_range("genes", self.low, self.high)
        refuse_twice("own_ranges", (each.gene for each in self.own_ranges), "gene")
        known = set(self.genes)
        for each in self.own_ranges:
            if each.gene not in known:
                raise PlanError(f"own_ranges: seen '{each.gene}', which is none of `genes`; add it there, or remove it")
        return self

    # Read for every row. Nobody copies a declaration with other genes: the copy would keep these.
    @cached_property
    def features(self) -> tuple[Gene, ...]:
        """The genes as the features of a table."""
        own = {each.gene: (each.low, each.high) for each in self.own_ranges}
        ranges = ((name, *own.get(name, (self.low, self.high))) for name in self.genes)
        return tuple(
            Gene(kind="number", name=name, unit=self.scale, low=low, high=high, missing=self.missing)
            for name, low, high in ranges
        )

    @property
    def names(self) -> frozenset[str]:
        """What the values of a row go by."""
        return frozenset(self.genes)

    @property
    def inputs(self) -> int:
        """Length of a row: the genes' inputs and a constant one."""
        return sum(gene.inputs for gene in self.features) + 1
