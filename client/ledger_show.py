"""What `fedward-client ledger show` says to people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from client.ledger_cap import Cap
from client.ledger_entry import LedgerEntry
from client.ledger_export import when
from client.ledger_report import MOST_ROUNDS, Report, Step
from common.plural import counted
from common.printable import printable

_BAR_WIDTH = 30


def lines(shown: Report) -> Iterator[str]:
    """The report for people."""
    ledger, spent, cap = shown.ledger, shown.spent, shown.cap
    entries = ledger.entries()
    count = counted(len(entries), "entry", "entries")
    yield f"{shown.hospital}: ledger of source '{printable(ledger.source)}', {count}"
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
    yield _left(shown)


def _left(shown: Report) -> str:
    plan = f"plan '{shown.plan.name}', which has {shown.plan.training.rounds}"
    charged = f"{counted(shown.charged, 'round')} of it {'is' if shown.charged == 1 else 'are'} charged"
    if shown.left is None:
        return f"left: not known how many rounds of {plan}: {printable(shown.unknown)}; {charged}"
    more = f"{MOST_ROUNDS} rounds or more" if shown.left >= MOST_ROUNDS else counted(shown.left, "round")
    return f"left: {more} of {plan}; {charged}"


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
    charges = counted(step.charges, "charge")
    return f"{step.day}  {printable(step.run[:8]):8}  {charges:>12}  {epsilon:9.4f}  |{bar:{_BAR_WIDTH}}|"
