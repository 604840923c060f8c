"""The plan's section `data`: what the hospitals have agreed that a patient's data are, in whatever form each has them.

A site's own mapping file says where its columns, codes and units lie (docs/data.md); the plan knows no site's form.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from common.config import Settings
from common.errors import PlanError
from common.plan_expression import ExpressionData
from common.plan_features import ClassSettings, FeatureSettings, HeldOutSettings, OtherUnit, UnitCode, refuse_twice

Bases = Annotated[str, StringConstraints(pattern=r"^[ACGT]{1,50}$")]
Positive = Annotated[float, Field(gt=0)]


class ImageData(ClassSettings):
    """Images, each of one class."""

    kind: Literal["image-folder"] = Field(description="images in class folders or listed by index.csv")
    unreadable_images: Literal["skip", "refuse"] = Field(description="what a site does with an image it cannot decode")


class TableData(ClassSettings, FeatureSettings):
    """A table of patients, each of one class."""

    kind: Literal["table"] = Field(description="one row of declared features for each patient")


class SurvivalData(HeldOutSettings, FeatureSettings):
    """A table of patients of whom a time is known: until an event, or until nobody looked any more."""

    kind: Literal["survival"] = Field(description="features, and a time to an event that may be censored")
    time_unit: UnitCode = Field(description="unit of times, as UCUM writes it (d, mo, a)")
    other_time_units: tuple[OtherUnit, ...] = Field(
        default=(), max_length=20, description="units that sites may hold times in, and how they are converted"
    )
    cuts: tuple[Positive, ...] = Field(
        min_length=1,
        max_length=50,
        description="ends of the intervals in which the baseline hazard is constant; public",
    )

    @model_validator(mode="after")
    def _rising(self) -> Self:
        refuse_twice("other_time_units", (self.time_unit, *(each.unit for each in self.other_time_units)), "unit")
        if any(later <= earlier for earlier, later in zip(self.cuts, self.cuts[1:], strict=False)):
            raise PlanError(f"cuts: seen {', '.join(f'{cut:g}' for cut in self.cuts)}; each must be more than the last")
        return self

    @property
    def classes(self) -> tuple[str, ...]:
        """None: nothing is told apart."""
        return ()


class Variant(Settings):
    """One place of the genome where people differ."""

    id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")] = Field(
        description="rs number, or a name"
    )
    chromosome: Annotated[str, StringConstraints(pattern=r"^([1-9]|1[0-9]|2[0-2]|X|Y|MT)$")] = Field(
        description="1 to 22, X, Y or MT, without `chr`"
    )
    position: int = Field(ge=1, lt=2**31, description="of the reference's first base, from 1")
    reference: Bases = Field(description="bases of the reference there")
    alternate: Bases = Field(description="bases whose copies are counted, 0, 1 or 2")

    @model_validator(mode="after")
    def _two_alleles(self) -> Self:
        if self.reference == self.alternate:
            raise PlanError(f"{self.id}: seen the same bases as reference and alternate; they must differ")
        return self


class GenotypeData(ClassSettings):
    """Copies of the alternate allele at declared variants, for people who each belong to one class."""

    kind: Literal["genotypes"] = Field(description="allele counts at declared variants")
    assembly: Literal["GRCh37", "GRCh38"] = Field(description="the reference that positions count in")
    variants: tuple[Variant, ...] = Field(min_length=1, max_length=5000, description="in the order of the inputs")

    @model_validator(mode="after")
    def _distinct_variants(self) -> Self:
        refuse_twice("variants", (variant.id for variant in self.variants), "variant")
        first: dict[tuple[str, int, frozenset[str]], str] = {}
        for each in self.variants:
            place = each.chromosome, each.position, frozenset((each.reference, each.alternate))
            if place in first:
                raise PlanError(
                    f"variants: seen '{first[place]}' and '{each.id}' at the same place with the same two alleles; "
                    "every variant stands once; remove one"
                )
            first[place] = each.id
        return self

    @property
    def names(self) -> frozenset[str]:
        """What the values of a row go by."""
        return frozenset(variant.id for variant in self.variants)

    @property
    def inputs(self) -> int:
        """Length of a row: one number for each variant and a constant one."""
        return len(self.variants) + 1


DataSettings = ImageData | TableData | SurvivalData | GenotypeData | ExpressionData
RowData = TableData | SurvivalData | GenotypeData | ExpressionData


def row_constant(data: RowData) -> float:
    """The constant behind a row's inputs, before `row_scale`: 1 for tables, more for genotypes and gene expression.

    Most variants are far from half and half, so their counts lie to one side of 0, and a model takes that back by the
    constant. With as many variants as a panel has, a constant of 1 is too small for it: on the 127 of
    configs/plans/ancestry.yaml it costs .02 of accuracy. A quarter of what all variants may add to the norm's square
    was best of 1, 8, 32, 64 and 127, with much noise and with none. Most genes lie to one side of their range's middle
    as well, however different their own means are.
    """
    return math.sqrt(max(1.0, _count(data) / 4)) if isinstance(data, GenotypeData | ExpressionData) else 1.0


def row_scale(data: RowData) -> float:
    """The public factor that brings every possible row to L2 norm 1 at most.

    Each feature adds at most 1 to the square of a row's norm, and the constant its own square.
    """
    return 1.0 / math.sqrt(_count(data) + row_constant(data) ** 2)


def _count(data: RowData) -> int:
    return len(data.variants) if isinstance(data, GenotypeData) else len(data.features)
