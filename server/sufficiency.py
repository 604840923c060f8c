"""Whether the answers to a step are enough, and what follows if they are not."""

from __future__ import annotations

from common.errors import NotFresh
from server.ask import Attempt
from server.exchange import Collection, explain
from server.store import Outcome

# An observer without a reason is not in the round's opening, and one that was just started asks its peers: both take
# part again soon.
_PASSING = ("", NotFresh.__name__)


def done(collection: Collection) -> frozenset[str]:
    """Hospitals that have answered as asked: with an upload of the largest group, where uploads are asked for."""
    return collection.total.largest if collection.expected.wants_uploads else collection.answered


def is_hopeless(outcomes: tuple[Outcome, ...], collection: Collection, *, needed: int) -> bool:
    """Whether so many hospitals sit uploads out for a reason that stays that the others are too few."""
    if not collection.expected.wants_uploads:
        return False
    sitting_out = [one for one in outcomes if one.outcome == "observed" and one.code not in _PASSING]
    return len(outcomes) - len(sitting_out) < needed


def is_stuck(outcomes: tuple[Outcome, ...], collection: Collection, *, needed: int) -> bool:
    """Whether enough hospitals are there, and yet too few can upload under the round's opening, which is fixed.

    So it is when hospitals of the opening have lost their masks. The next round opens anew.
    """
    waiting = any(one.code == NotFresh.__name__ for one in outcomes)
    return collection.expected.wants_uploads and len(collection.answered) >= needed and not waiting


def stop_reason(opened: Attempt, outcomes: tuple[Outcome, ...], *, attempts: int, needed: int) -> str:
    """Why a step ends without enough answers, for the operator."""
    step, answered = opened.step, done(opened.collection)
    return (
        f"{step.kind} {step.round} stopped at attempt {opened.number + 1} of {attempts}: "
        f"{len(answered)} of {len(outcomes)} hospitals answered as asked, {needed} are needed; "
        f"{explain(outcomes, answered)}; mend these hospitals"
    )
