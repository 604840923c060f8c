"""The public grid on which hospitals round: gain, step and the headroom that keeps sums from wrapping.

Decrypted CKKS values carry noise that depends on the secret key, so only integers on a public grid ever leave the
decryption module (Li and Micciancio, 2021, IACR ePrint 2020/1533). A sum that wraps modulo q is silent, so headroom is
planned here and never tested for at run time. All hospitals compute the same numbers from the plan: only `+ - * / sqrt`
of IEEE doubles are used, which give the same bits everywhere.

Bounds, per coefficient, in coefficient units (a value v in one slot adds at most v * scale * 2/N to a coefficient):

* the summed encryption noise has standard deviation sd = 3.24 sqrt(n);
* the grid step is 32 sd, so that a quarter of a step, where decryption refuses, is 8 sd: 1e-15 per value;
* rounding to the grid adds at most R = 0.75 steps per hospital: half a step in both parts of a slot is 0.71 steps;
* an update of L2 norm S adds at most S * gain * scale * sqrt(2/N) = B, by Parseval and Cauchy-Schwarz, weighted or not;
  where hospitals do not weight their updates (mode `distributed`), n of them share B.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from common.ckks_parameters import PRESETS, CkksParameters
from common.errors import PlanError
from common.plan_content import PlanContent

NOISE_SD = 3.24
"""Standard deviation of one coefficient of SEAL's fresh noise: centred binomial of 21 bit pairs, sqrt(21/2)."""

STEP_IN_NOISE_SDS = 32.0
MARGIN_IN_NOISE_SDS = 64.0
ROUNDING_IN_STEPS = 0.75

# A coarser grid would round most of an update away: it means that the slots or a roster eat the modulus.
COARSEST_STEP_IN_BOUNDS = 1.0e-3


@dataclass(frozen=True, slots=True)
class Grid:
    """Constants of a plan: how an update becomes integers and the integers become CKKS values.

    Args:
        parameters: The CKKS parameters.
        roster_size: n, hospitals in the roster.
        roster_total: Sum of the declared sizes over the roster; weights are w_i = n_i / roster_total.
        weight_total: What n_i is divided by to weight an update: `roster_total`, or 1 where each enters whole, as a
            sum over its units.
        largest_size: The largest n_i.
        update_norm_bound: S, the L2 bound on an update before weighting, in its own units.
        slot_sum_max: Bound on the sum of |metric slot| over slots and hospitals, in counts.
        room: B, what the weighted updates together may add to a coefficient, in coefficient units.
        gain: Encoded units per unit of an update.
        encoded_step: sigma_e, the grid's step in encoded units: a hospital encodes integer * encoded_step.
        step: The grid's step in units of an update, encoded_step / gain.
    """

    parameters: CkksParameters
    roster_size: int
    roster_total: int
    weight_total: int
    largest_size: int
    update_norm_bound: float
    slot_sum_max: int
    room: float
    gain: float
    encoded_step: float
    step: float


def plan_grid(
    parameters: CkksParameters,
    declared_sizes: Sequence[int],
    *,
    update_norm_bound: float,
    slot_sum_max: int,
    weighted: bool = True,
) -> Grid:
    """Plan the grid.

    Args:
        parameters: The CKKS parameters.
        declared_sizes: Records that each hospital of the roster declares, each >= 1.
        update_norm_bound: S, the L2 bound on an update before weighting, in its own units, > 0.
        slot_sum_max: Largest sum of |metric slot| over slots and hospitals, >= 0; the weight slots come on top by
            themselves.
        weighted: Hospitals weight their updates by w_i = n_i / sum(n), as in mode `local`; else each enters whole.

    Raises:
        PlanError: If an argument is out of range, or the modulus has no room for the updates beside noise and slots.

    Guarantees:
        For updates of norm <= S, weights as told and slots within `slot_sum_max`, no coefficient of the sum over
        the roster or over any part of it comes nearer than 64 standard deviations of the summed noise to q/2, where it
        would wrap, and each hospital's coefficients stay within what SEAL's encoder takes, 2^(bits-2).
    """
    _check_arguments(declared_sizes, update_norm_bound, slot_sum_max)
    hospitals = len(declared_sizes)
    total = sum(declared_sizes)
    # The largest share of the whole room that one hospital may fill; without weights all n together may reach n S.
    largest_weight = max(declared_sizes) / total if weighted else 1 / hospitals
    whole_bound = update_norm_bound if weighted else hospitals * update_norm_bound
    noise_sd = NOISE_SD * math.sqrt(hospitals)
    degree, scale = parameters.ring_degree, parameters.scale
    encoded_step = STEP_IN_NOISE_SDS * NOISE_SD * math.sqrt(hospitals * degree / 2) / scale
    rounding = ROUNDING_IN_STEPS * scale * encoded_step
    reserved = (total + slot_sum_max) * encoded_step * scale * 2 / degree
    # One hospital may hold all of the metric counts, so the reserve counts in full against the encoder's limit too.
    room = min(
        parameters.modulus / 2 - MARGIN_IN_NOISE_SDS * noise_sd - hospitals * rounding - reserved,
        (2.0 ** (parameters.modulus_bits - 2) - rounding - reserved) / largest_weight,
    )
    step_in_bounds = math.inf if room <= 0 else encoded_step * scale * math.sqrt(2 / degree) / room
    if step_in_bounds > COARSEST_STEP_IN_BOUNDS:
        raise PlanError(
            f"{parameters.name} CKKS parameters leave no room for the updates of {hospitals} hospitals beside slots "
            f"that sum to {total + slot_sum_max}; the grid would be coarser than {COARSEST_STEP_IN_BOUNDS:g} of "
            "update_norm_bound; take the preset precise, fewer hospitals, or smaller slots"
        )
    gain = room / (whole_bound * scale * math.sqrt(2 / degree))
    return Grid(
        parameters=parameters,
        roster_size=hospitals,
        roster_total=total,
        weight_total=total if weighted else 1,
        largest_size=max(declared_sizes),
        update_norm_bound=update_norm_bound,
        slot_sum_max=slot_sum_max,
        room=room,
        gain=gain,
        encoded_step=encoded_step,
        step=encoded_step / gain,
    )


def grid_of(plan: PlanContent) -> Grid:
    """The public grid of an agreed plan.

    Raises:
        PlanError: If the plan is still a template, or the modulus has no room for its updates.
    """
    return plan_grid(
        PRESETS[plan.encryption.preset],
        [hospital.declared_units for hospital in plan.roster],
        update_norm_bound=plan.update_norm_bound,
        slot_sum_max=plan.slot_sum_max,
        weighted=plan.privacy.mode == "local",
    )


def _check_arguments(declared_sizes: Sequence[int], update_norm_bound: float, slot_sum_max: int) -> None:
    if not declared_sizes or min(declared_sizes) < 1:
        raise PlanError(f"declared sizes {list(declared_sizes)}; every hospital must declare at least 1 record")
    if not (math.isfinite(update_norm_bound) and update_norm_bound > 0):
        raise PlanError(f"update_norm_bound {update_norm_bound}; it must be a positive finite number")
    if slot_sum_max < 0:
        raise PlanError(f"slot_sum_max {slot_sum_max}; it must be at least 0")
