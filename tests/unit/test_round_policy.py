"""What a hospital lets out beside its update is what its own policy says, and is charged before it is counted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from client.policy import fit_slots
from client.results import round_metrics
from common.messages import Kind, SignedReply
from tests.support.small_federation import NAMES, SmallFederation, provision_small, template

OURS = NAMES[0]
ROUNDS: tuple[tuple[Kind, int], ...] = (("train", 1), ("eval", 2))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A federation whose sites release noisy counts of the final model."""
    folder = tmp_path_factory.mktemp("federation")
    provision_small(folder, template(training={"rounds": 1}), metrics="final-dp")
    return folder


@pytest.fixture
def federation(base: Path, tmp_path: Path) -> Iterator[SmallFederation]:
    """Four open hospitals."""
    with SmallFederation.copy_of(base, tmp_path) as opened:
        yield opened


def set_policy(federation: SmallFederation, name: str, **privacy: object) -> None:
    """Change one site's file and start it again."""
    federation.close(name)
    federation.change_site(name, **privacy)
    federation.open(name)


def slots(federation: SmallFederation, reply: SignedReply) -> NDArray[np.int64]:
    """The metric slots in one upload."""
    start = federation.plan.agreed.trainable_parameters + 1
    return federation.decrypted(reply)[start : start + federation.plan.metric_slots]


def counts(federation: SmallFederation, name: str) -> NDArray[np.int64]:
    """The exact counts of the model that a hospital holds now."""
    state = federation.state(name)
    learner = federation.sites[name]._contributor.learner
    return learner.confusion(state.optimiser.parameters, feature_mean=state.feature_mean).reshape(-1)


def eval_epsilon(federation: SmallFederation, name: str) -> float:
    """What the account of the held-out units has spent."""
    return federation.sites[name]._contributor.ledger.spending(1e-5).eval


def test_no_policy_sends_no_counts_and_charges_nothing_for_them(federation: SmallFederation) -> None:
    """`none`: the slots are there, since all uploads look alike, and hold zeros."""
    set_policy(federation, OURS, metrics="none")
    for kind, number in ROUNDS:
        reply = federation.coordinator.exchange(kind, number, federation.sites)[0]
        assert reply.manifest.role == "contribute"
        assert not slots(federation, reply).any()
    assert eval_epsilon(federation, OURS) == 0.0
    # Control: a neighbour with another policy does send and pay.
    assert eval_epsilon(federation, NAMES[1]) > 0


def test_final_dp_counts_are_noisy_and_sent_once(federation: SmallFederation) -> None:
    """Zeros while training; full noise at the end, charged at epsilon 0.5; a new attempt draws no new noise."""
    assert not any(slots(federation, reply).any() for reply in federation.train(1))
    assert eval_epsilon(federation, OURS) == 0.0
    first, _ = federation.coordinator.collect("eval", 2, federation.sites)
    again, _ = federation.coordinator.collect("eval", 2, federation.sites, attempt=1)
    noise = []
    for name, reply, repeated in zip(NAMES, first, again, strict=True):
        np.testing.assert_array_equal(slots(federation, reply), slots(federation, repeated))
        assert not federation.decrypted(reply)[: federation.plan.agreed.trainable_parameters].any()
        noise.append(slots(federation, reply) - counts(federation, name))
        assert eval_epsilon(federation, name) == pytest.approx(0.5, rel=1e-3)
        assert eval_epsilon(federation, name) <= 0.5
    sigma = federation.sites[OURS]._contributor.counts_sigma
    # Sixteen draws: their root mean square is within a factor of 3 of sigma but for a chance below 1e-6.
    assert sigma / 3 < np.sqrt(np.mean(np.square(noise))) < 3 * sigma


def test_counts_that_the_cap_does_not_cover_stay_at_home(federation: SmallFederation) -> None:
    """The hospital still closes the run with the others, with zeros and without a charge."""
    federation.train(1)
    set_policy(federation, OURS, cap_epsilon=0.4)
    replies = federation.coordinator.exchange("eval", 2, federation.sites)
    assert [reply.manifest.role for reply in replies] == ["contribute"] * 4
    assert not slots(federation, replies[0]).any()
    assert slots(federation, replies[1]).any()
    assert eval_epsilon(federation, OURS) == 0.0
    finished = federation.coordinator.exchange("finish", 3, federation.sites)
    assert len({reply.manifest.state_tag for reply in finished}) == 1


def test_aggregate_counts_are_exact_in_each_round(federation: SmallFederation) -> None:
    """Allowed for public data only; no charge, no noise."""
    set_policy(federation, OURS, metrics="aggregate", public_data=True)
    initial = federation.sites[OURS]._contributor.learner
    expected = initial.confusion(initial.initial, feature_mean=np.zeros(0)).reshape(-1)
    np.testing.assert_array_equal(slots(federation, federation.train(1)[0]), expected)
    reply = federation.coordinator.exchange("eval", 2, federation.sites)[0]
    np.testing.assert_array_equal(slots(federation, reply), counts(federation, OURS))
    assert counts(federation, OURS).sum() == initial.held_out_units > 0
    assert eval_epsilon(federation, OURS) == 0.0


def test_counts_beyond_the_reserved_room_are_sent_as_zeros(federation: SmallFederation) -> None:
    """Sums that wrap are silent, so a site never sends more than the plan reserved for it."""
    room = federation.plan.slot_share(federation.plan.roster[0])
    within = np.array([room, 0, 0, 0], dtype=np.int64)
    np.testing.assert_array_equal(fit_slots(within, plan=federation.plan, hospital=OURS), within)
    for beyond in ([room, 1, 0, 0], [room, 0, -1, 0], [-room - 1, 0, 0, 0]):
        assert not fit_slots(np.array(beyond, dtype=np.int64), plan=federation.plan, hospital=OURS).any()


def test_a_finished_run_says_which_rounds_were_not_scored(federation: SmallFederation) -> None:
    """Under `final-dp` the last row alone has counts; unscored rows hold null, never a made-up number."""
    federation.coordinator.whole_run(federation.sites)
    results = federation.folder / "federation" / OURS / "results" / federation.coordinator.run
    metrics = json.loads((results / "metrics.json").read_text(encoding="utf-8"))
    assert [row["accuracy"] is not None for row in metrics["rounds"]] == [True]
    assert metrics["privacy"]["epsilon_spent"] == pytest.approx(8.0, rel=1e-3)
    rows = {
        1: {"contributors": [OURS], "counts_before": [0] * 4},
        2: {"contributors": [OURS], "counts_before": [0] * 4},
    }
    unscored = round_metrics(rows, federation.plan)
    assert [(row["accuracy"], row["balanced_accuracy"], row["confusion"]) for row in unscored] == [(None, None, None)]
    scored = round_metrics(rows | {2: {"contributors": [OURS], "counts_before": [3, 1, 0, 4]}}, federation.plan)
    assert [(row["accuracy"], row["balanced_accuracy"]) for row in scored] == [(0.875, 0.875)]


def test_a_plan_without_metrics_ends_with_its_last_training_round(tmp_path: Path) -> None:
    """No slots, no closing eval round; finish brings the last aggregate."""
    provision_small(tmp_path / "plain", template(training={"rounds": 1}, metrics={"released": "none"}), metrics="none")
    with SmallFederation.copy_of(tmp_path / "plain", tmp_path / "copy") as federation:
        federation.coordinator.whole_run(federation.sites)
        assert len(federation.coordinator.aggregates) == 1
        assert len({federation.tag(name) for name in NAMES}) == 1
        results = federation.folder / "federation" / OURS / "results" / federation.coordinator.run
        row = json.loads((results / "metrics.json").read_text(encoding="utf-8"))["rounds"][0]
        assert (row["round"], row["accuracy"], row["held_out_units"]) == (1, None, None)
