"""Fills a plan's template with its hospitals: who they are, what they declare, which bound their updates keep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import yaml

from client.accountant import solve_sigma
from client.learner import plan_model
from client.model import trainable_vector
from common.card import Card
from common.ckks import PRESETS
from common.config import parse_settings
from common.errors import PlanError
from common.grid import plan_grid
from common.identity import Identity
from common.plan import Plan
from common.roster import Hospital

FIRST_EPOCH = 1


def agree(template: Plan, cards: Sequence[Card], coordinator: Identity) -> Plan:
    """Fill a template with its federation and, where it says `auto`, the update bound and the numbers of its cohort.

    Raises:
        PlanError: If the plan is unsound for these hospitals, or already names hospitals.
    """
    if template.federation is not None:
        raise PlanError(f"plan '{template.name}' names its hospitals already; give provision a template without them")
    roster = tuple(Hospital(**card.model_dump()) for card in cards)
    cohort = template.cohort.filled(len(roster))
    size = trainable_vector(plan_model(template)).size
    content = template.model_dump(mode="json")
    content["cohort"] = cohort.model_dump(mode="json")
    content["federation"] = {
        "coordinator": coordinator.public_hex,
        "epoch": FIRST_EPOCH,
        "trainable_parameters": int(size),
        "continues": None,
        "hospitals": [h.model_dump(mode="json") for h in roster],
    }
    if template.encryption.update_norm_bound == "auto":
        content["encryption"]["update_norm_bound"] = expected_update_norm(template, roster, size)
    return checked(content, name=template.name)


def checked(content: dict[str, Any], *, name: str) -> Plan:
    """The agreed plan of that content.

    Raises:
        PlanError: If it is unsound.
    """
    plan = parse_settings(yaml.safe_dump(content), Plan, source=f"plan '{name}'")
    # Room in the modulus is a property of the whole roster: refuse now, not at five sites.
    plan_grid(
        PRESETS[plan.encryption.preset],
        [h.declared_units for h in plan.roster],
        update_norm_bound=plan.update_norm_bound,
        slot_sum_max=plan.slot_sum_max,
    )
    return plan


def expected_update_norm(plan: Plan, roster: Sequence[Hospital], parameters: int) -> float:
    """A bound S that updates pass rarely: all clipped gradients aligned, plus noise six deviations above its mean norm.

    Step j of K moves the model by learning_rate * c_j times its gradient, c_j = (1 - m^(K-j)) / (1 - m) with local
    momentum m. Public: it depends on the plan alone.

    Args:
        plan: The template.
        roster: The hospitals with their declared units.
        parameters: Trainable parameters d.
    """
    training, privacy = plan.training, plan.privacy
    steps, momentum = training.local_steps, training.momentum
    reach = [sum(momentum**i for i in range(steps - j)) for j in range(steps)]
    bounds = []
    for hospital in roster:
        epsilon, delta = plan.budget(hospital)
        q = training.sample_rate
        sigma = solve_sigma(epsilon=epsilon, delta=delta, q=q, steps=training.rounds * steps)
        noise_per_step = sigma * privacy.clip / (q * hospital.declared_units)
        noise = noise_per_step * math.sqrt(sum(c * c for c in reach)) * (math.sqrt(parameters) + 6)
        bounds.append(training.learning_rate * (privacy.clip * sum(reach) / q + noise))
    return float(f"{max(bounds):.3g}")
