"""Whether the encryption has room for what an agreed plan's hospitals will upload; asked before any data is read."""

from __future__ import annotations

from client.noise_multipliers import noise_multipliers, planned_events
from client.shared_noise import noise_share
from common.errors import PlanError
from common.grid import grid_of
from common.plan import Plan

# A share's standard deviation in grid steps: below it a sum of shares is no discrete Gaussian to 1e-60.
LEAST_SHARE_STEPS = 4.0


def check_room(plan: Plan) -> None:
    """Refuse a plan whose modulus has no room for the updates, or in mode `distributed` for the noise of some round.

    Raises:
        PlanError: If preset and roster do not fit, no noise fits the budget, or in mode `distributed`
            `encryption.update_norm_bound` is too small for the noise or the grid too coarse for it.
    """
    grid_of(plan)
    if plan.privacy.mode == "local":
        return
    # No hospital has a budget of its own in this mode.
    events = planned_events(plan, noise_multipliers(plan, plan.roster[0])).items()
    shares = [(noise_share(plan, hospital, kind), event.sigma) for kind, event in events for hospital in plan.roster]
    needed = max(share.bound(sigma) for share, sigma in shares)
    if plan.update_norm_bound < needed:
        raise PlanError(
            f"encryption.update_norm_bound: seen {plan.update_norm_bound:g} with privacy.mode 'distributed'; at least "
            f"{needed:.4g} is allowed, since nothing may be cut off after the noise; raise it, or provision with 'auto'"
        )
    deviation = min(share.deviation(sigma) for share, sigma in shares)
    if deviation < LEAST_SHARE_STEPS:
        raise PlanError(
            f"privacy.mode: seen 'distributed' with a noise of {deviation:.2g} grid steps per hospital; at least "
            f"{LEAST_SHARE_STEPS:g} are allowed; lower privacy.epsilon or encryption.update_norm_bound"
        )
