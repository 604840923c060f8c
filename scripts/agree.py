"""Fills a plan's template with its hospitals: who they are, what they declare, which bound their updates keep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import yaml

from client.learner import plan_layout
from client.model import trainable_vector
from client.noise_multipliers import Released, noise_multipliers, planned_events
from client.room import check_room
from client.shared_noise import NoiseShare
from common.card import Card
from common.config import parse_settings
from common.distributed import honest_shares
from common.errors import PlanError
from common.identity import Identity
from common.plan import Plan
from common.plan_settings import CohortSettings
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
    size = trainable_vector(plan_layout(template)).size
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
        norm = expected_update_norm(template, roster, cohort=cohort, parameters=size)
        content["encryption"]["update_norm_bound"] = norm
    return checked(content, name=template.name)


def checked(content: dict[str, Any], *, name: str) -> Plan:
    """The agreed plan of that content.

    Raises:
        PlanError: If it is unsound.
    """
    plan = parse_settings(yaml.safe_dump(content), Plan, source=f"plan '{name}'")
    # Room in the modulus is a property of the whole roster: refuse now, not at five sites.
    check_room(plan)
    return plan


def expected_update_norm(plan: Plan, roster: Sequence[Hospital], *, cohort: CohortSettings, parameters: int) -> float:
    """A bound S that updates pass rarely: all clipped gradients aligned, plus noise six deviations above its mean norm.

    In mode `distributed` what is uploaded is the noisy sum of clipped gradients, which passes the bound never: it is
    that of `client.shared_noise`.

    Step j of K moves the model by learning_rate * c_j times its gradient, c_j = (1 - m^(K-j)) / (1 - m) with local
    momentum m. Public: it depends on the plan alone.

    Args:
        plan: What stays whoever takes part; neither its roster nor its cohort is looked at.
        roster: The hospitals with their declared units.
        cohort: The numbers for that roster.
        parameters: Trainable parameters d.
    """
    if plan.privacy.mode == "distributed":
        return _sum_bound(plan, roster, cohort=cohort, parameters=parameters)
    training, privacy = plan.training, plan.privacy
    steps, momentum = training.local_steps, training.momentum
    reach = [sum(momentum**i for i in range(steps - j)) for j in range(steps)]
    bounds = []
    for hospital in roster:
        q, sigma = training.sample_rate, noise_multipliers(plan, hospital)
        noise_per_step = sigma.train * privacy.clip / (q * hospital.declared_units)
        noise = noise_per_step * math.sqrt(sum(c * c for c in reach)) * (math.sqrt(parameters) + 6)
        bounds.append(training.learning_rate * (privacy.clip * sum(reach) / q + noise))
        if sigma.stat is not None:
            noise = sigma.stat / hospital.declared_units * (math.sqrt(plan.statistics) + 6)
            bounds.append(privacy.clip * (1 + noise))
    return float(f"{max(bounds):.3g}")


def _sum_bound(plan: Plan, roster: Sequence[Hospital], *, cohort: CohortSettings, parameters: int) -> float:
    """A bound on the largest hospital's noisy sum; a hundredth more, since the grid's own step is in it."""
    clip, largest = plan.privacy.clip, max(hospital.declared_units for hospital in roster)
    shares = honest_shares(
        len(roster),
        threshold=int(cohort.threshold),
        min_cohort=int(cohort.min_cohort),
        assumed_colluders=cohort.assumed_colluders,
    )
    lengths: dict[Released, int] = {"stat": plan.statistics, "train": parameters}
    bounds = (
        NoiseShare(
            parameters=lengths[kind],
            units=largest,
            largest_units=largest,
            clip=clip,
            step=clip * 2.0**-40,
            shares=shares,
        ).bound(event.sigma)
        for kind, event in planned_events(plan, noise_multipliers(plan, roster[0])).items()
    )
    return float(f"{1.01 * max(bounds):.3g}")
