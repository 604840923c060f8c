"""How many hospitals a round needs, so that no sum of it ever gives away a single update.

n hospitals hold shares of every mask; t of them must reveal theirs to unmask a sum; c of them may be colluders: they
show the coordinator all that they hold and reveal whatever it asks for. An honest hospital reveals once per round.
docs/protocol.md has the proof of what stands here.
"""

from __future__ import annotations

from common.errors import PlanError
from common.shamir import MOST_PARTIES

FEWEST_HOSPITALS = 3
# What is left of a sum without the colluders' own updates: one update alone would be read.
FEWEST_HONEST = 2


def default_threshold(hospitals: int) -> int:
    """The t of `threshold: auto`: floor(2n/3) + 1; sound with one colluder for every n >= 3."""
    return 2 * hospitals // 3 + 1


def check_bounds(hospitals: int, *, threshold: int, min_cohort: int, assumed_colluders: int) -> None:
    """Refuse numbers under which a coordinator with its colluders could read a single update.

    Args:
        hospitals: n, the length of the roster.
        threshold: t, how many must reveal.
        min_cohort: Fewest contributors of a sum.
        assumed_colluders: c.

    Raises:
        PlanError: Unless n >= 3, 2t >= n + c + 1, t <= min_cohort <= n and min_cohort - c >= 2; says what is allowed.

    Guarantees:
        Two sums of one round take 2(t - c) revealing honest hospitals, more than the n - c that there are. With
        c <= n - 2, which is checked first, 2t >= n + c + 1 >= 2c + 3 gives t >= c + 2: so min_cohort - c >= 2.
    """
    check_hospitals(hospitals)
    colluders = _count(assumed_colluders, "assumed colluder")
    if assumed_colluders > hospitals - FEWEST_HONEST:
        raise PlanError(
            f"cohort.assumed_colluders: seen {assumed_colluders} with {hospitals} hospitals; at most "
            f"{hospitals - FEWEST_HONEST} is allowed: colluders take their own updates out of a sum, and what is left "
            "must hold two others' at least"
        )
    lowest = (hospitals + assumed_colluders) // 2 + 1
    if not lowest <= threshold <= hospitals:
        why = (
            "with more than there are, no sum could ever be unmasked"
            if threshold > hospitals
            else f"with {threshold} the coordinator could have two different sums of one round revealed, whose "
            "difference may be a single update"
        )
        raise PlanError(
            f"cohort.threshold: seen {threshold} with {hospitals} hospitals and {colluders}; "
            f"{_span(lowest, hospitals)} is allowed: {why}"
        )
    if not threshold <= min_cohort <= hospitals:
        why = (
            "a round of more hospitals than there are never comes"
            if min_cohort > hospitals
            else f"the {threshold} that must reveal a sum are to be in it"
        )
        raise PlanError(
            f"cohort.min_cohort: seen {min_cohort} with {hospitals} hospitals and threshold {threshold}; "
            f"{_span(threshold, hospitals)} is allowed: {why}"
        )


def check_hospitals(hospitals: int) -> None:
    """Refuse a roster that is too short for any secret, or too long for one round's shares.

    Raises:
        PlanError: If there are fewer than three or more than sixty.
    """
    if hospitals < FEWEST_HOSPITALS:
        raise PlanError(
            f"seen {_count(hospitals, 'hospital')}; at least {FEWEST_HOSPITALS} are allowed: each of two would "
            "read the other's update from their sum"
        )
    if hospitals > MOST_PARTIES:
        raise PlanError(
            f"{hospitals} hospitals take part; at most {MOST_PARTIES} are allowed: each deals shares to all others in "
            "every round; let several sites join as one hospital"
        )


def most_colluders(hospitals: int, *, threshold: int, min_cohort: int) -> int:
    """How many hospitals may side with the coordinator before a single update could be read: the largest sound c."""
    return min(2 * threshold - hospitals - 1, min_cohort - FEWEST_HONEST)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _span(lowest: int, highest: int) -> str:
    return f"only {highest}" if lowest == highest else f"{lowest} to {highest}"
