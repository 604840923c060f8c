"""What this hospital lets out beside its update: counts on held-out units, by its own policy."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from common.messages import Kind
from common.plan import Plan
from common.site_config import SitePrivacy

log = logging.getLogger(__name__)


def counts_leave(policy: SitePrivacy, kind: Kind) -> bool:
    """Whether exact or noisy counts may fill the metric slots of an upload of this kind."""
    return policy.metrics == "aggregate" or (policy.metrics == "final-dp" and kind == "eval")


def fit_slots(counts: NDArray[np.int64], *, plan: Plan, hospital: str) -> NDArray[np.int64]:
    """The counts as metric slots, or zeros where they pass this hospital's share of the headroom.

    Sums that wrap are silent, so a site never sends more than the plan reserved for it.

    Args:
        counts: Confusion counts, exact or noisy, int64, any shape.
        plan: The agreed plan.
        hospital: This site's name in the roster.
    """
    member = plan.roster[plan.agreed.position(hospital)]
    flat = counts.reshape(-1)
    allowed = plan.slot_share(member)
    if int(np.abs(flat).sum()) <= allowed:
        return flat
    log.warning("held-out counts pass the %d that the plan reserves for this hospital; sending none", allowed)
    return np.zeros_like(flat)
