"""What a plan asks of a hospital, in the words of the person who must decide."""

from __future__ import annotations

from client.accountant import solve_sigma
from common.ckks import PRESETS, chunks_for
from common.coverage import NOT_COVERED
from common.plan import Plan
from common.plan_settings import PoissonSampling, TrainingSettings
from common.printable import printable
from common.site_config import SitePrivacy

MODELS = {
    "lite0-head": "a linear head on the features of a frozen EfficientNet-Lite0",
    "groupnorm-cnn": "a small convolutional network, all of it",
}


def plan_in_words(plan: Plan, *, hospital: str, privacy: SitePrivacy) -> tuple[str, ...]:
    """Lines that say who takes part, what is trained, what a patient risks, and what leaves this site.

    Args:
        plan: The agreed plan.
        hospital: This hospital.
        privacy: What its own site file allows.

    Raises:
        PlanError: If no noise fits the plan's budget.
    """
    lines = (
        f"Plan '{plan.name}', key epoch {plan.agreed.epoch}, digest {plan.digest}",
        "",
        *_who(plan, hospital),
        "",
        *_what(plan),
        "",
        *_risk(plan, hospital, privacy),
        "",
        *_leaves(plan, privacy),
        "",
        f"Mind: {NOT_COVERED}.",
    )
    return tuple(printable(line) for line in lines)


def _who(plan: Plan, hospital: str) -> tuple[str, ...]:
    rows = (
        f"  {member.name:24} {member.declared_units:>7} {plan.privacy.unit}s  {member.fingerprint}"
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


def _what(plan: Plan) -> tuple[str, ...]:
    return (
        (
            f"They train {MODELS[plan.model.kind]} ({plan.agreed.trainable_parameters} numbers) to tell "
            f"{len(plan.data.classes)} classes apart: {', '.join(plan.data.classes)}."
        ),
        f"{plan.training.rounds} rounds of {plan.training.local_steps} steps, {_sampling(plan.training)}.",
    )


def _sampling(training: TrainingSettings) -> str:
    if isinstance(training.sampling, PoissonSampling):
        return f"each on a random part of the patients (each with probability {training.sampling.rate:g})"
    return "each on all patients"


def _risk(plan: Plan, hospital: str, privacy: SitePrivacy) -> tuple[str, ...]:
    epsilon, delta = plan.budget(plan.roster[plan.agreed.position(hospital)])
    steps = plan.training.rounds * plan.training.local_steps
    sigma = solve_sigma(epsilon=epsilon, delta=delta, q=plan.training.sample_rate, steps=steps)
    unit = "all images of a patient together" if plan.privacy.unit == "patient" else "each image by itself"
    return (
        (
            f"The whole run spends epsilon {epsilon:g} at delta {delta:g} of each {plan.privacy.unit} ({unit}): "
            f"noise of {sigma:.3g} times the largest contribution of one is added here, before anything leaves."
        ),
        (
            f"This site's cap is epsilon {privacy.cap_epsilon:g} at delta {privacy.cap_delta:g}, over all runs on "
            f"source '{privacy.source}'; it stops taking part before the cap is passed."
        ),
    )


def _leaves(plan: Plan, privacy: SitePrivacy) -> tuple[str, ...]:
    parameters = PRESETS[plan.encryption.preset]
    kilobytes = chunks_for(plan.upload_values, parameters) * parameters.chunk_bytes / 1000
    counts = {
        "none": "no counts of correct predictions",
        "final-dp": f"noisy counts of the final model's predictions (epsilon {privacy.metrics_epsilon:g} of each "
        "held-out patient)",
        "aggregate": "exact counts of each model's predictions (this site says that its data is public)",
    }[privacy.metrics if plan.metric_slots else "none"]
    return (
        f"What leaves this site: one encrypted update of {kilobytes:.0f} kB per round, and {counts}, also encrypted.",
        (
            f"Hospitals decrypt sums of at least {max(plan.cohort.min_cohort, privacy.min_cohort)} hospitals; the "
            "coordinator decrypts nothing. Images, names and this site's files stay here."
        ),
    )
