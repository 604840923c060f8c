"""What a hospital declares of its data before a plan is agreed: how many units it trains on, and what a unit is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from client.data import held_out
from client.data.source import DataPlace, read_data, unit_naming
from client.data.table import UnitName
from common.canonical import canonical_bytes, sha256_hex
from common.errors import DataError
from common.plan import Plan


@dataclass(frozen=True, slots=True)
class SiteUnits:
    """The privacy units of one data folder under a plan.

    Attributes:
        kind: `patient` where index.csv has a column of patients, `lesion` where it names lesions, else `image`.
        training: How many are trained on, >= 1.
        held_out: How many are kept for evaluation.
        named: How many of all are patients or lesions; each other one is a single image, or the images of one ISIC id.
        patient_column: The column of patients; None where the unit is no patient.
    """

    kind: UnitName
    training: int
    held_out: int
    named: int
    patient_column: str | None


def site_units(place: DataPlace, plan: Plan) -> SiteUnits:
    """Count the units of one data folder by the plan's rules; images are hashed, but not decoded.

    Args:
        place: Where they lie.
        plan: The plan, or its template.

    Raises:
        ConfigError: If the mapping is wrong.
        DataError: If the folder is wrong, or nothing is left to train on.
    """
    settings = plan.data
    table = read_data(place, settings, unit=plan.privacy.unit)
    units = table.unit_labels()
    aside = sum(held_out(u, salt=settings.held_out_salt, fraction=settings.held_out) for u in units)
    if aside == len(units):
        raise DataError(f"{place.path}: no unit is left to train on; the folder needs more images")
    named = sum(unit.startswith(("patient:", "lesion:")) for unit in units)
    return SiteUnits(table.unit_name, len(units) - aside, aside, named, table.patient_column)


def count_units(place: DataPlace, template: Plan) -> int:
    """Training units of one data folder under the plan: what its hospital declares, and its weight.

    Raises:
        DataError: If the folder is wrong, or nothing is left to train on.
    """
    return site_units(place, template).training


def site_held_out_rule(place: DataPlace, plan: Plan) -> str:
    """The `held_out_rule` of a site's data, without a look at pixels or rows.

    Raises:
        ConfigError: If the mapping is missing or wrong.
        DataError: If the folder or its index.csv is wrong.
        OSError: If it cannot be read.
    """
    naming = unit_naming(place, plan.data, unit=plan.privacy.unit)
    return held_out_rule(plan, naming.column, naming=naming.others)


def held_out_rule(
    plan: Plan, patient_column: str | None, *, naming: Mapping[str, str] = MappingProxyType[str, str]({})
) -> str:
    """Digest of all that decides whether a unit of this site is held out, hex: the plan's rule, and what a unit is.

    Another column gives the same images other unit ids, and other features the same rows, so that some change sides:
    the ledger must then let both accounts pay for everything, as after a change of the plan's rule.

    Args:
        plan: The plan.
        patient_column: The column that was used; None where none was.
        naming: What else names units (`client.data.source.unit_naming`). Empty, and without a column, it leaves
            the plan's rule as it is.
    """
    if patient_column is None and not naming:
        return plan.held_out_rule
    rule = {"plan": plan.held_out_rule, "patient_column": patient_column, **naming}
    return sha256_hex(b"fedward/held-out-patients/1", canonical_bytes(rule))
