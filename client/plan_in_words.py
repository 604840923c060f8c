"""What a plan asks of a hospital, in the words of the person who must decide."""

from __future__ import annotations

import math
from dataclasses import replace

from client.accountant import epsilon_of
from client.declare import SiteUnits
from client.noise_multipliers import NoiseMultipliers, noise_multipliers, planned_events
from client.room import check_room
from client.task_in_words import model_in_words, task_in_words
from client.units_in_words import units_in_words
from common.ckks import PRESETS, chunks_for
from common.ckks_parameters import SEED_BYTES
from common.coverage import NOT_COVERED
from common.distributed import shares_of
from common.plan import Plan
from common.plan_bounds import most_colluders
from common.plan_settings import PoissonSampling, TrainingSettings
from common.printable import printable
from common.site_config import SitePrivacy


def plan_in_words(
    plan: Plan, *, hospital: str, privacy: SitePrivacy, units: SiteUnits | None, before: Plan | None = None
) -> tuple[str, ...]:
    """Lines that say who takes part, what is trained, what a unit risks, and what leaves this site.

    Args:
        plan: The agreed plan.
        hospital: This hospital.
        privacy: What its own site file allows.
        units: What its own data holds; None where nobody could look.
        before: The plan that this site followed up to now, if any.

    Raises:
        PlanError: If no noise fits the plan's budget, or the encryption has no room for the uploads: this site would
            not start.
    """
    check_room(plan)
    lines = (
        f"Plan '{plan.name}', key epoch {plan.agreed.epoch}, digest {plan.digest}",
        "",
        *_who(plan, hospital),
        *_since(plan, before),
        "",
        *_what(plan),
        "",
        *_risk(plan, hospital, privacy),
        *units_in_words(plan, hospital, units),
        "",
        *_leaves(plan, privacy),
        "",
        f"Mind: {NOT_COVERED}.",
    )
    return tuple(printable(line) for line in lines)


def cohort_in_words(plan: Plan) -> tuple[str, ...]:
    """Lines that say how many hospitals may be away, and how many may side with the coordinator.

    Raises:
        PlanError: If the plan is still a template.
    """
    hospitals = len(plan.roster)
    away, least = hospitals - plan.needed, plan.needed
    most = most_colluders(hospitals, threshold=plan.threshold, min_cohort=plan.min_cohort)
    return (
        (
            f"{away or 'None'} of the {hospitals} hospitals may drop out of a round: every sum holds the updates of "
            f"{f'at least {least}' if away else f'all {least}'}, and {plan.threshold} must help to unmask it."
        ),
        (
            f"The coordinator together with up to {most} hospital{'' if most == 1 else 's'} could not read a single "
            f"update; the plan assumes {plan.cohort.assumed_colluders}."
        ),
    )


def _who(plan: Plan, hospital: str) -> tuple[str, ...]:
    rows = (
        f"  {member.name:24} {member.declared_units:>7} units  {member.fingerprint}"
        f"{'  (this hospital)' if member.name == hospital else ''}"
        for member in plan.roster
    )
    return (
        (
            f"{len(plan.roster)} hospitals take part. Compare the fingerprints with each of them, but not by the way "
            "this file came:"
        ),
        *rows,
        f"  coordinator's key: {plan.agreed.coordinator}",
    )


def _since(plan: Plan, before: Plan | None) -> tuple[str, ...]:
    continues = plan.agreed.continues
    if continues is None:
        return ()
    start = (
        f"It goes on from the model of round {continues.round} of run {continues.run}, under a new CKKS key that only "
        "the hospitals above are dealt."
    )
    if before is None or before.digest != continues.plan:
        return (start, "This site did not follow the plan of that run: the others send it the model, sealed.")
    old, new = ({hospital.name for hospital in one.roster} for one in (before, plan))
    return (
        start,
        f"  left: {', '.join(sorted(old - new)) or 'nobody'}; joined: {', '.join(sorted(new - old)) or 'nobody'}",
    )


def _what(plan: Plan) -> tuple[str, ...]:
    return (
        (
            f"They train {model_in_words(plan)} ({plan.agreed.trainable_parameters} numbers) to "
            f"{task_in_words(plan.data)}."
        ),
        f"{_rounds(plan)} of {plan.training.local_steps} steps, {_sampling(plan.training)}.",
        *cohort_in_words(plan),
    )


def _rounds(plan: Plan) -> str:
    if plan.first_round == 1:
        return f"{plan.training.rounds} rounds"
    return f"Rounds {plan.first_round} to {plan.last_training_round}"


def _sampling(training: TrainingSettings) -> str:
    if isinstance(training.sampling, PoissonSampling):
        return f"each on a random part of the units (each with probability {training.sampling.rate:g})"
    return "each on all units"


def _risk(plan: Plan, hospital: str, privacy: SitePrivacy) -> tuple[str, ...]:
    member = plan.roster[plan.agreed.position(hospital)]
    epsilon, delta = plan.budget(member)
    noise = noise_multipliers(plan, member)
    return (
        (
            f"The whole run spends epsilon {epsilon:g} at delta {delta:g} of each unit (what that is: below): "
            f"noise of {noise.train:.3g} times the largest contribution of one is added {_where(plan)}."
        ),
        *_statistics(noise),
        *_alone(plan, noise, epsilon=epsilon, delta=delta),
        (
            f"This site's cap is epsilon {privacy.cap_epsilon:g} at delta {privacy.cap_delta:g}, over all runs on "
            f"source '{privacy.source}'; it stops taking part before the cap is passed."
        ),
    )


def _where(plan: Plan) -> str:
    if plan.privacy.mode == "local":
        return "here, before anything leaves"
    return (
        f"to each sum by the hospitals together: each adds 1/{shares_of(plan)} of its variance, the least number of "
        "honest hospitals in a sum"
    )


def _statistics(noise: NoiseMultipliers) -> tuple[str, ...]:
    if noise.stat is None:
        return ()
    return (
        (
            "That includes a first round, in which the hospitals take the mean of their units' features, with noise of "
            f"{noise.stat:.3g} times one unit's."
        ),
    )


def _alone(plan: Plan, noise: NoiseMultipliers, *, epsilon: float, delta: float) -> tuple[str, ...]:
    """What stays of the promise if all others collude, where noise is shared."""
    if plan.privacy.mode == "local":
        return ()
    # Of the whole run, also where it goes on: whoever was there before has paid for its first rounds too.
    events = planned_events(plan, noise)
    events["train"] = replace(events["train"], steps=events["train"].steps * plan.training.rounds)
    share = math.sqrt(shares_of(plan))
    alone = epsilon_of([replace(event, sigma=event.sigma / share) for event in events.values()], delta)
    colluders = plan.cohort.assumed_colluders
    return (
        (
            f"So epsilon {epsilon:g} holds against everybody outside and up to {colluders} of the hospitals, with the "
            f"coordinator, together. If all other hospitals collude, it is {alone:.3g}."
        ),
    )


def _verification(plan: Plan) -> str:
    if plan.verification == "full":
        return (
            "Every hospital recomputes each sum before it decrypts it, from the masked updates of all; each gets a "
            "copy of these, which nobody can read."
        )
    return (
        f"The updates are large, so verification is sampled: every part of a sum is recomputed by {plan.verifiers} "
        "hospitals, each from its parts of the masked updates; nothing that rests on a sum is opened before all of "
        "them have signed that it is right."
    )


def _leaves(plan: Plan, privacy: SitePrivacy) -> tuple[str, ...]:
    parameters = PRESETS[plan.encryption.preset]
    kilobytes = chunks_for(plan.upload_values, parameters) * (parameters.chunk_bytes + SEED_BYTES) / 1000
    counts = {
        "none": "no counts of correct predictions",
        "final-dp": f"noisy counts of the final model's predictions (epsilon {privacy.metrics_epsilon:g} of each "
        "held-out unit)",
        "aggregate": "exact counts of each model's predictions (this site says that its data is public)",
    }[privacy.metrics if plan.metric_slots else "none"]
    return (
        f"What leaves this site: one encrypted update of {kilobytes:.0f} kB per round, and {counts}, also encrypted.",
        _verification(plan),
        (
            f"Hospitals decrypt sums of at least {max(plan.min_cohort, privacy.min_cohort)} hospitals; the "
            "coordinator decrypts nothing. This site's data and files stay here."
        ),
    )
