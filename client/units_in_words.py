"""What a plan protects at a hospital, and how many of them it has, in words."""

from __future__ import annotations

from client.declare import SiteUnits
from common.plan import Plan


def units_in_words(plan: Plan, hospital: str, units: SiteUnits | None) -> tuple[str, str]:
    """What a unit is, and how many there are here.

    Args:
        plan: The agreed plan.
        hospital: This hospital.
        units: What its own data holds; None where nobody could look.
    """
    declared = plan.roster[plan.agreed.position(hospital)].declared_units
    count = (
        f"This site declared {declared} units to train on; its data was not counted."
        if units is None
        else f"This site's data has {units.training} units to train on (declared: {declared}), and {units.held_out} "
        "held out."
    )
    return f"Unit of privacy: {_unit(plan, units)}", count


def _unit(plan: Plan, units: SiteUnits | None) -> str:
    if plan.privacy.unit == "record":
        return "image: each counts by itself (the plan's unit is 'record'); not a lesion, and not a person."
    if units is None:
        return (
            "a patient where this site's index.csv has a column of them (patient_column of the site file; auto: "
            "patient_id), of whom all images count as one; else a lesion where it has a lesion_id, else an image, and "
            "then not a person."
        )
    if units.kind == "image":
        return "image: this site's index.csv names no lesions, so each counts by itself; not a person."
    if units.kind == "patient" and units.patient_column is None:
        return "patient: all images of one count as one, by the DICOM tag PatientID."
    if units.kind == "patient":
        return f"patient: all images of one count as one, by the column '{units.patient_column}' of index.csv."
    single = units.training + units.held_out - units.named
    rest = f" {single} units are without a lesion_id: an image each." if single else ""
    return f"lesion: all images of a lesion count as one; not a person, who may have several.{rest}"
