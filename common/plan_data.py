"""The plan's section `data`: what the hospitals have agreed that a patient's data are, in whatever form each has them.

A site's own mapping file says where its columns, codes and units lie (docs/data.md); the plan knows no site's form.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from common.config import Settings
from common.errors import PlanError
from common.printable import PrintableText

ClassName = Annotated[PrintableText, StringConstraints(min_length=1, max_length=100)]
FeatureName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")]
UnitCode = Annotated[PrintableText, StringConstraints(min_length=1, max_length=40)]
Bases = Annotated[str, StringConstraints(pattern=r"^[ACGT]{1,50}$")]
Positive = Annotated[float, Field(gt=0)]


class HeldOutSettings(Settings):
    """Which units are kept out of training."""

    held_out: float = Field(ge=0, lt=0.9, description="share of units kept out of training, chosen by HMAC of the unit")
    held_out_salt: PrintableText = Field(min_length=1, max_length=100, description="key of that HMAC; public")


class ClassSettings(HeldOutSettings):
    """Data that belong to classes."""

    classes: tuple[ClassName, ...] = Field(
        min_length=2, max_length=1000, description="class names in the order of the model's outputs"
    )

    @model_validator(mode="after")
    def _distinct_classes(self) -> Self:
        _refuse_twice("classes", self.classes, "class")
        return self


class ImageData(ClassSettings):
    """Images, each of one class."""

    kind: Literal["image-folder"] = Field(description="images in class folders or listed by index.csv")
    unreadable_images: Literal["skip", "refuse"] = Field(description="what a site does with an image it cannot decode")


class OtherUnit(Settings):
    """How a number in another unit becomes one in the feature's own: value * factor + offset."""

    unit: UnitCode = Field(description="as UCUM writes it")
    factor: float = Field(description="how many of the feature's own unit are one of this")
    offset: float = Field(default=0.0, description="added after the factor, in the feature's own unit")

    @model_validator(mode="after")
    def _no_zero(self) -> Self:
        if self.factor == 0:
            raise PlanError("factor: seen 0; any other number is allowed")
        return self


class NumberFeature(Settings):
    """A number with a public range; one outside of it counts as the range's end."""

    kind: Literal["number"] = Field(description="a number in a declared unit")
    name: FeatureName = Field(description="what mappings call it")
    unit: UnitCode = Field(description="its unit as UCUM writes it (mg/dL, mm[Hg], a, 1)")
    low: float = Field(description="public lower end of its range; never taken from data")
    high: float = Field(description="public upper end of its range")
    other_units: tuple[OtherUnit, ...] = Field(
        default=(), max_length=20, description="units that sites may hold it in, and how they are converted"
    )
    missing: Literal["flag", "leave-out"] = Field(
        description="flag: one more input says that it is missing; leave-out: such a row is not used"
    )

    @model_validator(mode="after")
    def _a_range(self) -> Self:
        if not self.low < self.high:
            raise PlanError(f"{self.name}: seen low {self.low:g} and high {self.high:g}; low must be less")
        if not math.isfinite(self.high - self.low):
            raise PlanError(f"{self.name}: the range from {self.low:g} to {self.high:g} is too wide; narrow it")
        _refuse_twice(f"{self.name}: other_units", (self.unit, *(other.unit for other in self.other_units)), "unit")
        return self

    @property
    def inputs(self) -> int:
        """How many numbers of a model's input it makes."""
        return 2 if self.missing == "flag" else 1


class CategoryFeature(Settings):
    """One of some words."""

    kind: Literal["category"] = Field(description="one of declared values")
    name: FeatureName = Field(description="what mappings call it")
    values: tuple[ClassName, ...] = Field(min_length=2, max_length=200, description="all values that it may have")
    missing: Literal["flag", "leave-out"] = Field(
        description="flag: one more input says that it is missing; leave-out: such a row is not used"
    )

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        _refuse_twice(f"{self.name}: values", self.values, "value")
        return self

    @property
    def inputs(self) -> int:
        """How many numbers of a model's input it makes."""
        return len(self.values) + (1 if self.missing == "flag" else 0)


Feature = Annotated[NumberFeature | CategoryFeature, Field(discriminator="kind")]


class FeatureSettings(Settings):
    """The columns of a table, in the order of the model's inputs."""

    features: tuple[Feature, ...] = Field(min_length=1, max_length=5000, description="what is known of each patient")

    @model_validator(mode="after")
    def _distinct_features(self) -> Self:
        _refuse_twice("features", (feature.name for feature in self.features), "feature")
        return self

    @property
    def names(self) -> frozenset[str]:
        """What the values of a row go by."""
        return frozenset(feature.name for feature in self.features)

    @property
    def inputs(self) -> int:
        """Length of a row: the features' inputs and a constant one."""
        return sum(feature.inputs for feature in self.features) + 1


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
        _refuse_twice("other_time_units", (self.time_unit, *(each.unit for each in self.other_time_units)), "unit")
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


class GenotypeData(ClassSettings):
    """Copies of the alternate allele at declared variants, for people who each belong to one class."""

    kind: Literal["genotypes"] = Field(description="allele counts at declared variants")
    assembly: Literal["GRCh37", "GRCh38"] = Field(description="the reference that positions count in")
    variants: tuple[Variant, ...] = Field(min_length=1, max_length=5000, description="in the order of the inputs")

    @model_validator(mode="after")
    def _distinct_variants(self) -> Self:
        _refuse_twice("variants", (variant.id for variant in self.variants), "variant")
        return self

    @property
    def names(self) -> frozenset[str]:
        """What the values of a row go by."""
        return frozenset(variant.id for variant in self.variants)

    @property
    def inputs(self) -> int:
        """Length of a row: one number for each variant and a constant one."""
        return len(self.variants) + 1


DataSettings = ImageData | TableData | SurvivalData | GenotypeData
RowData = TableData | SurvivalData | GenotypeData


def in_unit(value: float, unit: str, *, own: str, others: tuple[OtherUnit, ...]) -> float:
    """Convert a number to the plan's unit.

    Args:
        value: In `unit`.
        unit: As the mapping or the data name it.
        own: The plan's unit.
        others: The units that may be converted.

    Raises:
        PlanError: If the plan does not say how that unit is converted.
    """
    if unit == own:
        return value
    for other in others:
        if other.unit == unit:
            return value * other.factor + other.offset
    known = ", ".join((own, *(other.unit for other in others)))
    raise PlanError(f"unit: seen '{unit}'; the plan knows {known}; hold the numbers in one of them, or change the plan")


def row_constant(data: RowData) -> float:
    """The constant behind a row's inputs, before `row_scale`: 1 for tables, more for genotypes.

    Most variants are far from half and half, so their counts lie to one side of 0, and a model takes that back by the
    constant. With as many variants as a panel has, a constant of 1 is too small for it: on the 127 of
    configs/plans/ancestry.yaml it costs .02 of accuracy. A quarter of what all variants may add to the norm's square
    was best of 1, 8, 32, 64 and 127, with much noise and with none.
    """
    return math.sqrt(max(1.0, len(data.variants) / 4)) if isinstance(data, GenotypeData) else 1.0


def row_scale(data: RowData) -> float:
    """The public factor that brings every possible row to L2 norm 1 at most.

    Each feature adds at most 1 to the square of a row's norm, and the constant its own square.
    """
    count = len(data.variants) if isinstance(data, GenotypeData) else len(data.features)
    return 1.0 / math.sqrt(count + row_constant(data) ** 2)


def _refuse_twice(key: str, names: Iterable[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise PlanError(f"{key}: seen '{name}' twice; every {what} stands once; remove one")
        seen.add(name)
