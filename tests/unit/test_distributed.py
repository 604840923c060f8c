"""Mode `distributed`: which plans are sound, what a share of noise is, and whole runs that add up shares."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from client.encode import encode_steps
from client.head_sum import FINEST_BITS
from client.mechanism import Mechanism
from client.noise import discrete_gaussian
from client.noise_multipliers import noise_multipliers
from client.shared_noise import NoiseShare, check_room, noise_share
from client.state import initial_state
from common.config import parse_settings
from common.distributed import grid_of, honest_shares, shares_of
from common.errors import ConfigError, PlanError
from common.plan import Plan
from tests.support.small_federation import NAMES, SmallFederation, provision_small, template

SHARED: dict[str, dict[str, Any]] = {"privacy": {"mode": "distributed"}, "encryption": {"preset": "precise"}}
SHARE = NoiseShare(parameters=300, units=40, clip=0.5, step=1.0e-9, shares=3)


def no_noise(count: int, _deviation: float) -> NDArray[np.int64]:
    """What stands for noise where sums are to be compared."""
    return np.zeros(count, np.int64)


@pytest.mark.parametrize(
    ("hospitals", "threshold", "min_cohort", "colluders", "shares"),
    [(3, 3, 3, 1, 2), (4, 3, 3, 1, 2), (5, 4, 4, 1, 3), (5, 4, 5, 1, 4), (10, 7, 7, 1, 5), (10, 7, 7, 3, 2)],
)
def test_the_least_honest_shares_of_a_sum_are_those_of_the_design(
    hospitals: int, threshold: int, min_cohort: int, colluders: int, shares: int
) -> None:
    """Figures of the design; ten hospitals with three colluders lose two by split views."""
    assert honest_shares(hospitals, threshold=threshold, min_cohort=min_cohort, assumed_colluders=colluders) == shares


@given(st.integers(3, 60), st.data())
def test_no_split_of_the_honest_hospitals_into_views_beats_the_bound(hospitals: int, data: st.DataObject) -> None:
    """Each view takes t - c of the honest, who are all in it, and leaves out n - min_cohort of all at most."""
    colluders = data.draw(st.integers(1, hospitals - 2))
    threshold = data.draw(st.integers((hospitals + colluders) // 2 + 1, hospitals))
    min_cohort = data.draw(st.integers(threshold, hospitals))
    shares = honest_shares(hospitals, threshold=threshold, min_cohort=min_cohort, assumed_colluders=colluders)
    honest = hospitals - colluders
    # As many disjoint groups as can reveal, each of which leaves as many honest hospitals out of its view as may be.
    groups = honest // (threshold - colluders)
    smallest_view = max(honest - (hospitals - min_cohort), 0)
    assert shares <= smallest_view
    assert shares <= honest - groups * (hospitals - min_cohort)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"local_steps": 2}}, "only local_steps 1 and momentum 0"),
        ({"training": {"momentum": 0.5}}, "only local_steps 1 and momentum 0"),
        ({"encryption": {"preset": "compact"}}, "only 'precise' is"),
        ({"privacy": {"mode": "distributed", "mean_share": 0.1}}, "it has no features"),
    ],
)
def test_an_unsound_combination_is_refused(changes: dict[str, Any], message: str) -> None:
    """Each would void the accounting: a template with it cannot be loaded."""
    template(**SHARED)
    with pytest.raises(ConfigError, match=message):
        template(**SHARED | changes)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of a federation that shares its noise."""
    folder = tmp_path_factory.mktemp("distributed")
    provision_small(folder, template(**SHARED))
    return folder


def agreed(plan: Plan, **changes: dict[str, Any]) -> Plan:
    """A plan with some keys of its sections replaced."""
    content = plan.model_dump(mode="json")
    content |= {name: {**content[name], **section} for name, section in changes.items()}
    return parse_settings(yaml.safe_dump(content), Plan, source="changed plan")


def test_a_roster_that_breaks_the_shares_is_refused(base: Path, tmp_path: Path) -> None:
    """An own budget, a grid that is too coarse, a bound without room for the noise, noise that the grid would show."""
    with SmallFederation.copy_of(base, tmp_path) as federation:
        plan = federation.plan
    assert shares_of(plan) == 2
    hospitals = [h.model_dump(mode="json") for h in plan.roster]
    hospitals[1]["epsilon"] = 1.0
    with pytest.raises(ConfigError, match="own budget of hospital-2"):
        agreed(plan, federation={"hospitals": hospitals})
    with pytest.raises(ConfigError, match="which makes a grid of step"):
        agreed(plan, encryption={"update_norm_bound": 1e9})
    with pytest.raises(PlanError, match="since nothing may be cut off after the noise"):
        check_room(agreed(plan, encryption={"update_norm_bound": plan.update_norm_bound / 2}))
    with pytest.raises(PlanError, match="grid steps per hospital"):
        SHARE.deviation(1e-8)
    check_room(plan)


def test_two_honest_shares_at_least_are_asked_for(base: Path, tmp_path: Path) -> None:
    """With two colluders of four hospitals every sum holds two honest ones, and split views could halve that."""
    with SmallFederation.copy_of(base, tmp_path) as federation:
        plan = federation.plan
    cohort = {"threshold": 4, "min_cohort": 4, "assumed_colluders": 2}
    assert shares_of(agreed(plan, cohort=cohort)) == 2
    six = honest_shares(6, threshold=5, min_cohort=5, assumed_colluders=3)
    assert six == 2
    assert honest_shares(6, threshold=5, min_cohort=5, assumed_colluders=4) < 2


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 1.0))
def test_one_unit_moves_the_rounded_sum_by_no_more_than_the_sensitivity(seed: int, size: float) -> None:
    """Also where the sum is longer than the declared units allow, and is projected."""
    random = np.random.default_rng(seed)
    scale = 2.0**FINEST_BITS

    def unit_vector() -> NDArray[np.float64]:
        vector = random.standard_normal(SHARE.parameters)
        return vector / np.linalg.norm(vector)

    before = np.rint(unit_vector() * scale * SHARE.units * 2 * size).astype(np.int64)
    after = before + np.rint(unit_vector() * scale).astype(np.int64)
    rounded = [SHARE.add(total, sigma=1.0, noise=no_noise) for total in (before, after)]
    moved = float(np.linalg.norm((rounded[1] - rounded[0]).astype(np.float64))) * SHARE.step
    assert moved <= SHARE.sensitivity
    assert np.linalg.norm(rounded[0].astype(np.float64)) * SHARE.step <= SHARE.units * SHARE.clip * (1 + 1e-9)


def test_the_shares_of_a_sum_add_up_to_the_noise_that_is_charged() -> None:
    """Variance over many numbers within a percent; the control, shares of one hospital alone, has a third of it."""
    sigma, share = 2.0, replace(SHARE, parameters=200_000)
    nothing = np.zeros(share.parameters, np.int64)
    shares = [share.add(nothing, sigma=sigma, noise=discrete_gaussian) for _ in range(share.shares)]
    charged = sigma * share.sensitivity / share.step
    assert float(np.std(np.sum(shares, axis=0))) == pytest.approx(charged, rel=0.01)
    assert float(np.std(shares[0])) == pytest.approx(charged / math.sqrt(3), rel=0.01)


def test_the_bound_holds_the_noisiest_sum() -> None:
    """Nothing is cut off after the noise, so the largest sum with its noise must fit."""
    full = np.zeros(SHARE.parameters, np.int64)
    full[0] = SHARE.units << FINEST_BITS
    for _ in range(50):
        steps = SHARE.add(full, sigma=3.0, noise=discrete_gaussian)
        assert np.linalg.norm(steps.astype(np.float64)) * SHARE.step < SHARE.bound(3.0)


def quiet(federation: SmallFederation) -> None:
    """Take the noise away, so that sums can be compared with an oracle."""
    for site in federation.sites.values():
        contributor = site._contributor
        object.__setattr__(contributor, "mechanism", replace(contributor.mechanism, sample=no_noise))


def mechanism(federation: SmallFederation, name: str) -> Mechanism:
    """What a site releases by."""
    return federation.sites[name]._contributor.mechanism


def test_a_round_moves_the_model_by_the_mean_gradient_of_those_who_took_part(base: Path, tmp_path: Path) -> None:
    """The oracle adds up what each hospital's own learner says, in exact integers; one hospital is away in round 2."""
    with SmallFederation.copy_of(base, tmp_path) as federation:
        quiet(federation)
        plan, grid = federation.plan, federation.grid
        parameters = federation.sites[NAMES[0]]._contributor.learner.initial
        velocity = np.zeros_like(parameters)
        for number, names in ((1, NAMES), (2, NAMES[1:])):
            learners = [federation.sites[name]._contributor.learner for name in names]
            totals = [one.gradient_total(parameters, feature_mean=np.zeros(0)) for one in learners]
            units = sum(h.declared_units for h in plan.roster if h.name in names)
            mean = np.sum(totals, axis=0) * (plan.privacy.clip * 2.0**-FINEST_BITS / units)
            velocity = 0.5 * velocity - plan.training.learning_rate * mean
            parameters = parameters + velocity
            federation.train(number, *names)
            federation.catch_up()
            moved = federation.state(NAMES[0]).optimiser
            np.testing.assert_allclose(moved.parameters, parameters, atol=len(names) * grid.step)
            parameters, velocity = moved.parameters, moved.velocity
        assert len({federation.tag(name) for name in NAMES}) == 1


def test_a_whole_run_is_charged_in_shares_and_stays_within_its_budget(base: Path, tmp_path: Path) -> None:
    """The plan's epsilon is that of all shares together; what one share alone gives is stated beside it, and larger."""
    with SmallFederation.copy_of(base, tmp_path) as federation:
        federation.coordinator.whole_run(federation.sites)
        ledger = federation.sites[NAMES[0]]._contributor.ledger
        charges = [entry.charge for entry in ledger.entries()]
        assert [(c.kind, c.mode, c.shares) for c in charges] == [("train", "distributed", 2)] * 2
        spending = ledger.spending(1e-5)
        assert 7.9 < spending.epsilon <= 8.0
        assert spending.epsilon_alone > spending.epsilon * 1.2
        sigma = noise_multipliers(federation.plan, federation.plan.roster[0]).train
        assert [c.event.sigma for c in charges] == [sigma] * 2
        first = federation.storage(NAMES[0]).rounds()
        assert set(first) == {1, 2, 3}


def test_what_leaves_has_the_share_of_noise_that_was_charged(base: Path, tmp_path: Path) -> None:
    """What is released minus the exact sum has the deviation of a share; without noise two releases are equal."""
    with SmallFederation.copy_of(base, tmp_path) as federation:
        plan, member = federation.plan, federation.plan.roster[0]
        ours = mechanism(federation, member.name)
        share, size = noise_share(plan, member), plan.agreed.trainable_parameters
        state = initial_state(ours.learner.initial, statistics=0)
        exact = replace(ours, sample=no_noise).release("train", state)
        noise = ours.release("train", state) - exact
        deviation = share.deviation(ours.noise.train)
        assert float(np.std(noise)) == pytest.approx(deviation, rel=5 / math.sqrt(size))
        assert not np.any(exact - replace(ours, sample=no_noise).release("train", state))
        integers = encode_steps(exact, declared_size=member.declared_units, slots=np.zeros(4, np.int64), grid=ours.grid)
        np.testing.assert_array_equal(integers[:size], exact)
        assert grid_of(plan) == ours.grid
