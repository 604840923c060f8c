"""Whether a mapping of form `fhir` fits the plan: every mistake is found before any patient is read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from client.data.fhir_dates import DAYS_OF_UNIT, days_in
from client.data.fhir_mapping import AbsentFeature, BirthDate, CodedFeature, FhirMapping, Gender, PresentLabel
from common.errors import ConfigError
from common.plan_data import SurvivalData, TableData
from common.plan_features import CategoryFeature, Feature, NumberFeature


def check_fit(mapping: FhirMapping, data: TableData | SurvivalData) -> None:
    """Compare a mapping with the plan.

    Raises:
        ConfigError: One sentence on the first thing that does not fit.
    """
    names = [feature.name for feature in data.features]
    for name in mapping.features:
        if name not in names:
            raise ConfigError(f"mapping: features.{name}: the plan has no such feature; it has {', '.join(names)}")
    for feature in data.features:
        mapped = mapping.features.get(feature.name)
        if mapped is None:
            raise ConfigError(
                f"mapping: key 'features.{feature.name}' is missing; say where it stands, or write {{from: absent}}"
            )
        if isinstance(mapped, AbsentFeature):
            _need(
                feature.missing == "flag",
                f"mapping: features.{feature.name}: seen `from: absent`; the plan uses nobody without this feature; "
                "say where it stands, or agree on a plan with `missing: flag`",
            )
        else:
            _check_feature(mapped, feature)
    if isinstance(data, SurvivalData):
        _need(
            mapping.label is None, "mapping: label: seen one with a plan on survival data; remove it, and write event"
        )
        days_in(data.time_unit, 0.0, data.other_time_units)
    else:
        _need(mapping.event is None, "mapping: event: seen one with a plan on a table; remove it, and write label")
        _check_label(mapping, data)


def _check_label(mapping: FhirMapping, data: TableData) -> None:
    label = mapping.label
    if label is None:
        return
    if isinstance(label, PresentLabel):
        _need(
            label.present != label.absent, f"mapping: label: present and absent are both '{label.present}'; correct one"
        )
        _known("mapping: label", (label.present, label.absent), data.classes)
    else:
        _known("mapping: label.values", label.values.values(), data.classes)


def _check_feature(mapped: BirthDate | Gender | CodedFeature, feature: Feature) -> None:
    key = f"mapping: features.{feature.name}"
    if isinstance(feature, NumberFeature):
        _check_number(key, mapped, feature)
    else:
        _check_category(key, mapped, feature)


def _check_number(key: str, mapped: BirthDate | Gender | CodedFeature, feature: NumberFeature) -> None:
    if isinstance(mapped, BirthDate):
        _need(
            feature.unit in DAYS_OF_UNIT,
            f"{key}: the plan's unit is '{feature.unit}'; an age can be had in {', '.join(DAYS_OF_UNIT)}",
        )
        return
    if isinstance(mapped, Gender) or mapped.values is not None:
        raise ConfigError(f"{key}: seen values for words, and the plan wants a number; map it to a quantity")
    if mapped.take in ("present", "count"):
        _need(feature.unit == "1", f"{key}.take: '{mapped.take}' has the unit 1, the plan's is '{feature.unit}'")
    else:
        _only_observations(key, mapped)


def _check_category(key: str, mapped: BirthDate | Gender | CodedFeature, feature: CategoryFeature) -> None:
    if isinstance(mapped, BirthDate):
        raise ConfigError(f"{key}: seen birthDate, and the plan wants one of {', '.join(feature.values)}; map another")
    if isinstance(mapped, CodedFeature) and mapped.take not in ("first", "last", "present"):
        raise ConfigError(f"{key}.take: seen '{mapped.take}'; for a category first, last and present are allowed")
    if mapped.values is None:
        raise ConfigError(f"{key}.values: seen none; say which of {', '.join(feature.values)} each code stands for")
    _known(f"{key}.values", mapped.values.values(), feature.values)
    if isinstance(mapped, CodedFeature) and mapped.take == "present":
        _need(
            mapped.values.keys() == {"present", "absent"},
            f"{key}.values: with take: present the keys `present` and `absent` are allowed, and both are needed",
        )
    elif isinstance(mapped, CodedFeature):
        _only_observations(key, mapped)


def _only_observations(key: str, mapped: CodedFeature) -> None:
    _need(
        mapped.source == "Observation",
        f"{key}.take: seen '{mapped.take}' with {mapped.source}, which has no value; present and count are allowed",
    )


def _known(key: str, seen: Iterable[str], allowed: Sequence[str]) -> None:
    for word in seen:
        _need(word in allowed, f"{key}: seen '{word}'; the plan knows {', '.join(allowed)}; correct it")


def _need(holds: bool, otherwise: str) -> None:  # noqa: FBT001 -- reads as a sentence
    if not holds:
        raise ConfigError(otherwise)
