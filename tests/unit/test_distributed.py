"""Mode `distributed`: which plans are sound, what a share of noise is, and whole runs that add up shares."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from client.dpsgd import Randomness
from client.encode import encode_steps
from client.learner import Learner
from client.mechanism import Mechanism
from client.noise import discrete_gaussian
from client.noise_grid import FINEST_BITS
from client.noise_multipliers import Released, noise_multipliers, planned_events
from client.plan_in_words import plan_in_words
from client.room import LEAST_SHARE_STEPS, check_room
from client.shared_noise import NoiseShare, noise_share
from client.state import initial_state
from common.config import parse_settings
from common.distributed import honest_shares, shares_of
from common.errors import ConfigError, DataError, PlanError
from common.grid import grid_of
from common.identity import Identity
from common.plan import Plan
from common.plan_bounds import check_bounds
from common.site_config import load_site
from scripts.agree import agree
from tests.support.cards import make_card
from tests.support.in_process import open_site
from tests.support.site_keys import redeclare
from tests.support.small_federation import NAMES, SmallFederation, provision_small, template

SHARED: dict[str, dict[str, Any]] = {"privacy": {"mode": "distributed"}, "encryption": {"preset": "precise"}}
SHARE = NoiseShare(parameters=300, units=40, largest_units=40, clip=0.5, step=1.0e-9, shares=3)
COARSE = replace(SHARE, step=0.004)


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


def sound_cohorts(most: int) -> Iterator[tuple[int, int, int, int]]:
    """Hospitals, threshold, min_cohort and colluders of every cohort of up to so many that a plan may have."""
    for hospitals in range(3, most + 1):
        for threshold, colluders in itertools.product(range(1, hospitals + 1), range(1, hospitals)):
            for min_cohort in range(threshold, hospitals + 1):
                try:
                    check_bounds(hospitals, threshold=threshold, min_cohort=min_cohort, assumed_colluders=colluders)
                except PlanError:
                    continue
                yield hospitals, threshold, min_cohort, colluders


def test_every_sound_cohort_has_two_honest_shares_at_least() -> None:
    """All that a plan may have, up to the longest roster: nothing else refuses fewer than two."""
    seen = 0
    for hospitals, threshold, min_cohort, colluders in sound_cohorts(30):
        shares = honest_shares(hospitals, threshold=threshold, min_cohort=min_cohort, assumed_colluders=colluders)
        assert 2 <= shares <= min_cohort - colluders
        seen += shares == 2
    assert seen > 100  # control: it is as low as that
    # Control: a threshold that no plan may have.
    assert honest_shares(6, threshold=5, min_cohort=5, assumed_colluders=4) < 2


def fewest_honest_in_a_sum(hospitals: int, threshold: int, min_cohort: int, colluders: int) -> int:
    """By trying all: each honest hospital is shown a set of survivors with itself in it, as small as it may be.

    A sum is without an honest hospital if t - c of them reveal for survivors without it, the colluders for any.
    """
    honest = range(hospitals - colluders)
    lacking = [
        [set(left_out) for left_out in itertools.combinations([u for u in honest if u != me], size)]
        for me in honest
        for size in [min(hospitals - min_cohort, len(honest) - 1)]
    ]
    fewest = len(honest)
    for shown in itertools.product(*lacking):
        lost = [u for u in honest if sum(u in left_out for left_out in shown) >= threshold - colluders]
        fewest = min(fewest, len(honest) - len(lost))
    return fewest


def test_no_split_of_the_honest_hospitals_into_views_leaves_fewer_shares() -> None:
    """Every split of small rosters is tried; the bound is reached, so that it could not be larger."""
    reached = 0
    for hospitals, threshold, min_cohort, colluders in sound_cohorts(6):
        shares = honest_shares(hospitals, threshold=threshold, min_cohort=min_cohort, assumed_colluders=colluders)
        fewest = fewest_honest_in_a_sum(hospitals, threshold, min_cohort, colluders)
        assert fewest >= shares
        reached += fewest == shares < hospitals - colluders
    assert reached > 0


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
    """An own budget, a grid that is too coarse, a bound without room for the noise."""
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
    check_room(plan)


def test_a_plan_without_room_is_refused_before_any_data_is_read(base: Path, tmp_path: Path) -> None:
    """By the site that starts, and by the one that is asked to approve; the data are not even there."""
    shutil.copytree(base, tmp_path, dirs_exist_ok=True)
    home = tmp_path / "federation" / NAMES[0]
    plan = redeclare(home, declared_units=5000)
    shutil.rmtree(tmp_path / "shards" / NAMES[0])
    with pytest.raises(PlanError, match="since nothing may be cut off after the noise"):
        open_site(tmp_path / "federation", NAMES[0])
    privacy = load_site(home / f"{NAMES[0]}.yaml").privacy
    with pytest.raises(PlanError, match="since nothing may be cut off after the noise"):
        plan_in_words(plan, hospital=NAMES[0], privacy=privacy, units=None)
    shutil.rmtree(tmp_path / "shards" / NAMES[1])
    with pytest.raises(DataError):  # control: with room it is the data that is missed
        open_site(tmp_path / "federation", NAMES[1])


def with_features(*units: int, **changes: dict[str, Any]) -> Plan:
    """An agreed plan of hospitals that declare so many units, with a round of statistics of 16 features."""
    model = {"kind": "lite0-head", "image_size": 64, "views": 1, "projection": 16, "seed": 0}
    content = template(**SHARED).model_dump(mode="json") | {"model": model}
    content["privacy"]["mean_share"] = 0.1
    content |= {name: {**content[name], **section} for name, section in changes.items()}
    cards = [make_card(f"hospital-{k}", declared_units=n) for k, n in enumerate(units, 1)]
    return agree(parse_settings(yaml.safe_dump(content), Plan, source="plan"), cards, Identity.generate())


def test_the_noise_of_either_kind_of_round_must_not_drown_in_the_grid() -> None:
    """The smallest decides: here that of the statistics, which nearly all of the budget goes to.

    A plan so coarse cannot be loaded; whoever takes that check away meets this one.
    """
    plan = with_features(30, 40, 50, training={"rounds": 5000}, privacy={"mean_share": 0.99, "mode": "distributed"})
    coarse = plan.model_copy(update={"encryption": plan.encryption.model_copy(update={"update_norm_bound": 1.0e15})})
    train, stat = (noise_share(coarse, coarse.roster[0], kind) for kind in ("train", "stat"))
    noise = noise_multipliers(coarse, coarse.roster[0])
    assert noise.stat is not None
    assert train.deviation(noise.train) > LEAST_SHARE_STEPS > stat.deviation(noise.stat)
    with pytest.raises(PlanError, match="grid steps per hospital; at least 4 are allowed"):
        check_room(coarse)
    check_room(plan)


def test_hospitals_of_different_sizes_add_equal_shares() -> None:
    """A unit of the largest is hidden by shares of the smallest too: each is scaled to what such a unit moves."""
    plan = with_features(20, 30, 90_000, privacy={"delta": 1.0e-6, "mean_share": 0.1, "mode": "distributed"})
    m = shares_of(plan)
    kinds: tuple[Released, ...] = ("stat", "train")
    for kind in kinds:
        shares = [noise_share(plan, hospital, kind) for hospital in plan.roster]
        moved = [replace(share, largest_units=share.units).sensitivity for share in shares]
        assert moved[0] < moved[2]  # control: a unit of the largest moves more
        smallest_sum = sorted(share.deviation(1.0) * share.step for share in shares)[:m]
        assert math.hypot(*smallest_sum) >= max(moved) * (1 - 1e-12)
        assert [share.units for share in shares] == [20, 30, 90_000]


def test_one_unit_moves_the_rounded_sum_by_the_sensitivity_at_most() -> None:
    """The worst pair: every number of the sum is just below half a step, and the unit takes each just beyond it."""
    whole_steps = math.floor(COARSE.clip / math.sqrt(COARSE.parameters) / COARSE.step)
    share = replace(COARSE, clip=math.sqrt(COARSE.parameters) * COARSE.step * (whole_steps + 1e-6))
    scale = 2.0**FINEST_BITS / share.clip * share.step
    before = np.full(share.parameters, round((7.5 - 5e-7) * scale), np.int64)
    after = before + round(scale * (whole_steps + 1e-6))
    assert np.linalg.norm((after - before) * 2.0**-FINEST_BITS) == pytest.approx(1, abs=1e-9)
    rounded = [share.add(total, sigma=1.0, noise=no_noise) for total in (before, after)]
    moved = float(np.linalg.norm((rounded[1] - rounded[0]).astype(np.float64))) * share.step
    assert moved <= share.sensitivity
    assert moved >= 0.999 * share.sensitivity > 1.1 * share.clip  # control: C alone would not do


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 1.0), st.sampled_from([SHARE, COARSE]))
def test_a_projected_sum_moves_by_no_more_than_the_sensitivity(seed: int, size: float, share: NoiseShare) -> None:
    """Where it is longer than the declared units allow; it never stays longer."""
    random = np.random.default_rng(seed)
    scale = 2.0**FINEST_BITS

    def unit_vector() -> NDArray[np.float64]:
        vector = random.standard_normal(share.parameters)
        return vector / np.linalg.norm(vector)

    along = unit_vector()
    before = np.rint(along * scale * share.units * 2 * size).astype(np.int64)
    for step in (unit_vector(), along, -along):
        after = before + np.rint(step * scale).astype(np.int64)
        rounded = [share.add(total, sigma=1.0, noise=no_noise) for total in (before, after)]
        moved = float(np.linalg.norm((rounded[1] - rounded[0]).astype(np.float64))) * share.step
        assert moved <= share.sensitivity
    longest = share.units * share.clip + math.sqrt(share.parameters) * share.step / 2
    assert np.linalg.norm(rounded[0].astype(np.float64)) * share.step <= longest * (1 + 1e-9)


def test_what_encoding_rounds_away_is_spread_evenly_whatever_the_data_are() -> None:
    """The fraction of each coefficient: its Fourier coefficients vanish, but for those that no data can move.

    See `client.shared_noise`. The control is a share without noise to speak of.
    """
    plan = with_features(20, 30, 40)
    grid, noise = grid_of(plan), noise_multipliers(plan, plan.roster[0])
    degree, shares = grid.parameters.ring_degree, shares_of(plan)
    for kind, event in planned_events(plan, noise).items():
        share = noise_share(plan, plan.roster[0], kind)
        # Coefficient c of the polynomial whose slot j, at the root exp(i pi 5^j / N), holds two integers.
        slots = np.arange(-(-share.parameters // 2))
        powers = np.array([pow(5, int(slot), 2 * degree) for slot in slots])
        angles = np.pi * np.outer(np.arange(degree), powers) / degree
        part = np.stack([np.cos(angles), np.sin(angles)], axis=2).reshape(degree, -1)[:, : share.parameters]
        linear = part * (grid.encoded_step * grid.parameters.scale * 2 / degree)
        deviation = share.deviation(event.sigma) * math.sqrt(1 - 1 / shares)
        nearest = np.inf
        for frequency in range(1, 200):
            off = frequency * linear
            apart = np.sum((off - np.rint(off)) ** 2, axis=1)
            nearest = min(nearest, float(apart[apart > 1e-12].min()))
        assert 2 * math.pi**2 * deviation**2 * nearest > 1000
        assert 2 * math.pi**2 * 1e-6 * nearest < 1  # control


def test_the_shares_of_a_sum_add_up_to_the_noise_that_is_charged() -> None:
    """Variance over many numbers within a percent; the control, shares of one hospital alone, has a third of it."""
    sigma, share = 2.0, replace(SHARE, parameters=200_000)
    nothing = np.zeros(share.parameters, np.int64)
    shares = [share.add(nothing, sigma=sigma, noise=discrete_gaussian) for _ in range(share.shares)]
    charged = sigma * share.clip / share.step
    assert float(np.std(np.sum(shares, axis=0))) == pytest.approx(charged, rel=0.01)
    assert float(np.std(shares[0])) == pytest.approx(charged / math.sqrt(3), rel=0.01)


def test_the_bound_holds_the_largest_sum_with_its_noise() -> None:
    """Nothing is cut off after the noise. The control is the bound without the noise's part."""
    full = np.zeros(SHARE.parameters, np.int64)
    full[0] = SHARE.units << FINEST_BITS
    for _ in range(50):
        steps = SHARE.add(full, sigma=3.0, noise=discrete_gaussian)
        length = np.linalg.norm(steps.astype(np.float64)) * SHARE.step
        assert SHARE.units * SHARE.clip + SHARE.step < length < SHARE.bound(3.0)


def quiet(federation: SmallFederation) -> None:
    """Take the noise away, so that sums can be compared with an oracle."""
    for name in federation.sites:
        learner(federation, name).randomness = Randomness(noise=no_noise)


def learner(federation: SmallFederation, name: str) -> Learner:
    """What a site trains with."""
    return cast("Learner", federation.sites[name]._contributor.learner)


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
        ours, size = mechanism(federation, member.name), plan.agreed.trainable_parameters
        state = initial_state(ours.learner.initial, statistics=0)
        noisy = ours.release("train", state)
        quiet(federation)
        exact = ours.release("train", state)
        assert not np.any(exact - ours.release("train", state))
        charged = ours.event("train").sigma * plan.privacy.clip / grid_of(plan).step
        assert float(np.std(noisy - exact)) == pytest.approx(charged / math.sqrt(2), rel=5 / math.sqrt(size))
        slots = np.zeros(4, np.int64)
        integers = encode_steps(exact, declared_size=member.declared_units, slots=slots, grid=grid_of(plan))
        np.testing.assert_array_equal(integers[:size], exact)
