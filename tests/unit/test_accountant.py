"""The accountant against closed forms and other accountants."""

from __future__ import annotations

import math
import warnings

import pytest
from dp_accounting import GaussianDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import erfc, erfcx

from client import accountant
from client.accountant import GRID_BITS, PrivacyEvent, check_delta, epsilon_of
from client.calibrate import gaussian_sigma, solve_sigma
from client.noise import discrete_gaussian
from common.errors import LedgerError, LocalProtocolError, PlanError


def analytic_delta(sigma: float, epsilon: float) -> float:
    """Oracle: Balle and Wang, 2018, theorem 8."""

    def phi(t: float) -> float:
        return math.erfc(-t / math.sqrt(2)) / 2

    return phi(0.5 / sigma - epsilon * sigma) - math.exp(epsilon) * phi(-0.5 / sigma - epsilon * sigma)


def analytic_epsilon(sigma: float, delta: float) -> float:
    """Epsilon of one Gaussian mechanism of sensitivity 1."""
    low, high = 0.0, 100.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if analytic_delta(sigma, middle) > delta else (low, middle)
    return high


@pytest.mark.parametrize("sigma", [0.6, 1.0, 2.0, 5.0, 20.0])
@pytest.mark.parametrize("delta", [1e-6, 1e-5, 1e-3])
def test_one_gaussian_costs_what_the_closed_form_says(sigma: float, delta: float) -> None:
    """PLD is an upper bound, and a tight one: the closed form is exact."""
    exact = analytic_epsilon(sigma, delta)
    spent = epsilon_of([PrivacyEvent(1.0, sigma, 1)], delta)
    assert exact <= spent <= exact + 2e-4


@settings(max_examples=10, deadline=None)
@given(
    parts=st.lists(st.tuples(st.floats(2.0, 50.0), st.integers(1, 40)), min_size=1, max_size=5),
)
def test_full_batch_steps_compose_to_one_gaussian(parts: list[tuple[float, int]]) -> None:
    """The composition is exact: 1/sigma^2 add up."""
    total = 1 / math.sqrt(math.fsum(steps / sigma**2 for sigma, steps in parts))
    exact = analytic_epsilon(total, 1e-5)
    spent = epsilon_of([PrivacyEvent(1.0, sigma, steps) for sigma, steps in parts], 1e-5)
    assert exact <= spent <= exact + 3e-4


def test_merged_full_batches_equal_what_pld_composes_step_by_step() -> None:
    """The shortcut for q = 1 must not be cheaper than composing the distributions one by one."""
    stepwise = PLDAccountant()
    for _ in range(5):
        stepwise.compose(GaussianDpEvent(4.0))
    merged = epsilon_of([PrivacyEvent(1.0, 4.0, 5)], 1e-5)
    assert merged == pytest.approx(stepwise.get_epsilon(1e-5), abs=5e-4)


@pytest.mark.parametrize(("q", "sigma", "steps"), [(0.05, 1.0, 300), (0.25, 2.0, 20), (0.5, 4.0, 50)])
def test_poisson_steps_agree_with_the_accountants_of_opacus(q: float, sigma: float, steps: int) -> None:
    """Opacus' PRV accountant estimates within its error, its RDP accountant bounds from above."""
    from opacus.accountants import PRVAccountant, RDPAccountant  # noqa: PLC0415 -- slow import, one test

    prv, rdp = PRVAccountant(), RDPAccountant()
    for theirs in (prv, rdp):
        theirs.history = [(sigma, q, steps)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both print advice about orders and grid sizes
        estimate, bound = prv.get_epsilon(1e-5), rdp.get_epsilon(1e-5)
    spent = epsilon_of([PrivacyEvent(q, sigma, steps)], 1e-5)
    assert estimate - 0.02 <= spent <= estimate + 0.02
    assert spent <= bound


def test_mixed_events_cost_more_than_each_and_less_than_their_sum() -> None:
    """Composition is sublinear, and forgets nothing."""
    full, poisson = PrivacyEvent(1.0, 6.0, 10), PrivacyEvent(0.1, 1.0, 100)
    together = epsilon_of([full, poisson], 1e-5)
    single = epsilon_of([full], 1e-5), epsilon_of([poisson], 1e-5)
    assert max(single) < together < sum(single)


def test_the_order_and_grouping_of_events_do_not_matter() -> None:
    """Ten rounds of two steps cost what twenty steps cost, among others too: no budget is won by rounds."""
    others = [PrivacyEvent(1.0, 7.0, 1), PrivacyEvent(0.1, 1.0, 30)]
    rounds = [PrivacyEvent(1.0, 5.0, 2)] * 10
    due = epsilon_of([PrivacyEvent(1.0, 5.0, 20), *others], 1e-5)
    for events in (
        [*rounds, *others],
        [*others, *rounds],
        [*others[::-1], *rounds],
        [*rounds[3:], *others, *rounds[:3]],
    ):
        assert epsilon_of(events, 1e-5) == due


class _TwiceTheNoise(RdpAccountant):  # type: ignore[misc]
    """A third-party accountant with a mistake."""

    def compose(self, event: GaussianDpEvent, count: int = 1) -> object:
        return super().compose(GaussianDpEvent(2 * event.noise_multiplier), count)


def test_accountants_that_contradict_each_other_stop_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard: PLD may never pass the RDP bound; here the bound is made wrong."""
    monkeypatch.setattr(accountant, "RdpAccountant", _TwiceTheNoise)
    with pytest.raises(LedgerError, match="one of them is wrong"):
        epsilon_of([PrivacyEvent(1.0, 3.33, 7)], 1e-5)


def test_no_event_costs_nothing() -> None:
    """A new ledger has spent zero."""
    assert epsilon_of([], 1e-5) == 0.0


@pytest.mark.parametrize(
    ("epsilon", "delta", "q", "steps", "known"),
    [
        (8.0, 1e-5, 1.0, 20, 2.6843),  # Balle-Wang: 0.60024 * sqrt(20)
        (3.0, 1e-5, 1.0, 20, 6.2190),
        (1.0, 1e-5, 1.0, 1, 3.7306),  # the published calibration of the analytic Gaussian
        (3.0, 1e-5, 0.5, 20, 3.3230),
    ],
)
def test_sigma_is_the_smallest_that_the_budget_allows(
    epsilon: float, delta: float, q: float, steps: int, known: float
) -> None:
    """Never beyond the budget, and not a tenth of a thousandth too much noise."""
    sigma = solve_sigma(epsilon=epsilon, delta=delta, q=q, steps=steps)
    assert sigma == pytest.approx(known, rel=3e-4)
    assert epsilon_of([PrivacyEvent(q, sigma, steps)], delta) <= epsilon
    assert epsilon_of([PrivacyEvent(q, sigma * (1 - 1e-4), steps)], delta) > epsilon


@settings(max_examples=10, deadline=None)
@given(epsilon=st.floats(0.05, 30.0), steps=st.integers(1, 500), delta=st.sampled_from([1e-8, 1e-5, 1e-3]))
def test_sigma_of_full_batches_spends_any_budget_and_no_more(epsilon: float, steps: int, delta: float) -> None:
    """The promise holds over the range of plans; for Poisson batches the cases above and below stand."""
    sigma = solve_sigma(epsilon=epsilon, delta=delta, q=1.0, steps=steps)
    spent = epsilon_of([PrivacyEvent(1.0, sigma, steps)], delta)
    assert epsilon * 0.99 - 2e-4 <= spent <= epsilon


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.nan, math.inf, 1000.1])
def test_an_epsilon_that_is_no_budget_is_refused(epsilon: float) -> None:
    """An epsilon <= 0 cannot be solved for, and more than 1000 cannot be counted in shares."""
    with pytest.raises(PlanError, match="epsilon > 0 up to 1000 is allowed"):
        solve_sigma(epsilon=epsilon, delta=1e-5, q=1.0, steps=1)


@pytest.mark.parametrize("delta", [1e-300, 9e-13, 0.0, 1.0, math.nan])
def test_a_delta_that_cannot_be_accounted_for_is_refused_by_name(delta: float) -> None:
    """It used to end in the advice to reinstall an accountant that was sound."""
    with pytest.raises(PlanError, match=r"privacy\.delta: seen .*; 1e-12 to less than 1 is allowed"):
        solve_sigma(epsilon=3.0, delta=delta, q=1.0, steps=20)


@pytest.mark.parametrize("rate", [1e-9, 9e-4, 0.0, 1.1, math.nan])
def test_a_rate_that_leaves_nobody_is_refused_by_name(rate: float) -> None:
    """At 1e-9 the noise multiplier that the budget allows is 0.002: training without noise, for nobody."""
    with pytest.raises(PlanError, match=r"training\.sampling\.rate: seen .*; 0\.001 to 1 is allowed"):
        solve_sigma(epsilon=3.0, delta=1e-5, q=rate, steps=20)


@pytest.mark.parametrize(("delta", "q", "steps"), [(1e-12, 1.0, 20), (1e-12, 0.25, 2000), (1e-5, 1e-3, 10_000)])
def test_the_least_delta_and_rate_are_accounted_for(delta: float, q: float, steps: int) -> None:
    """The control of both bounds: at them the budget is used and kept."""
    sigma = solve_sigma(epsilon=3.0, delta=delta, q=q, steps=steps)
    assert 2.9 < epsilon_of([PrivacyEvent(q, sigma, steps)], delta) <= 3.0


@pytest.mark.parametrize("delta", [1e-12, 1e-5])
@pytest.mark.parametrize("epsilon", [690.0, 712.0, 725.0, 740.0, 1000.0])
def test_a_large_epsilon_is_counted_as_the_closed_form_says(epsilon: float, delta: float) -> None:
    """Between 709 and 745 exp(-epsilon) is no normal float: sigma used to overflow, and the PLD to say infinity."""
    sigma = gaussian_sigma(epsilon, delta)
    a, b = ((epsilon * sigma + sign / (2 * sigma)) / math.sqrt(2) for sign in (-1, 1))
    # Of e^epsilon erfc(b) neither factor is a float: b^2 - a^2 is epsilon.
    exact = (erfc(a) - math.exp(-a * a) * erfcx(b)) / 2
    assert exact == pytest.approx(delta, rel=1e-5)
    assert epsilon <= epsilon_of([PrivacyEvent(1.0, sigma, 1)], delta) <= 1.005 * epsilon


@pytest.mark.parametrize(("epsilon", "q", "shares"), [(386.0, 1.0, 2), (720.0, 0.1, 2), (1000.0, 1.0, 58)])
def test_what_one_share_of_any_budget_leaves_alone_can_be_counted(epsilon: float, q: float, shares: int) -> None:
    """`approve` states it and each entry of the ledger; a share of epsilon 386 used to end in a broken accountant."""
    sigma = solve_sigma(epsilon=epsilon, delta=1e-5, q=q, steps=30)
    promised = epsilon_of([PrivacyEvent(q, sigma, 30)], 1e-5)
    alone = epsilon_of([PrivacyEvent(q, sigma / math.sqrt(shares), 30)], 1e-5)
    assert 0.99 * epsilon < promised <= epsilon
    assert 1.5 * promised < alone < math.inf


def test_a_budget_that_asks_for_no_noise_is_refused() -> None:
    """With a delta above the chance of taking part at all; it used to end in the advice to reinstall an accountant."""
    with pytest.raises(PlanError, match=r"asks for a noise multiplier below 0\.02; more is allowed"):
        solve_sigma(epsilon=8.0, delta=0.015, q=1e-3, steps=1)


def test_more_noise_than_can_be_drawn_is_refused() -> None:
    """It used to be refused by the sampler, behind the charge; the control is the least epsilon of a site's counts."""
    with pytest.raises(PlanError, match=r"privacy\.epsilon: seen 1e-07, which asks for a noise multiplier of"):
        solve_sigma(epsilon=1e-7, delta=1e-12, q=1.0, steps=1)
    sigma = solve_sigma(epsilon=1e-3, delta=1e-12, q=1.0, steps=1)
    assert discrete_gaussian(4, sigma * 2.0**GRID_BITS).any()


@pytest.mark.parametrize(("delta", "units"), [(0.01, 100), (0.5, 100), (0.0, 100), (1e-5, 0), (math.nan, 10)])
def test_a_delta_that_would_allow_publishing_a_unit_is_refused(delta: float, units: int) -> None:
    """With delta = 1/n, releasing one random unit in clear counts as private."""
    with pytest.raises(PlanError):
        check_delta(delta, units)


def test_a_small_delta_passes() -> None:
    """The control of the refusals above."""
    check_delta(1e-5, 352)


@pytest.mark.parametrize(("q", "sigma", "steps"), [(0.0, 1.0, 1), (1.1, 1.0, 1), (1.0, 0.0, 1), (1.0, 1.0, 0)])
def test_an_event_outside_its_range_is_refused(q: float, sigma: float, steps: int) -> None:
    """A free event would hide spending."""
    with pytest.raises(LocalProtocolError):
        PrivacyEvent(q, sigma, steps)
