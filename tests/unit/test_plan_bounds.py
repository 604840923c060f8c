"""How many hospitals may drop out of a round or side with the coordinator: the protocol's table, and what is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from client.plan_in_words import cohort_in_words, plan_in_words
from common.config import load_settings, parse_settings
from common.errors import ConfigError, PlanError
from common.identity import Identity
from common.plan import Plan
from common.plan_bounds import check_bounds, default_threshold, most_colluders
from common.site_config import SitePrivacy
from scripts.agree import agree
from tests.support.cards import make_card
from tests.support.small_federation import template

PLANS = sorted((Path(__file__).parents[2] / "configs" / "plans").glob("*.yaml"))
COORDINATOR = Identity.generate()


def agreed(hospitals: int, **cohort: int | str) -> Plan:
    """The small plan with that many hospitals, as `fedward provision` fills it."""
    cards = [make_card(f"hospital-{number}") for number in range(1, hospitals + 1)]
    return agree(template(cohort=cohort), cards, COORDINATOR)


# Hospitals, threshold, how many may drop out, most colluders: the protocol's examples.
TABLE = [(3, 3, 0, 1), (4, 3, 1, 1), (5, 4, 1, 2), (10, 7, 3, 3)]


@pytest.mark.parametrize(("hospitals", "threshold", "away", "colluders"), TABLE)
def test_auto_gives_the_protocols_table(hospitals: int, threshold: int, away: int, colluders: int) -> None:
    """Written out, since the formula could be wrong in code and in a property alike."""
    plan = agreed(hospitals)
    assert (plan.cohort.threshold, plan.cohort.min_cohort) == (threshold, threshold)
    assert (plan.threshold, plan.min_cohort, plan.needed) == (threshold, threshold, threshold)
    assert hospitals - plan.needed == away
    assert most_colluders(hospitals, threshold=plan.threshold, min_cohort=plan.min_cohort) == colluders


def test_the_threshold_of_a_plan_is_not_lowered_by_auto() -> None:
    """A number beside `auto` stays, and the smallest cohort follows it; it may be larger, too."""
    assert agreed(6, threshold=6).needed == 6
    larger = agreed(5, min_cohort=5)
    assert (larger.threshold, larger.min_cohort, larger.needed) == (4, 5, 5)


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.name)
def test_every_sample_plan_goes_with_any_number_of_hospitals(path: Path) -> None:
    """`fedward demo --hospitals N`; a demo's template holds no numbers of another roster."""
    cohort = load_settings(path, Plan).cohort
    assert (cohort.threshold, cohort.min_cohort, cohort.assumed_colluders) == ("auto", "auto", 1)
    for hospitals in (3, 4, 5, 10, 50):
        assert cohort.filled(hospitals).threshold == default_threshold(hospitals)


@pytest.mark.parametrize("cohort", [{}, {"threshold": 4, "min_cohort": 5}])
def test_a_template_has_no_numbers_yet(cohort: dict[str, Any]) -> None:
    """Its own were not checked against a roster; a template with numbers is still one."""
    plan = template(cohort=cohort)
    for name in ("threshold", "min_cohort", "needed"):
        with pytest.raises(PlanError, match=r"plan 'small' has no .* yet; run `fedward provision` on it first"):
            getattr(plan, name)


TWO_SUMS = (
    "the coordinator could have two different sums of one round revealed, whose difference may be a single update"
)
# Hospitals, threshold, smallest cohort, colluders; what is seen and allowed; why.
UNSOUND: list[tuple[tuple[int, ...], str, str]] = [
    ((5, 3, 4, 1), "threshold: seen 3 with 5 hospitals and 1 assumed colluder; 4 to 5", f"with 3 {TWO_SUMS}"),
    ((10, 7, 7, 4), "threshold: seen 7 with 10 hospitals and 4 assumed colluders; 8 to 10", f"with 7 {TWO_SUMS}"),
    ((6, 5, 5, 4), "threshold: seen 5 with 6 hospitals and 4 assumed colluders; only 6", f"with 5 {TWO_SUMS}"),
    (
        (5, 6, 6, 1),
        "threshold: seen 6 with 5 hospitals and 1 assumed colluder; 4 to 5",
        "with more than there are, no sum could ever be unmasked",
    ),
    (
        (5, 4, 3, 1),
        "min_cohort: seen 3 with 5 hospitals and threshold 4; 4 to 5",
        "the 4 that must reveal a sum are to be in it",
    ),
    (
        (3, 3, 4, 1),
        "min_cohort: seen 4 with 3 hospitals and threshold 3; only 3",
        "a round of more hospitals than there are never comes",
    ),
    (
        (4, 4, 4, 3),
        "assumed_colluders: seen 3 with 4 hospitals; at most 2",
        "colluders take their own updates out of a sum, and what is left must hold two others' at least",
    ),
]


@pytest.mark.parametrize(("numbers", "allowed", "why"), UNSOUND)
def test_unsound_numbers_are_refused_with_the_reason(numbers: tuple[int, ...], allowed: str, why: str) -> None:
    """What was seen, what is allowed for so many hospitals, and why; test_auto_gives_the_protocols_table controls."""
    hospitals, threshold, min_cohort, colluders = numbers
    with pytest.raises(PlanError) as caught:
        check_bounds(hospitals, threshold=threshold, min_cohort=min_cohort, assumed_colluders=colluders)
    assert str(caught.value) == f"cohort.{allowed} is allowed: {why}"


def test_an_agreed_plan_whose_numbers_were_changed_is_refused() -> None:
    """Not only where provision fills it in; the control is the plan as it was agreed."""
    content = agreed(5).model_dump(mode="json")
    assert parse_settings(yaml.safe_dump(content), Plan, source="plan.yaml").needed == 4
    content["cohort"] |= {"threshold": 3, "min_cohort": 3}
    with pytest.raises(ConfigError, match=r"^plan\.yaml: cohort\.threshold: seen 3 with 5 hospitals"):
        parse_settings(yaml.safe_dump(content), Plan, source="plan.yaml")


def test_two_hospitals_are_refused() -> None:
    """By provision too, before it computes anything."""
    with pytest.raises(PlanError, match=r"^seen 2 hospitals; at least 3 are allowed: "):
        agreed(2)


@pytest.mark.parametrize(
    ("hospitals", "drop_out", "hold", "collude"),
    [
        (3, "None of the 3 hospitals", "all 3, and 3", "1 hospital"),
        (5, "1 of the 5 hospitals", "at least 4, and 4", "2 hospitals"),
        (10, "3 of the 10 hospitals", "at least 7, and 7", "3 hospitals"),
    ],
)
def test_whoever_approves_reads_what_the_numbers_mean(hospitals: int, drop_out: str, hold: str, collude: str) -> None:
    """In words, among all else that the plan asks for."""
    plan = agreed(hospitals)
    said = (
        f"{drop_out} may drop out of a round: every sum holds the updates of {hold} must help to unmask it.",
        f"The coordinator together with up to {collude} could not read a single update; the plan assumes 1.",
    )
    assert cohort_in_words(plan) == said
    privacy = SitePrivacy(source="images", cap_epsilon=8.0, cap_delta=1e-5, metrics="none", min_cohort=3)
    assert set(said) <= set(plan_in_words(plan, hospital="hospital-1", privacy=privacy, units=None))
