"""What a hospital declares of its data before a plan is agreed: how many units it trains on."""

from __future__ import annotations

from pathlib import Path

from client.data import held_out, load_table
from common.errors import DataError
from common.plan import Plan


def count_units(data: Path, template: Plan) -> int:
    """Training units of one data folder under the plan: what its hospital declares, and its weight.

    Raises:
        DataError: If the folder is wrong, or nothing is left to train on.
    """
    table = load_table(
        data, template.data.classes, on_undecodable=template.data.unreadable_images, unit=template.privacy.unit
    )
    settings = template.data
    units = table.unit_labels()
    kept = [u for u in units if not held_out(u, salt=settings.held_out_salt, fraction=settings.held_out)]
    if not kept:
        raise DataError(f"{data}: no unit is left to train on; the folder needs more images")
    return len(kept)
