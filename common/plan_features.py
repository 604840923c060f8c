"""What plans declare of classes and features: names, units, public ranges, what to do where something is missing."""

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
        refuse_twice("classes", self.classes, "class")
        return self


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
        refuse_no_range(self.name, self.low, self.high)
        refuse_twice(f"{self.name}: other_units", (self.unit, *(other.unit for other in self.other_units)), "unit")
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
        refuse_twice(f"{self.name}: values", self.values, "value")
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
        refuse_twice("features", (feature.name for feature in self.features), "feature")
        return self

    @property
    def names(self) -> frozenset[str]:
        """What the values of a row go by."""
        return frozenset(feature.name for feature in self.features)

    @property
    def inputs(self) -> int:
        """Length of a row: the features' inputs and a constant one."""
        return sum(feature.inputs for feature in self.features) + 1


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


def refuse_no_range(name: str, low: float, high: float) -> None:
    """Refuse two ends that are no range.

    Raises:
        PlanError: Names what the range is of.
    """
    if not low < high:
        raise PlanError(f"{name}: seen low {low:g} and high {high:g}; low must be less")
    if not math.isfinite(high - low):
        raise PlanError(f"{name}: the range from {low:g} to {high:g} is too wide; narrow it")


def refuse_twice(key: str, names: Iterable[str], what: str) -> None:
    """Refuse a list in which a name stands twice.

    Raises:
        PlanError: Names the key and what stands twice.
    """
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise PlanError(f"{key}: seen '{name}' twice; every {what} stands once; remove one")
        seen.add(name)
