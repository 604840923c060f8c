"""Mode `distributed`: which plans are sound in it, and the public grid of a plan of either mode.

Each hospital uploads the sum of its units' clipped gradients and a share of the noise. Only sums are ever unmasked, so
the noise that counts is what the honest hospitals of a sum have added: at least `honest_shares` equal shares.
docs/privacy.md has the argument.
"""

from __future__ import annotations

import math

from common.ckks_parameters import PRESETS
from common.errors import PlanError
from common.grid import Grid, plan_grid
from common.plan_content import PlanContent
from common.plan_models import has_features
from common.plan_settings import CohortSettings

FEWEST_SHARES = 2
# The grid's step, in units of the clip: the noise's accounting allows for 2^-20, the sensitivity's rounding for 0.001.
COARSEST_STEP = 2.0**-20
COARSEST_ROUNDING = 1.0e-3


def honest_shares(hospitals: int, *, threshold: int, min_cohort: int, assumed_colluders: int) -> int:
    """Fewest honest hospitals whose noise is in a sum that is unmasked: m.

    Of `min_cohort` contributors c may be colluders. A coordinator that shows different survivors to different hospitals
    can make a sum of fewer honest ones: each honest hospital that reveals for a set stands in it, and t - c must.

    Args:
        hospitals: n, the length of the roster.
        threshold: t, how many must reveal to unmask a sum.
        min_cohort: Fewest contributors of a sum.
        assumed_colluders: c.

    Returns:
        min(min_cohort - c, h - floor(h (n - min_cohort) / (t - c))) with h = n - c; may be less than two.
    """
    honest = hospitals - assumed_colluders
    lost = honest * (hospitals - min_cohort) // (threshold - assumed_colluders)
    return min(min_cohort - assumed_colluders, honest - lost)


def shares_of(plan: PlanContent) -> int:
    """How many equal shares of the honest hospitals make up a step's noise: m in mode `distributed`, else 1.

    Raises:
        PlanError: If the plan is still a template.
    """
    if plan.privacy.mode == "local":
        return 1
    return honest_shares(
        len(plan.roster),
        threshold=plan.threshold,
        min_cohort=plan.min_cohort,
        assumed_colluders=plan.cohort.assumed_colluders,
    )


def grid_of(plan: PlanContent) -> Grid:
    """The public grid of an agreed plan.

    Raises:
        PlanError: If the plan is still a template, or the modulus has no room for its updates.
    """
    sizes = [hospital.declared_units for hospital in plan.roster]
    return plan_grid(
        PRESETS[plan.encryption.preset],
        sizes,
        update_norm_bound=plan.update_norm_bound,
        slot_sum_max=plan.slot_sum_max,
        weighted=plan.privacy.mode == "local",
    )


def check_mode(plan: PlanContent) -> None:
    """Refuse a plan whose parts do not go together in its mode.

    Raises:
        PlanError: For a mean of features without features; in mode `distributed` for several local steps, local
            momentum, the preset `compact`, or, with a roster, a budget of a hospital's own, fewer than two honest
            shares, or a grid that is too coarse.
    """
    if plan.privacy.mean_share and not has_features(plan.model):
        raise PlanError(
            f"privacy.mean_share: seen {plan.privacy.mean_share:g} with model {plan.model.kind}; only 0 is allowed "
            "there: it has no features whose mean could be taken off"
        )
    if plan.privacy.mode == "local":
        return
    training = plan.training
    if training.local_steps != 1 or training.momentum != 0:
        raise PlanError(
            f"training: seen local_steps {training.local_steps} and momentum {training.momentum:g} with privacy.mode "
            "'distributed'; only local_steps 1 and momentum 0 are allowed there: a second step would rest on a first "
            "one that has a share of the noise only; raise rounds, put momentum into server_optimiser"
        )
    if plan.encryption.preset != "precise":
        raise PlanError(
            f"encryption.preset: seen '{plan.encryption.preset}' with privacy.mode 'distributed'; only 'precise' is "
            "allowed there: the noise is drawn on the grid of the encryption, and a coarse one would add to it"
        )
    if plan.federation is not None:
        _check_roster(plan)


def _check_roster(plan: PlanContent) -> None:
    for hospital in plan.roster:
        if hospital.epsilon is not None or hospital.delta is not None:
            raise PlanError(
                f"federation.hospitals: seen an own budget of {hospital.name} with privacy.mode 'distributed'; none is "
                "allowed there: all hospitals share one noise; remove it, or take mode 'local'"
            )
    _check_shares(plan.cohort, len(plan.roster), shares_of(plan))
    step, clip = grid_of(plan).step, plan.privacy.clip
    rounding = math.sqrt(plan.agreed.trainable_parameters) * step
    if step > COARSEST_STEP * clip or rounding > COARSEST_ROUNDING * clip:
        raise PlanError(
            f"encryption.update_norm_bound: seen {plan.update_norm_bound:g}, which makes a grid of step {step:.3g} for "
            f"clip {clip:g} and {plan.agreed.trainable_parameters} parameters; with privacy.mode 'distributed' a step "
            f"of at most {min(COARSEST_STEP, COARSEST_ROUNDING * step / rounding) * clip:.3g} is allowed; lower the "
            "bound, or take mode 'local'"
        )


def _check_shares(cohort: CohortSettings, hospitals: int, shares: int) -> None:
    if shares < FEWEST_SHARES:
        raise PlanError(
            f"cohort: seen min_cohort {cohort.min_cohort}, threshold {cohort.threshold} and assumed_colluders "
            f"{cohort.assumed_colluders} for {hospitals} hospitals with privacy.mode 'distributed'; a sum could hold "
            f"the noise of {max(shares, 0)} honest hospital(s), at least {FEWEST_SHARES} are needed; raise min_cohort, "
            "or take mode 'local'"
        )
