"""How much noise a plan's budget asks for: one multiplier for training, one for the round of statistics."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from client.accountant import PrivacyEvent
from client.calibrate import check_most_noise, gaussian_sigma, solve_sigma
from common.plan import Plan
from common.roster import Hospital

Released = Literal["stat", "train"]
"""Kinds of rounds that release something of training units."""


@dataclass(frozen=True, slots=True)
class NoiseMultipliers:
    """Standard deviations of the noise in a sum, in units of the sensitivity.

    `stat` is None for a plan without a round of statistics.
    """

    train: float
    stat: float | None


def noise_multipliers(plan: Plan, hospital: Hospital) -> NoiseMultipliers:
    """The least noise that keeps a whole run within one hospital's budget.

    The budget is that of one Gaussian mechanism of shift mu; a round of statistics takes `privacy.mean_share` of mu^2
    (Dong, Roth, Su, 2019, arXiv:1905.02383, corollary 3.3: the squares add up), and training what is left by the
    accountant's own count.

    Raises:
        PlanError: If no noise fits the budget.
    """
    epsilon, delta = plan.budget(hospital)
    training, share = plan.training, plan.privacy.mean_share
    stat = gaussian_sigma(epsilon, delta) / math.sqrt(share) if share else None
    if stat is not None:
        check_most_noise(stat, f"privacy.mean_share: seen {share:g} with epsilon {epsilon:g}")
    others = () if stat is None else (_stat_event(stat),)
    steps = training.rounds * training.local_steps
    train = solve_sigma(epsilon=epsilon, delta=delta, q=training.sample_rate, steps=steps, others=others)
    return NoiseMultipliers(train, stat)


def planned_events(plan: Plan, noise: NoiseMultipliers) -> dict[Released, PrivacyEvent]:
    """What one round of each kind costs, in the order of the rounds; `stat` only where the plan has it."""
    training = plan.training
    train = PrivacyEvent(q=training.sample_rate, sigma=noise.train, steps=training.local_steps)
    return {"train": train} if noise.stat is None else {"stat": _stat_event(noise.stat), "train": train}


def _stat_event(sigma: float) -> PrivacyEvent:
    return PrivacyEvent(q=1.0, sigma=sigma, steps=1)
