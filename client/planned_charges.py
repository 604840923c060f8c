"""What the rounds of an agreed plan will charge a hospital's ledger, before any of them is asked for."""

from __future__ import annotations

from client.ledger import Ledger
from client.ledger_entry import Charge
from client.noise_multipliers import noise_multipliers, planned_events
from common.distributed import shares_of
from common.plan import Plan
from common.roster import Hospital


def planned_charges(plan: Plan, hospital: Hospital, *, held_out_rule: str) -> tuple[Charge, ...]:
    """One charge of each kind that training units pay for: the round of statistics if it is due, a training round.

    Args:
        plan: The agreed plan; one that goes on behind the round of statistics has none.
        hospital: Its row in the roster.
        held_out_rule: Of the site's data under the plan (`client.declare`).

    Returns:
        Charges without a run and without units; the last one is that of a training round.

    Raises:
        PlanError: If no noise fits the budget.
    """
    events = planned_events(plan, noise_multipliers(plan, hospital))
    if plan.first_round > plan.stat_rounds:
        events.pop("stat", None)
    return tuple(
        Charge(
            run="",
            round_number=number,
            kind=kind,
            plan_hash=plan.digest,
            units_digest="",
            held_out_rule=held_out_rule,
            event=event,
            clip=plan.privacy.clip,
            mode=plan.privacy.mode,
            shares=shares_of(plan),
        )
        for number, (kind, event) in enumerate(events.items(), start=plan.first_round)
    )


def require_room(ledger: Ledger, plan: Plan, hospital: Hospital) -> None:
    """Refuse a cap that does not pay for one round, before the data is read, unless something was charged already.

    A site whose budget is used up is needed to verify and to reveal; one that never could train has a wrong site file.

    Raises:
        BudgetExceeded: If so.
        PlanError: If no noise fits the budget.
    """
    if not ledger.sequence():
        # Nothing else is charged, so any rule gives the same epsilon; the site's own is known with its data only.
        for charge in planned_charges(plan, hospital, held_out_rule=plan.held_out_rule):
            ledger.check(charge)
