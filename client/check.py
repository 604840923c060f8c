"""A site's data as a run will see them: counts, what was left out and why, conversions, and pictures of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from client.data import ImageTable, check_decodable, held_out
from client.data.left_out import left_out_in_words
from client.data.missing_values import missing_in_words
from client.data.source import DataPlace, read_data
from client.data.table import SiteTable
from common.plan import Plan
from common.plan_data import ImageData, SurvivalData
from common.plural import counted
from common.printable import printable


@dataclass(frozen=True, slots=True)
class ClassCount:
    """One class at this site."""

    name: str
    records: int
    training: int
    held_out: int


@dataclass(frozen=True, slots=True)
class SiteCheck:
    """What was found; holds no patient's value, but for `table`.

    Attributes:
        unit: What differential privacy protects: patient, lesion, image or record.
        patients_by: The column that says who is a patient; empty where there is none.
        records: Images or rows that count.
        classes: One per class of the plan; of survival data: events, and censored times.
        left_out: How many records were left out, by reason, in words.
        converted: How many numbers were converted, by feature and unit.
        missing: How many values are missing, by feature, in words.
        clipped: How many numbers lie outside of the plan's range, by feature.
        warnings: Sentences.
        table: The records themselves.
    """

    unit: str
    patients_by: str
    records: int
    classes: tuple[ClassCount, ...]
    left_out: tuple[str, ...]
    converted: Mapping[str, int]
    missing: tuple[str, ...]
    clipped: Mapping[str, int]
    warnings: tuple[str, ...]
    table: SiteTable = field(repr=False)

    @property
    def training(self) -> int:
        """Units to train on."""
        return sum(each.training for each in self.classes)

    @property
    def held_out(self) -> int:
        """Units kept for evaluation."""
        return sum(each.held_out for each in self.classes)

    def lines(self) -> tuple[str, ...]:
        """The findings for a terminal."""
        by = f" by '{self.patients_by}'" if self.patients_by else ""
        units = counted(self.training + self.held_out, self.unit)
        lines = [f"{counted(self.records, 'record')} of {units}{by}"]
        lines += [
            f"  {each.name}: {counted(each.records, 'record')}, {_units(each, self.unit)}" for each in self.classes
        ]
        lines += [f"left out: {sentence}" for sentence in self.left_out]
        lines += [f"missing: {sentence}" for sentence in self.missing]
        lines += [f"converted: {count} of {what}" for what, count in sorted(self.converted.items())]
        lines += [f"warning: {sentence}" for sentence in self.warnings]
        # Names of files and columns stand in them.
        return tuple(printable(line) for line in lines)


def check_site(place: DataPlace, plan: Plan) -> SiteCheck:
    """Read a site's data by a plan's rules, all of it: images are decoded as well.

    Raises:
        ConfigError, DataError: As a start of the site would, see `client.data.source.read_data`.
    """
    table = read_data(place, plan.data, unit=plan.privacy.unit)
    if isinstance(table, ImageTable) and isinstance(plan.data, ImageData):
        table = check_decodable(table, on_undecodable=plan.data.unreadable_images)
    names = ("censored", "event") if isinstance(plan.data, SurvivalData) else table.classes
    data = plan.data
    aside = {unit: held_out(unit, salt=data.held_out_salt, fraction=data.held_out) for unit in table.unit_labels()}
    records = Counter(record.label_index for record in table.records)
    units = Counter((label, aside[unit]) for unit, label in table.unit_labels().items())
    counts = tuple(
        ClassCount(name, records[k], training=units[k, False], held_out=units[k, True]) for k, name in enumerate(names)
    )
    absent = [each.name for each in counts if not each.records]
    missing = (f"no record of: {', '.join(absent)}; other hospitals may have some",) if absent else ()
    return SiteCheck(
        unit=table.unit_name,
        patients_by=table.patient_column or "",
        records=len(table.records),
        classes=counts,
        left_out=tuple(left_out_in_words(table.left_out)),
        converted=table.converted,
        missing=() if isinstance(data, ImageData) else tuple(missing_in_words(table.missing, data)),
        clipped=table.clipped,
        warnings=(*table.warnings, *missing),
        table=table,
    )


def _units(count: ClassCount, unit: str) -> str:
    return (
        f"{counted(count.training + count.held_out, unit)}, {count.training} to train on and {count.held_out} held out"
    )
