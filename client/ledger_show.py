"""What `fedward-client ledger show` says of a ledger: entries, spending over time, both accounts, what is left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from client.ledger_cap import Cap, Spending, charges_left, spending
from client.ledger_copy import LedgerCopy
from client.ledger_entry import LedgerEntry
from client.ledger_export import row_of, when
from client.planned_charges import planned_charges
from common.plan import Plan
from common.printable import printable

MOST_ROUNDS = 10_000
_BAR_WIDTH = 30


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
        left: Training rounds of it that still fit under the cap, at most MOST_ROUNDS.
        steps: Spending over time.
    """

    hospital: str
    ledger: LedgerCopy
    cap: Cap
    spent: Spending
    plan: Plan
    charged: int
    left: int
    steps: tuple[Step, ...]


def report(ledger: LedgerCopy, *, hospital: str, cap: Cap, plan: Plan) -> Report:
    """Compute what is shown.

    Args:
        ledger: The ledger, verified.
        hospital: Name in the plan's roster.
        cap: The site's own limit.
        plan: The agreed plan.
    """
    charges = [entry.charge for entry in ledger.entries()]
    own = [charge for charge in charges if charge.plan_hash == plan.digest and charge.kind == "train"]
    *before, training = planned_charges(plan, plan.roster[plan.agreed.position(hospital)])
    # Training begins behind the round of statistics.
    due = [] if own else before
    return Report(
        hospital=hospital,
        ledger=ledger,
        cap=cap,
        spent=spending(charges, cap.delta),
        plan=plan,
        charged=len(own),
        left=charges_left([*charges, *due], training, cap=cap, at_most=MOST_ROUNDS),
        steps=tuple(_over_time(ledger.entries())),
    )


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
        },
        "over_time": [asdict(step) for step in shown.steps],
        "entries": [row_of(entry) for entry in shown.ledger.entries()],
    }


def lines(shown: Report) -> Iterator[str]:
    """The report for people."""
    ledger, spent, cap = shown.ledger, shown.spent, shown.cap
    entries = ledger.entries()
    yield f"{shown.hospital}: ledger of source '{printable(ledger.source)}', {len(entries)} entries"
    if entries:
        yield ""
        yield from _table([_HEAD, *(_cells(entry) for entry in entries)])
        yield ""
        yield "epsilon after each day's charges of a run, of the larger account, as recorded"
        yield from (_chart_line(step, cap) for step in shown.steps)
    yield ""
    yield f"spent at delta {cap.delta:g}: training units {spent.train:.4f}, held-out units {spent.eval:.4f}"
    if spent.epsilon_alone > spent.epsilon:
        yield (
            "if all other hospitals collude, since some charges are shares of noise: training units "
            f"{spent.train_alone:.4f}, held-out units {spent.eval_alone:.4f}"
        )
    yield f"cap: epsilon {cap.epsilon:g} for each unit of either account"
    more = f"{MOST_ROUNDS} or more" if shown.left >= MOST_ROUNDS else str(shown.left)
    yield (
        f"left: {more} rounds of plan '{shown.plan.name}', which has {shown.plan.training.rounds}; {shown.charged} "
        "rounds of it are charged"
    )


_HEAD = ("#", "time (UTC)", "run", "round", "kind", "mode", "q", "sigma", "C", "steps", "epsilon", "alone", "delta")


def _cells(entry: LedgerEntry) -> tuple[str, ...]:
    charge, event = entry.charge, entry.charge.event
    return (
        str(entry.sequence),
        when(entry).removesuffix("+00:00").replace("T", " "),
        printable(charge.run[:8]),
        str(charge.round_number),
        charge.kind,
        charge.mode if charge.shares == 1 else f"{charge.mode}/{charge.shares}",
        f"{event.q:g}",
        f"{event.sigma:.4f}",
        f"{charge.clip:g}",
        str(event.steps),
        f"{entry.epsilon:.4f}",
        f"{entry.epsilon_alone:.4f}",
        f"{entry.delta:g}",
    )


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))


def _chart_line(step: Step, cap: Cap) -> str:
    epsilon = max(step.train, step.eval)
    bar = "#" * min(_BAR_WIDTH, round(_BAR_WIDTH * epsilon / cap.epsilon))
    return f"{step.day}  {printable(step.run[:8]):8}  {step.charges:4d} charges  {epsilon:9.4f}  |{bar:{_BAR_WIDTH}}|"


def _over_time(entries: Sequence[LedgerEntry]) -> Iterator[Step]:
    after = {"train": 0.0, "eval": 0.0}
    for (day, run), together in groupby(entries, key=lambda entry: (when(entry)[:10], entry.charge.run)):
        count = 0
        for entry in together:
            after[entry.charge.account] = entry.epsilon
            count += 1
        yield Step(day=day, run=run, charges=count, train=after["train"], eval=after["eval"])
