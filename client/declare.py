"""What a hospital declares of its data before a plan is agreed: how many units it trains on, and what a unit is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from client.data import held_out, load_table
from client.data.table import UnitName
from common.errors import DataError
from common.plan import Plan


@dataclass(frozen=True, slots=True)
class SiteUnits:
    """The privacy units of one data folder under a plan.

    Attributes:
        kind: `lesion` where index.csv names lesions, else `image`.
        training: How many are trained on, >= 1.
        held_out: How many are kept for evaluation.
        lesions: How many of all are lesions; each other one is a single image, or the images of one ISIC id.
    """

    kind: UnitName
    training: int
    held_out: int
    lesions: int


def site_units(data: Path, plan: Plan) -> SiteUnits:
    """Count the units of one data folder by the plan's rules; images are hashed, but not decoded.

    Raises:
        DataError: If the folder is wrong, or nothing is left to train on.
    """
    settings = plan.data
    table = load_table(data, settings.classes, on_undecodable=settings.unreadable_images, unit=plan.privacy.unit)
    units = table.unit_labels()
    aside = sum(held_out(u, salt=settings.held_out_salt, fraction=settings.held_out) for u in units)
    if aside == len(units):
        raise DataError(f"{data}: no unit is left to train on; the folder needs more images")
    lesions = sum(unit.startswith("lesion:") for unit in units)
    return SiteUnits(table.unit_name, len(units) - aside, aside, lesions)


def count_units(data: Path, template: Plan) -> int:
    """Training units of one data folder under the plan: what its hospital declares, and its weight.

    Raises:
        DataError: If the folder is wrong, or nothing is left to train on.
    """
    return site_units(data, template).training
