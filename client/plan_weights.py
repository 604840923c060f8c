"""The weights file of a plan's `network`: the right one is named before a hospital signs, or a demo begins."""

from __future__ import annotations

from pathlib import Path

from common.errors import OperatorError
from common.plan import Plan
from common.plan_models import NetworkModel


def needed_weights(plan: Plan) -> str | None:
    """SHA-256 of the weights file that the plan's model starts from, hex; None where it starts from none."""
    return plan.model.weights_sha256 if isinstance(plan.model, NetworkModel) else None


def named_weights(plan: Plan, given: Path | None) -> Path | None:
    """What `--weights` names at a site's first approval, if the plan needs it.

    Raises:
        OperatorError: If it is missing or is no file; or is given where the plan needs none.
    """
    digest = needed_weights(plan)
    if digest is None:
        if given is not None:
            raise OperatorError(
                f"--weights: seen {given}, but the plan's model starts from no weights file; leave it out"
            )
        return None
    if given is None or not given.is_file():
        seen = "none" if given is None else f"{given}, which is no file"
        raise OperatorError(
            f"--weights: seen {seen}; the plan starts from the weights file with sha256 {digest}; get that file, and "
            "name it"
        )
    return given


def check_weights(plan: Plan, weights: Path | None) -> None:
    """Refuse a weights file that is not the plan's, or does not fit its network: the site would not start.

    Args:
        plan: The agreed plan.
        weights: What the site file names.

    Raises:
        ConfigError, DataError, PlanError, UnsupportedLayer: As `client.learner.plan_model` does.
    """
    if needed_weights(plan) is None:
        return
    # torch takes seconds to load.
    from client.learner import plan_model  # noqa: PLC0415

    plan_model(plan, weights=weights)
