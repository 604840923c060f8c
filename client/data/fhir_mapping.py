"""What a mapping file of form `fhir` holds: where the plan's features, labels and times stand in a site's resources."""

from __future__ import annotations

import datetime as dt
import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from common.config import Settings
from common.errors import ConfigError
from common.plan_features import ClassName, FeatureName, UnitCode
from common.printable import PrintableText, printable

_CODE = re.compile(r"[^|\s]{1,200}\|[^|\s]{1,100}")


def _check_code(text: str) -> str:
    if not _CODE.fullmatch(text):
        raise ConfigError(f"seen '{printable(text)}'; a code is written as `system|code`, without spaces")
    return text


Code = Annotated[PrintableText, AfterValidator(_check_code)]
Codes = Annotated[tuple[Code, ...], Field(min_length=1, max_length=1000)]
ResourceType = Literal[
    "Condition",
    "Encounter",
    "Immunization",
    "MedicationAdministration",
    "MedicationRequest",
    "MedicationStatement",
    "Observation",
    "Procedure",
]
DayNumber = Annotated[int, Field(ge=-50_000, le=50_000)]


class FromSettings(Settings):
    """Settings with a key `from`, which Python cannot name."""

    model_config = ConfigDict(serialize_by_alias=True)


class IndexDate(Settings):
    """The day that a patient's features are known at; nothing later counts as a feature."""

    date: dt.date | None = Field(default=None, description="one day for all patients")
    resource: ResourceType | None = Field(default=None, description="or the day of such a resource of the patient")
    codes: tuple[Code, ...] = Field(default=(), max_length=1000, description="with one of these codes; none: any")
    take: Literal["first", "last"] | None = Field(default=None, description="which of them")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.date is None) == (self.resource is None):
            raise ConfigError("seen both or none of date and resource; write one of them")
        if (self.resource is None) != (self.take is None) or (self.date is not None and self.codes):
            raise ConfigError("'take' (first or last) is written with resource, and neither it nor codes with date")
        return self


class BirthDate(FromSettings):
    """Age at the index date, in completed units."""

    source: Literal["birthDate"] = Field(alias="from", description="Patient.birthDate")


class Gender(FromSettings):
    """Administrative gender."""

    source: Literal["gender"] = Field(alias="from", description="Patient.gender")
    values: dict[Literal["male", "female", "other", "unknown"], ClassName] = Field(
        min_length=1, description="the plan's value for each; one that is not named is missing"
    )


class CodedFeature(FromSettings):
    """What resources with certain codes say in a window that ends with the index date."""

    source: ResourceType = Field(alias="from", description="type of resource")
    codes: Codes = Field(description="`system|code`; any of them")
    component: tuple[Code, ...] = Field(
        default=(), max_length=1000, description="for an Observation of several values: codes of the one that counts"
    )
    take: Literal["last", "first", "mean", "max", "min", "count", "present"] = Field(
        description="which value counts; count and present (1 or 0) need none"
    )
    window_days: int | None = Field(
        default=None, ge=0, le=50_000, description="days before the index date that count, with it; none: all before"
    )
    unit: UnitCode | None = Field(default=None, description="unit of quantities that name none")
    values: dict[str, ClassName] | None = Field(
        default=None,
        description="for a category: the plan's value for each code (`system|code`), text, `true` or `false`; "
        "with take: present, for `present` and `absent`",
    )


class AbsentFeature(FromSettings):
    """A feature that this site does not have."""

    source: Literal["absent"] = Field(alias="from", description="missing for every patient")


MappedFeature = Annotated[AbsentFeature | BirthDate | Gender | CodedFeature, Field(discriminator="source")]


class _Window(FromSettings):
    codes: Codes = Field(description="`system|code`; any of them")
    first_day: DayNumber = Field(description="first day that counts, from the index date (1: the day after)")
    last_day: DayNumber = Field(description="last day that counts, from the index date")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.first_day > self.last_day:
            raise ConfigError(f"first_day {self.first_day} is later than last_day {self.last_day}; swap them")
        return self


class PresentLabel(_Window):
    """One class for those who have such a resource in the window, another for the rest."""

    take: Literal["present"] = Field(description="whether there is one")
    source: ResourceType = Field(alias="from", description="type of resource")
    present: ClassName = Field(description="class of those who have one")
    absent: ClassName = Field(description="class of the rest")
    not_followed: Literal["absent", "leave-out"] = Field(
        description="the rest whose last contact was before the window's end: `absent`, or not used"
    )


class ValueLabel(_Window):
    """The class that an Observation's coded value says."""

    take: Literal["first", "last"] = Field(description="which Observation of the window counts")
    source: Literal["Observation"] = Field(alias="from", description="type of resource")
    component: tuple[Code, ...] = Field(default=(), max_length=1000, description="see features")
    values: dict[str, ClassName] = Field(
        min_length=1, description="the class for each code (`system|code`), text, `true` or `false`"
    )


Label = Annotated[PresentLabel | ValueLabel, Field(discriminator="take")]


class Event(FromSettings):
    """What ends the time of a survival plan."""

    source: ResourceType | Literal["death"] = Field(alias="from", description="type of resource, or `death`")
    codes: tuple[Code, ...] = Field(default=(), max_length=1000, description="any of them; none with death")

    @model_validator(mode="after")
    def _codes_but_for_death(self) -> Self:
        if (self.source == "death") == bool(self.codes):
            raise ConfigError("codes are written for every event but death, which has none")
        return self


class FhirMapping(Settings):
    """How a site's FHIR resources say what the plan asks for."""

    form: Literal["fhir"] = Field(description="bundles or NDJSON of FHIR R4")
    index_date: IndexDate = Field(description="the day that features are known at")
    features: dict[FeatureName, MappedFeature] = Field(description="by the plan's name")
    label: Label | None = Field(default=None, description="for a plan on a table of classes")
    event: Event | None = Field(default=None, description="for a plan on survival data")
    contacts: tuple[ResourceType, ...] = Field(
        default=("Encounter",), min_length=1, description="resources whose date says that the patient was seen then"
    )
