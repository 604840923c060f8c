"""Whether the answers to a step are enough, and what follows if they are not."""

from __future__ import annotations

from collections.abc import Sequence

from common.errors import DeploymentError, NobodyContributes, NotFresh
from server.ask import Attempt
from server.exchange import Collection, explain
from server.steps import Step
from server.store import Outcome

# An observer without a reason is not in the round's opening, and one that was just started asks its peers: both take
# part again soon.
_PASSING = ("", NotFresh.__name__)


def done(collection: Collection) -> frozenset[str]:
    """Hospitals that have answered as asked: with an upload of the largest group, where uploads are asked for."""
    return collection.total.largest if collection.expected.wants_uploads else collection.answered


def still_wanted(step: Step, opened: Attempt, *, hospitals: Sequence[str], needed: int) -> frozenset[str]:
    """Hospitals whose answer to a step is still needed; empty if the step is complete.

    Args:
        step: The step.
        opened: Its attempt.
        hospitals: The roster.
        needed: How many answers are enough; the last aggregate is for all that are there.
    """
    if step.kind == "finish":
        return (frozenset(opened.nodes) | opened.collection.catching_up.keys()) - opened.collection.answered
    answered = done(opened.collection)
    return frozenset() if len(answered) >= needed else frozenset(hospitals) - answered


def check_hope(opened: Attempt, outcomes: tuple[Outcome, ...], *, attempts: int, needed: int) -> None:
    """End the run's work if asking again cannot help, or is not allowed; a round that is stuck is skipped.

    Args:
        opened: An attempt that fell short.
        outcomes: What the hospitals did.
        attempts: How many there are.
        needed: How many answers are enough.

    Raises:
        NobodyContributes: If so many sit the round out that the others are too few.
        DeploymentError: If this was the last attempt.
    """
    reason = stop_reason(opened, outcomes, attempts=attempts, needed=needed)
    if is_hopeless(outcomes, opened.collection, needed=needed):
        raise NobodyContributes(reason)
    if opened.number + 1 == attempts and not is_stuck(outcomes, opened.collection, needed=needed):
        raise DeploymentError(reason)


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
