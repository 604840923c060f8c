"""Mode `distributed`: which plans are sound in it, and how many shares make up the noise of a sum.

Each hospital uploads the sum of its units' clipped gradients and a share of the noise. Only sums are ever unmasked, so
the noise that counts is what the honest hospitals of a sum have added: at least `honest_shares` equal shares.
docs/privacy.md has the argument.
"""

from __future__ import annotations

import math

from common.errors import PlanError
from common.grid import grid_of
from common.plan_content import PlanContent

# The grid's step, in units of the clip: the noise's accounting allows for 2^-20, the sensitivity's rounding for 0.001.
COARSEST_STEP = 2.0**-20
COARSEST_ROUNDING = 1.0e-3


def honest_shares(hospitals: int, *, threshold: int, min_cohort: int, assumed_colluders: int) -> int:
    """Fewest honest hospitals whose noise is in a sum that is unmasked: m.

    A coordinator may show different survivors to different hospitals. It unmasks a sum without some honest hospital if
    t - c honest ones reveal for survivors without it; each of the h reveals once, and the survivors that it was shown
    lack n - min_cohort hospitals at most. So the sum lacks h (n - min_cohort) / (t - c) honest ones at most.

    Args:
        hospitals: n, the length of the roster.
        threshold: t, how many must reveal to unmask a sum.
        min_cohort: Fewest contributors of a sum.
        assumed_colluders: c; all four have passed `common.plan_bounds.check_bounds`.

    Returns:
        h - floor(h (n - min_cohort) / (t - c)) with h = n - c.

    Guarantees:
        2 to min_cohort - c. For 2t >= n + c + 1 means t - c >= (h + 1)/2, so n - min_cohort <= n - t = h - (t - c) <=
        (h - 1)/2: the quotient is at most h (h - 1)/(h + 1) = h - 2 + 2/(h + 1), whose floor is h - 2 at most for
        h >= 2. And it is at least n - min_cohort, since t - c <= h.
    """
    honest = hospitals - assumed_colluders
    return honest - honest * (hospitals - min_cohort) // (threshold - assumed_colluders)


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


def check_mode(plan: PlanContent) -> None:
    """Refuse a plan whose parts do not go together in mode `distributed`.

    Raises:
        PlanError: For several local steps, local momentum, the preset `compact`, or, with a roster, a budget of a
            hospital's own or a grid that is too coarse.
    """
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
    step, clip = grid_of(plan).step, plan.privacy.clip
    rounding = math.sqrt(plan.agreed.trainable_parameters) * step
    if step > COARSEST_STEP * clip or rounding > COARSEST_ROUNDING * clip:
        raise PlanError(
            f"encryption.update_norm_bound: seen {plan.update_norm_bound:g}, which makes a grid of step {step:.3g} for "
            f"clip {clip:g} and {plan.agreed.trainable_parameters} parameters; with privacy.mode 'distributed' a step "
            f"of at most {min(COARSEST_STEP, COARSEST_ROUNDING * step / rounding) * clip:.3g} is allowed; lower the "
            "bound, or take mode 'local'"
        )
