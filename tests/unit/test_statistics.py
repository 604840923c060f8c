"""The round of statistics: a private mean of the features by the masked path, paid from the plan's epsilon."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from client.accountant import PrivacyEvent, epsilon_of
from client.cli import status
from client.dpsgd import Randomness
from client.head_sum import FINEST_BITS
from client.learner import Learner
from client.noise_multipliers import noise_multipliers, planned_events
from client.plan_in_words import plan_in_words
from client.planned_charges import planned_charges
from client.state import initial_state
from client.unit_features import centred, row_total
from common.config import parse_settings
from common.distributed import shares_of
from common.errors import DataError
from common.grid import grid_of
from common.plan import Plan
from common.site_config import load_site
from scripts.evaluate import evaluate
from tests.support.small_federation import NAMES, TEMPLATE, SmallFederation, provision_small

WIDTH, SHARE = 16, 0.12


def with_statistics(mode: str) -> Plan:
    """The small plan with a frozen backbone and a round of statistics."""
    privacy = {**TEMPLATE["privacy"], "mode": mode, "mean_share": SHARE}
    content: dict[str, Any] = {
        **TEMPLATE,
        "model": {"kind": "lite0-head", "image_size": 64, "views": 1, "projection": WIDTH, "seed": 0},
        "privacy": privacy,
        "encryption": {**TEMPLATE["encryption"], "preset": "precise" if mode == "distributed" else "compact"},
    }
    return parse_settings(yaml.safe_dump(content), Plan, source="small plan with statistics")


@pytest.fixture(scope="module", params=["local", "distributed"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of a federation that nobody has used yet."""
    folder = tmp_path_factory.mktemp("federation")
    provision_small(folder, with_statistics(request.param))
    return folder


def learner(federation: SmallFederation, name: str) -> Learner:
    """What a site trains with."""
    return cast("Learner", federation.sites[name]._contributor.learner)


def rows(federation: SmallFederation, name: str) -> NDArray[np.float64]:
    """The features that a site trains on, shape (units, k)."""
    x = learner(federation, name)._train.x
    assert isinstance(x, torch.Tensor)
    features: NDArray[np.float64] = x.double().numpy()
    return features


def no_noise(count: int, _deviation: float) -> NDArray[np.int64]:
    """What stands for noise where sums are to be compared."""
    return np.zeros(count, np.int64)


def quiet(federation: SmallFederation) -> None:
    """Take the noise away, of training too."""
    for name in federation.sites:
        learner(federation, name).randomness = Randomness(noise=no_noise)


def first_step(federation: SmallFederation, mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Oracle: one step from zero weights on all units' features without a mean, in numpy; shape (classes * k,)."""
    plan = federation.plan
    total = np.zeros((len(plan.data.classes), WIDTH))
    for name in NAMES:
        x = rows(federation, name) - mean
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        error = 1 / len(total) - np.eye(len(total))[learner(federation, name)._train.y.numpy()]
        gradients = error[:, :, None] * x[:, None, :]
        norms = np.linalg.norm(gradients, axis=(1, 2), keepdims=True)
        total += np.sum(gradients * np.minimum(1, plan.privacy.clip / norms), axis=0)
    units = sum(hospital.declared_units for hospital in plan.roster)
    step: NDArray[np.float64] = -plan.training.learning_rate * total.ravel() / units
    return step


def test_all_hospitals_learn_the_mean_of_all_features_and_train_without_it(base: Path, tmp_path: Path) -> None:
    """The oracle is numpy on all units, for the mean and for the step after it; the control takes nothing off."""
    with SmallFederation.copy_of(base, tmp_path) as federation:
        quiet(federation)
        assert federation.plan.kind_of(1) == "stat"
        federation.coordinator.exchange("stat", 1, federation.sites)
        federation.catch_up()
        declared = sum(h.declared_units for h in federation.plan.roster)
        mean = np.sum([rows(federation, name).sum(axis=0) for name in NAMES], axis=0) / declared
        state = federation.state(NAMES[0])
        np.testing.assert_allclose(state.feature_mean, mean, atol=1e-4)
        assert np.linalg.norm(mean) > 0.1
        assert not state.optimiser.parameters.any()
        assert len({federation.tag(name) for name in NAMES}) == 1
        federation.train(2)
        federation.catch_up()
        moved = federation.state(NAMES[0]).optimiser.parameters
        np.testing.assert_allclose(moved, first_step(federation, state.feature_mean), atol=2e-5)
        assert np.abs(moved - first_step(federation, np.zeros(WIDTH))).max() > 1e-3  # control


def test_the_sum_of_features_leaves_with_the_noise_that_is_charged(base: Path, tmp_path: Path) -> None:
    """In units of a feature, over 500 releases, to ten standard errors: all in mode `local`, else half its variance.

    Nothing stands where the sum has no numbers.
    """
    with SmallFederation.copy_of(base, tmp_path) as federation:
        plan, member = federation.plan, federation.plan.roster[0]
        ours = federation.sites[member.name]._contributor.mechanism
        state = initial_state(ours.learner.initial, statistics=WIDTH)
        noisy = np.stack([ours.release("stat", state) for _ in range(500)])
        quiet(federation)
        exact = ours.release("stat", state)
        charged = planned_events(plan, noise_multipliers(plan, member))["stat"]
        # What a grid step is worth in the sum of features, each of norm 1.
        grid = grid_of(plan)
        worth = grid.step * grid.weight_total / plan.privacy.clip
        seen = float(np.std((noisy - exact)[:, :WIDTH])) * worth
        assert seen == pytest.approx(charged.sigma / math.sqrt(shares_of(plan)), rel=10 / math.sqrt(2 * 500 * WIDTH))
        assert not noisy[:, WIDTH:].any()
        np.testing.assert_allclose(exact[:WIDTH] * worth, rows(federation, member.name).sum(axis=0), atol=1e-3)


def test_statistics_and_training_together_spend_the_plans_epsilon(base: Path, tmp_path: Path) -> None:
    """The ledger holds `stat` once and `train` each round; alone the statistics take their share of mu^2."""
    with SmallFederation.copy_of(base, tmp_path) as federation:
        federation.coordinator.whole_run(federation.sites)
        contributor = federation.sites[NAMES[0]]._contributor
        charges = [entry.charge for entry in contributor.ledger.entries()]
        assert [(c.kind, c.round_number) for c in charges] == [("stat", 1), ("train", 2), ("train", 3)]
        assert 7.9 < contributor.ledger.spending(1e-5).epsilon <= 8.0
        # What `fedward-client ledger show` and the first start count with.
        rule = charges[0].held_out_rule
        planned = planned_charges(federation.plan, federation.plan.roster[0], held_out_rule=rule)
        assert [(c.key[1:], c.event, c.mode, c.shares, c.clip) for c in planned] == [
            (c.key[1:], c.event, c.mode, c.shares, c.clip) for c in charges[:2]
        ]
        noise = noise_multipliers(federation.plan, federation.plan.roster[0])
        assert noise.stat is not None
        share = noise.stat**-2 / (noise.stat**-2 + 2 * noise.train**-2)
        assert share == pytest.approx(SHARE, rel=2e-3)
        without = epsilon_of([PrivacyEvent(1.0, noise.train, 2)], 1e-5)
        assert without < 7.9
        results = federation.folder / "federation" / NAMES[0] / "results" / federation.coordinator.run
        tensors = load_file(results / "model.safetensors")
        np.testing.assert_array_equal(tensors["feature_mean"], federation.state(NAMES[0]).feature_mean)
        metrics = json.loads((results / "metrics.json").read_text(encoding="utf-8"))
        assert [row["round"] for row in metrics["rounds"]] == [2, 3]
        mode = federation.plan.privacy.mode
        assert metrics["privacy"]["mode"] == mode
        # What the hospital was told before it approved, where the noise is shared.
        privacy = load_site(federation.folder / "federation" / NAMES[0] / f"{NAMES[0]}.yaml").privacy
        said = "\n".join(plan_in_words(federation.plan, hospital=NAMES[0], privacy=privacy, units=None))
        alone = f"If all other hospitals collude, it is {contributor.ledger.spending(1e-5).epsilon_alone:.3g}."
        assert (alone in said) == (mode == "distributed")
        shard = federation.folder / "shards" / NAMES[0]
        assert evaluate(results, shard).images == 12
        for wrong in (None, np.zeros(WIDTH - 1)):
            replace_mean(results / "model.safetensors", wrong)
            with pytest.raises(DataError, match=f"plan.yaml beside it has {WIDTH} features with a mean"):
                evaluate(results, shard)


def test_mode_shares_and_both_multipliers_are_shown_before_a_round_is_asked_for(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the log, in the status file and by `fedward-client status`."""
    with (
        caplog.at_level("INFO", logger="client.site"),
        SmallFederation.copy_of(base, tmp_path, sites=NAMES[:1]) as federation,
    ):
        plan, home = federation.plan, federation.folder / "federation" / NAMES[0]
        noise = noise_multipliers(plan, plan.roster[0])
    shared = "" if plan.privacy.mode == "local" else " of 2 shares"
    said = f"mode {plan.privacy.mode}, noise multiplier{shared} {noise.train:.4f}"
    mean = f", {noise.stat:.4f} for the mean of the features"
    assert f"{said} over 2 steps of q = 1{mean}; spent so far" in caplog.text
    status(home / f"{NAMES[0]}.yaml")
    assert f"{said}{mean}\n" in capsys.readouterr().out


def replace_mean(path: Path, mean: NDArray[np.float64] | None) -> None:
    """Put another mean of the features into a model's file, or none."""
    tensors = load_file(path)
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    tensors.pop("feature_mean", None)
    save_file(tensors if mean is None else {**tensors, "feature_mean": mean}, path, metadata=metadata)


def test_a_site_that_was_away_for_the_statistics_replays_them(base: Path, tmp_path: Path) -> None:
    """The mean is part of the model: it comes with the aggregates, and the sum stands without the one who was away."""
    with SmallFederation.copy_of(base, tmp_path) as federation:
        three = {name: federation.sites[name] for name in NAMES[:3]}
        federation.coordinator.exchange("stat", 1, three)
        federation.catch_up(*NAMES[:3])
        federation.reopen(NAMES[3])
        federation.catch_up(NAMES[3])
        means = {federation.state(name).feature_mean.tobytes() for name in NAMES}
        assert len(means) == 1
        assert federation.charges(NAMES[3]) == 0
        assert federation.charges(NAMES[0]) == 1


def test_rows_are_summed_exactly_and_none_counts_for_more_than_one() -> None:
    """In any order the same integers; a long row is cut to norm 1, a broken one counts as zero."""
    random = np.random.default_rng(0)
    some = random.standard_normal((50, 8))
    some /= np.linalg.norm(some, axis=1, keepdims=True)
    total = row_total(some)
    np.testing.assert_array_equal(total, np.sum([row_total(row[None]) for row in some], axis=0))
    for _ in range(20):
        np.testing.assert_array_equal(total, row_total(random.permutation(some)))
    np.testing.assert_allclose(total / 2.0**FINEST_BITS, some.sum(axis=0), atol=1e-11)
    for broken, most in ((np.full((1, 8), 9.0), 1.0), (np.full((1, 8), np.nan), 0.0), (np.full((1, 8), np.inf), 0.0)):
        moved = (row_total(np.concatenate([some, broken])) - total) / 2.0**FINEST_BITS
        assert np.linalg.norm(moved) == pytest.approx(most, abs=1e-9)


def test_centred_features_have_norm_one_again_and_rows_do_not_mix() -> None:
    """Without a mean nothing changes; with one each row is a function of that row and the mean."""
    x = torch.nn.functional.normalize(torch.randn(7, 5, dtype=torch.float64), dim=1)
    mean = np.full(5, 0.2)
    assert centred(x, np.zeros(5)) is x
    assert centred(x, np.zeros(0)) is x
    both = centred(x, mean)
    torch.testing.assert_close(torch.linalg.vector_norm(both, dim=1), torch.ones(7, dtype=torch.float64))
    for row in range(7):
        torch.testing.assert_close(centred(x[row : row + 1], mean)[0], both[row], rtol=0, atol=0)
