"""What the rounds of an agreed plan will charge a hospital's ledger, before any of them is asked for."""

from __future__ import annotations

from client.accountant import PrivacyEvent
from client.ledger import Ledger
from client.ledger_entry import Charge
from client.noise_multipliers import noise_multipliers
from common.distributed import shares_of
from common.plan import Plan
from common.roster import Hospital


def planned_charges(plan: Plan, hospital: Hospital) -> tuple[Charge, ...]:
    """One charge of each kind that training units pay for: the round of statistics if there is one, a training round.

    Args:
        plan: The agreed plan.
        hospital: Its row in the roster.

    Returns:
        Charges without a run and without units; the last one is that of a training round.

    Raises:
        PlanError: If no noise fits the budget.
    """
    noise, training = noise_multipliers(plan, hospital), plan.training
    train = PrivacyEvent(q=training.sample_rate, sigma=noise.train, steps=training.local_steps)
    stat = () if noise.stat is None else (("stat", PrivacyEvent(q=1.0, sigma=noise.stat, steps=1)),)
    return tuple(
        Charge(
            run="",
            round_number=number,
            kind="stat" if kind == "stat" else "train",
            plan_hash=plan.digest,
            units_digest="",
            held_out_rule=plan.held_out_rule,
            event=event,
            clip=plan.privacy.clip,
            mode=plan.privacy.mode,
            shares=shares_of(plan),
        )
        for number, (kind, event) in enumerate((*stat, ("train", train)), start=1)
    )


def require_room(ledger: Ledger, plan: Plan, hospital: Hospital) -> None:
    """Refuse a cap that does not pay for one round, before the data is read, unless something was charged already.

    A site whose budget is used up is needed to verify and to reveal; one that never could train has a wrong site file.

    Raises:
        BudgetExceeded: If so.
        PlanError: If no noise fits the budget.
    """
    if not ledger.sequence():
        for charge in planned_charges(plan, hospital):
            ledger.check(charge)
