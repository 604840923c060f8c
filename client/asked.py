"""What the coordinator may ask at all."""

from __future__ import annotations

from common.errors import WrongPlan, WrongRound
from common.messages import KEY_KINDS, UPLOAD_KINDS, Request
from common.plan import Plan


def check_asked(request: Request, plan: Plan, hospital: str) -> None:
    """Refuse a request that is not for this hospital, or that the plan has no place for.

    Raises:
    WrongPlan: If it is for another hospital or plan.
    WrongRound: If the plan has no such round or attempt for what is asked.
    """
    if request.hospital != hospital:
        raise WrongPlan(f"a request for {request.hospital} came to {hospital}; refuse it")
    if request.plan != plan.digest:
        raise WrongPlan(f"a request for plan {request.plan[:16]}…; this site approved {plan.digest[:16]}…; refuse it")
    is_a_round = plan.first_round <= request.round <= plan.last_round
    allowed = {
        **dict.fromkeys(KEY_KINDS, request.round == 0 and not request.aggregates),
        "hello": request.round == 0,
        "checkpoint": request.round == 0 and not request.aggregates,
        "restore": request.round == 0 and not request.aggregates and plan.agreed.continues is not None,
        "keys": is_a_round,
        "unmask": is_a_round and not request.aggregates,
        "verify": plan.verification == "sampled" and plan.first_round < request.round <= plan.last_round + 1,
        **{kind: is_a_round and plan.kind_of(request.round) == kind for kind in UPLOAD_KINDS},
        "finish": request.round == plan.last_round + 1,
    }
    if not allowed[request.kind] or request.attempt >= plan.cohort.attempts:
        raise WrongRound(
            f"seen {request.kind} for round {request.round} attempt {request.attempt}; the plan has "
            f"{plan.last_round} rounds of at most {plan.cohort.attempts} attempts; refuse it"
        )
