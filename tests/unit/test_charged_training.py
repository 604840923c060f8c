"""What a site trains is what its ledger pays for: noise, clip, divisor, steps, sampling, units."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from torch import nn

from client.accountant import PrivacyEvent
from client.dpsgd import Randomness
from client.learner import Learner, load_learner
from client.noise_multipliers import NoiseMultipliers, planned_events
from client.unit_images import UnitImages
from common.errors import PlanError, UnsupportedLayer
from common.plan import Plan
from common.site_config import SiteConfig, load_site
from tests.support.in_process import open_site
from tests.support.site_keys import redeclare
from tests.support.small_federation import NAMES, SmallFederation, provision_small, template

FULL: dict[str, object] = {"local_steps": 3}
POISSON: dict[str, object] = {"local_steps": 3, "sampling": {"kind": "poisson", "rate": 0.25}}
NO_MEAN = np.zeros(0)
SIGMA = 2.0
NAME = NAMES[2]


class Recorder:
    """Stands where the CSPRNG is: notes what is drawn, draws constants."""

    def __init__(self, noise: int = 0) -> None:
        self.noise_draws: list[tuple[int, float]] = []
        self.coin_draws: list[tuple[int, float]] = []
        self._noise = noise

    def randomness(self) -> Randomness:
        """The seam of `train_local`."""
        return Randomness(noise=self._draw_noise, coins=self._draw_coins)

    def _draw_noise(self, count: int, sd: float) -> np.ndarray:
        self.noise_draws.append((count, sd))
        return np.full(count, self._noise, np.int64)

    def _draw_coins(self, count: int, probability: float) -> np.ndarray:
        self.coin_draws.append((count, probability))
        return np.ones(count, np.bool_)


def provisioned(folder: Path, **changes: dict[str, object]) -> tuple[SiteConfig, Plan]:
    """A site whose unit `twin` has two images, and whose declared size is not its real one."""
    provision_small(folder, template(privacy={"unit": "patient"}, data={"held_out": 0.3}, **changes))
    config = load_site(folder / "federation" / NAME / f"{NAME}.yaml")
    with (config.data / "index.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "lesion_id"))
        for index, path in enumerate(sorted(config.data.glob("*/*.png"))):
            label = path.parent.name
            lesion = f"twin-{label}" if index % 10 in (1, 2) else f"lesion-{index}"
            writer.writerow((f"{label}/{path.name}", label, f"{lesion}-{label}"))
    return config, redeclare(folder / "federation" / NAME, declared_units=50)


def load(config: SiteConfig, plan: Plan, recorder: Recorder) -> Learner:
    """The site's own loading code, with the recorder where entropy comes in."""
    learner, unit = load_learner(config, plan, on_progress=lambda *_: None, randomness=recorder.randomness())
    assert unit == "lesion"
    return learner


@pytest.mark.parametrize("training", [FULL, POISSON], ids=["full", "poisson"])
def test_one_call_draws_the_noise_and_the_batches_that_the_event_says(
    training: dict[str, object], tmp_path: Path
) -> None:
    """Sigma over the whole sensitivity, once per parameter and step; a coin per unit at the plan's rate."""
    config, plan = provisioned(tmp_path, training=training)
    recorder = Recorder()
    learner = load(config, plan, recorder)
    learner.train(learner.initial, feature_mean=NO_MEAN, sigma=SIGMA)
    event = planned_events(plan, NoiseMultipliers(SIGMA, None))["train"]
    assert event == PrivacyEvent(q=plan.training.sample_rate, sigma=SIGMA, steps=3)
    size = learner.initial.size
    assert sum(count for count, _ in recorder.noise_draws) == event.steps * size
    assert {sd for _, sd in recorder.noise_draws} == {SIGMA * (2**20 + math.sqrt(size) + 1)}
    assert recorder.coin_draws == [(learner.training_units, plan.training.sample_rate)] * 3


def test_each_unit_counts_once_and_held_out_units_not_at_all(tmp_path: Path) -> None:
    """A lesion of two images is one row; nobody is trained on and held out."""
    config, plan = provisioned(tmp_path, training=FULL)
    learner = load(config, plan, Recorder())
    with (config.data / "index.csv").open() as file:
        lesions = [row["lesion_id"] for row in csv.DictReader(file)]
    assert len(set(lesions)) < len(lesions)
    assert learner.training_units + learner.held_out_units == len(set(lesions))
    assert learner.training_units > 0 < learner.held_out_units
    assert len(learner._train.x) == learner.training_units
    assert not set(learner._train.units) & set(learner._evaluation.units)
    assert int(learner.confusion(learner.initial, feature_mean=NO_MEAN).sum()) == learner.held_out_units


@pytest.mark.parametrize("training", [FULL, POISSON], ids=["full", "poisson"])
def test_noise_is_scaled_by_the_clip_and_the_declared_size(training: dict[str, object], tmp_path: Path) -> None:
    """A constant draw moves each parameter by learning_rate * draw * C * 2^-20 / (q * declared), not by the real n."""
    draw = 1 << 22
    config, plan = provisioned(tmp_path, training={**training, "local_steps": 1})
    quiet, loud = (load(config, plan, Recorder(noise)) for noise in (0, draw))
    # One image stands for a lesion by lot in each step, so both are to get the same rows.
    assert isinstance(quiet._train.x, UnitImages)
    images = replace(quiet._train.x, draw=np.zeros_like)
    quiet._train = loud._train = replace(quiet._train, x=images)
    moved = loud.train(loud.initial, feature_mean=NO_MEAN, sigma=SIGMA) - quiet.train(
        quiet.initial, feature_mean=NO_MEAN, sigma=SIGMA
    )
    training_plan = plan.training
    due = training_plan.learning_rate * draw * plan.privacy.clip * 2**-20 / (training_plan.sample_rate * 50)
    np.testing.assert_allclose(moved, -due, rtol=1e-4)


@pytest.mark.parametrize("training", [FULL, POISSON], ids=["full", "poisson"])
def test_a_whole_run_spends_the_plans_budget_and_no_more(training: dict[str, object], tmp_path: Path) -> None:
    """Sigma is solved for all steps of all rounds, and each round charges its steps."""
    provision_small(tmp_path / "base", template(training=training))
    with SmallFederation.copy_of(tmp_path / "base", tmp_path / "run") as federation:
        federation.coordinator.whole_run(federation.sites)
        for site in federation.sites.values():
            contributor = site._contributor
            charges = [entry.charge for entry in contributor.ledger.entries()]
            assert {charge.held_out_rule for charge in charges} == {contributor.learner.held_out_rule}
            assert [charge.event for charge in charges] == [contributor.mechanism.event("train")] * 2
            assert 0.99 * 8.0 < contributor.spent() <= 8.0


def test_a_layer_that_mixes_units_is_refused_when_the_site_loads(tmp_path: Path) -> None:
    """Not in the first round, after the charge; the control is the plan's own model."""
    config, plan = provisioned(tmp_path, training=FULL)
    learner = load(config, plan, Recorder())
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3 * 16 * 16), nn.Linear(3 * 16 * 16, 2))
    with pytest.raises(UnsupportedLayer, match="BatchNorm1d at 1, use GroupNorm"):
        Learner(
            plan,
            hospital=NAME,
            train=learner._train,
            evaluation=learner._evaluation,
            model=model,
            held_out_rule=plan.held_out_rule,
        )


def test_a_delta_that_the_real_number_of_units_forbids_is_refused(tmp_path: Path) -> None:
    """A hospital that declares less than it has must not get a delta of 1/n."""
    provision_small(tmp_path, template())
    home = tmp_path / "federation" / NAME
    redeclare(home, declared_units=2, delta=0.4)
    site = home / f"{NAME}.yaml"
    content = yaml.safe_load(site.read_text(encoding="utf-8"))
    content["privacy"]["cap_epsilon"] = 1000.0
    site.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(PlanError, match=r"privacy\.delta: seen 0\.4"):
        open_site(tmp_path / "federation", NAME)
