"""What is known of a ledger: its entries, spending over time, both accounts, and what is left for the agreed plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from client.data.source import DataPlace
from client.declare import site_held_out_rule
from client.ledger_cap import Cap, Spending, charges_left, spending
from client.ledger_copy import LedgerCopy
from client.ledger_entry import Charge, LedgerEntry
from client.ledger_export import row_of, when
from client.planned_charges import planned_charges
from common.errors import DataError
from common.plan import Plan
from common.site_config import SiteConfig

MOST_ROUNDS = 10_000


@dataclass(frozen=True, slots=True)
class Step:
    """What one run charged on one day, and what stood after it.

    Attributes:
        day: UTC.
        run: Identifier of the run.
        charges: How many entries.
        train: Epsilon of the training account after them, as recorded.
        eval: The same of the account of the held-out units.
    """

    day: str
    run: str
    charges: int
    train: float
    eval: float


@dataclass(frozen=True, slots=True)
class Report:
    """All that is shown.

    Attributes:
        hospital: Whose ledger.
        ledger: The ledger.
        cap: The site's own limit.
        spent: Of both accounts, at the cap's delta.
        plan: The plan that the site file names.
        charged: Training rounds that were charged under it.
        left: Training rounds of it that still fit under the cap, at most MOST_ROUNDS; None if it cannot be said.
        unknown: Why it cannot be said.
        steps: Spending over time.
    """

    hospital: str
    ledger: LedgerCopy
    cap: Cap
    spent: Spending
    plan: Plan
    charged: int
    left: int | None
    unknown: str
    steps: tuple[Step, ...]


def report(ledger: LedgerCopy, site: SiteConfig, *, plan: Plan) -> Report:
    """Compute what is shown.

    Args:
        ledger: The ledger, verified.
        site: Whose it is.
        plan: The agreed plan.

    Raises:
        PlanError: If no noise fits the plan's budget.
    """
    charges = [entry.charge for entry in ledger.entries()]
    cap = Cap(epsilon=site.privacy.cap_epsilon, delta=site.privacy.cap_delta)
    left, unknown = None, ""
    try:
        left = _rounds_left(charges, site, plan=plan, cap=cap)
    except (DataError, OSError) as error:
        # Whoever looks need not have the right to the images, and what was spent is known without them.
        unknown = str(error)
    return Report(
        hospital=site.hospital,
        ledger=ledger,
        cap=cap,
        spent=spending(charges, cap.delta),
        plan=plan,
        charged=sum(charge.plan_hash == plan.digest and charge.kind == "train" for charge in charges),
        left=left,
        unknown=unknown,
        steps=tuple(_over_time(ledger.entries())),
    )


def _rounds_left(charges: Sequence[Charge], site: SiteConfig, *, plan: Plan, cap: Cap) -> int:
    # Another rule than that of the charges before lets both accounts pay for everything.
    rule = site_held_out_rule(DataPlace.of_site(site), plan)
    member = plan.roster[plan.agreed.position(site.hospital)]
    *statistics, training = planned_charges(plan, member, held_out_rule=rule)
    # They are taken before the first training round, so what was charged under this plan holds them already.
    begun = any(charge.plan_hash == plan.digest and charge.kind != "eval" for charge in charges)
    due = [] if begun else statistics
    return charges_left([*charges, *due], training, cap=cap, at_most=MOST_ROUNDS)


def for_programs(shown: Report) -> dict[str, Any]:
    """The report for programs."""
    return {
        "hospital": shown.hospital,
        "ledger": str(shown.ledger.path),
        "source": shown.ledger.source,
        "public_key": shown.ledger.public_key,
        "head": shown.ledger.head(),
        "spent": asdict(shown.spent) | {"epsilon": shown.spent.epsilon, "epsilon_alone": shown.spent.epsilon_alone},
        "cap": asdict(shown.cap),
        "plan": {
            "name": shown.plan.name,
            "digest": shown.plan.digest,
            "rounds": shown.plan.training.rounds,
            "rounds_charged": shown.charged,
            "rounds_left": shown.left,
            "rounds_left_unknown": shown.unknown,
        },
        "over_time": [asdict(step) for step in shown.steps],
        "entries": [row_of(entry) for entry in shown.ledger.entries()],
    }


def _over_time(entries: Sequence[LedgerEntry]) -> Iterator[Step]:
    after = {"train": 0.0, "eval": 0.0}
    for (day, run), together in groupby(entries, key=lambda entry: (when(entry)[:10], entry.charge.run)):
        count = 0
        for entry in together:
            after[entry.charge.account] = entry.epsilon
            count += 1
        yield Step(day=day, run=run, charges=count, train=after["train"], eval=after["eval"])
