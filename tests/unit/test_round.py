"""A hospital's rounds with honest others: exact sums, equal models, and one release for each charge."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from client import seal_bytes
from client.learner import plan_model
from client.model import layout
from client.optimiser import OptimiserState
from client.status import read_status
from common.ckks import SEED_BYTES, EncryptedSum
from common.errors import BudgetExceeded, DecryptionError, LedgerError
from tests.support.small_federation import NAMES, SmallFederation

OURS = NAMES[0]


@pytest.fixture
def federation(base: Path, tmp_path: Path) -> Iterator[SmallFederation]:
    """Four open hospitals with fresh ledgers."""
    with SmallFederation.copy_of(base, tmp_path) as opened:
        yield opened


@pytest.fixture(scope="module")
def finished(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallFederation]:
    """A federation after its whole run."""
    with SmallFederation.copy_of(base, tmp_path_factory.mktemp("finished")) as opened:
        opened.coordinator.whole_run(opened.sites)
        yield opened


def results(federation: SmallFederation, name: str) -> Path:
    """Where a hospital has written the finished run."""
    return federation.folder / "federation" / name / "results" / federation.coordinator.run


def test_all_hospitals_end_with_the_same_model_bit_for_bit(finished: SmallFederation) -> None:
    """They never receive a model: equality comes from replaying the same aggregates. Files can be compared by hash."""
    assert len({finished.tag(name) for name in NAMES}) == 1
    files = {hashlib.sha256((results(finished, n) / "model.safetensors").read_bytes()).hexdigest() for n in NAMES}
    assert len(files) == 1
    states = [finished.state(name) for name in NAMES]
    assert {state.applied.round for state in states} == {3}
    assert len({state.optimiser.parameters.tobytes() + state.optimiser.velocity.tobytes() for state in states}) == 1


def test_the_model_file_holds_the_state(finished: SmallFederation) -> None:
    """What a hospital deploys is what was agreed on, rounded to float32; and training has moved it."""
    tensors = load_file(results(finished, NAMES[0]) / "model.safetensors")
    parameters = finished.state(NAMES[0]).optimiser.parameters
    names = [name for name, _ in layout(plan_model(finished.plan))]
    assert set(tensors) == set(names)
    flat = np.concatenate([tensors[name].reshape(-1) for name in names])
    np.testing.assert_array_equal(flat, parameters.astype(np.float32))
    assert not np.array_equal(parameters, finished.sites[NAMES[0]]._contributor.learner.initial)


def test_the_metrics_have_one_row_per_training_round(finished: SmallFederation) -> None:
    """The counts in aggregate r + 1 score the model after round r; every held-out unit is in each row once."""
    metrics = json.loads((results(finished, NAMES[0]) / "metrics.json").read_text(encoding="utf-8"))
    held_out = sum(site._contributor.learner.held_out_units for site in finished.sites.values())
    assert [row["round"] for row in metrics["rounds"]] == [1, 2]
    for row in metrics["rounds"]:
        assert row["contributors"] == list(NAMES)
        assert row["held_out_units"] == held_out == np.sum(row["confusion"])
        assert 0 <= row["accuracy"] <= 1
    assert metrics["privacy"]["epsilon_spent"] == pytest.approx(8.0, rel=1e-3)
    parameters, no_mean = finished.state(NAMES[0]).optimiser.parameters, np.zeros(0)
    learners = (site._contributor.learner for site in finished.sites.values())
    counts = sum(learner.confusion(parameters, feature_mean=no_mean) for learner in learners)
    np.testing.assert_array_equal(metrics["rounds"][-1]["confusion"], counts)


def test_each_applied_update_is_the_integer_sum_over_the_weight(federation: SmallFederation) -> None:
    """The oracle is plain integer arithmetic on what the sites have stored before they encrypted."""
    grid, plan = federation.grid, federation.plan
    size, total = plan.agreed.trainable_parameters, sum(h.declared_units for h in plan.roster)
    expected = OptimiserState(federation.sites[NAMES[0]]._contributor.learner.initial, np.zeros(size))
    for number, names in ((1, NAMES), (2, NAMES[1:])):
        federation.train(number, *names)
        stored = [federation.storage(name).load_update(number) for name in names]
        integers = np.stack([update for update in stored if update is not None]).sum(axis=0)
        weight = sum(h.declared_units for h in plan.roster if h.name in names)
        assert integers[size] == weight
        mean = integers[:size].astype(np.float64) * (grid.step * (total / weight))
        velocity = 0.5 * expected.velocity + mean
        expected = OptimiserState(expected.parameters + velocity, velocity)
        federation.catch_up()
        for name in NAMES:
            applied = federation.state(name).optimiser
            assert applied.parameters.tobytes() == expected.parameters.tobytes()
            assert applied.velocity.tobytes() == expected.velocity.tobytes()


def test_the_same_request_gets_the_same_bytes_and_is_charged_once(federation: SmallFederation) -> None:
    """Also from a service that was started in between."""
    federation.opened(1)
    frame = federation.frame("train", 1, NAMES[0])
    first = federation.sites[NAMES[0]].answer(frame)
    assert federation.charges(NAMES[0]) == 1
    assert federation.sites[NAMES[0]].answer(frame) == first
    assert federation.reopen(NAMES[0]).answer(frame) == first
    assert federation.charges(NAMES[0]) == 1


def test_another_attempt_encrypts_the_same_integers_anew(federation: SmallFederation) -> None:
    """A second noisy update under one charge would halve the noise for whoever averages them."""
    federation.opened(1)
    frames = [federation.sites[NAMES[0]].answer(federation.frame("train", 1, NAMES[0], attempt=a)) for a in range(3)]
    replies = [federation.reply(frame) for frame in frames]
    uploads = [federation.upload(reply) for reply in replies]
    assert len({upload.seeds for upload in uploads}) == 3
    assert len({upload.words.tobytes() for upload in uploads}) == 3
    integers = [federation.decrypted(reply) for reply in replies]
    np.testing.assert_array_equal(integers[0], integers[1])
    np.testing.assert_array_equal(integers[0], integers[2])
    assert federation.charges(NAMES[0]) == 1
    # Control: another round under another charge gives other integers.
    federation.coordinator.switch("1" * 32)
    federation.opened(1)
    other = federation.decrypted(
        federation.reply(federation.sites[NAMES[0]].answer(federation.frame("train", 1, OURS)))
    )
    assert not np.array_equal(other, integers[0])
    assert federation.charges(NAMES[0]) == 2


def test_whoever_holds_the_key_reads_no_upload(federation: SmallFederation) -> None:
    """Every hospital holds the epoch's key: under its masks a peer's upload is noise; the control takes them off."""
    reply = federation.coordinator.collect("train", 1, federation.sites)[0][0]
    upload, key = federation.upload(reply), federation.key
    with pytest.raises(DecryptionError):
        key.decrypt(EncryptedSum(upload.parameters, upload.words, (upload.seeds,)), federation.grid)
    integers = federation.decrypted(reply)
    grid = federation.grid
    with seal_bytes.MemoryFile() as file:
        seen = np.concatenate(
            [
                key._decrypt_chunk(words, [upload.seeds[at * SEED_BYTES : (at + 1) * SEED_BYTES]], file)
                for at, words in enumerate(upload.words)
            ]
        )
    update = integers[: federation.plan.agreed.trainable_parameters]
    assert abs(np.corrcoef(seen[: update.size], update)[0, 1]) < 0.2
    assert np.std(seen) > 10 * np.std(update * grid.encoded_step)


def test_a_service_that_is_started_again_between_exchanges_goes_on(federation: SmallFederation) -> None:
    """All that a round needs is on the disk, its masks with it."""
    coordinator = federation.coordinator
    coordinator.exchange("hello", 0, federation.sites)
    for kind, number in (("train", 1), ("train", 2), ("eval", 3), ("finish", 4)):
        restart(federation)
        if kind != "finish":
            coordinator.open(number, federation.sites)
        restart(federation)
        replies, total = coordinator.collect(kind, number, federation.sites)  # type: ignore[arg-type]
        assert len({reply.manifest.state_tag for reply in replies}) == 1
        assert {reply.manifest.reason for reply in replies} == {""}
        if kind != "finish":
            restart(federation)
            coordinator.aggregates.append(coordinator.unmask(number, replies, federation.sites, total=total))
    assert [federation.charges(name) for name in NAMES] == [2] * 4


def restart(federation: SmallFederation) -> None:
    """Stop and start all services."""
    for name in NAMES:
        federation.reopen(name)


def test_a_hospital_that_was_away_catches_up_by_replay(federation: SmallFederation) -> None:
    """It missed two rounds, holds the same model afterwards, and contributes to the next one."""
    federation.train(1, *NAMES[:3])
    federation.train(2, *NAMES[:3])
    replies = federation.coordinator.exchange("eval", 3, federation.sites)
    assert {reply.manifest.role for reply in replies} == {"contribute"}
    assert len({reply.manifest.state_tag for reply in replies}) == 1
    assert federation.charges(NAMES[3]) == 0
    assert len(federation.coordinator.aggregates[-1].entry.survivors) == 4


def test_a_wiped_state_folder_never_gives_a_second_release(federation: SmallFederation) -> None:
    """The ledger knows of the charge; what was released under it nobody knows any more."""
    federation.opened(1)
    federation.sites[OURS].answer(federation.frame("train", 1, OURS))
    shutil.rmtree(federation.run_folder(OURS))
    for attempt in (0, 1):
        # Its mask secrets are gone too.
        reply = federation.reply(federation.sites[OURS].answer(federation.frame("train", 1, OURS, attempt=attempt)))
        assert (reply.manifest.role, reply.body) == ("observe", b"")
    shutil.rmtree(federation.run_folder(OURS))
    honest = federation.coordinator.openings.pop(1)
    del federation.coordinator.adverts[1][OURS]
    assert federation.opened(1).digest != honest.digest
    for attempt in (0, 1):
        # Under a new opening, with an advert that it has the secrets of.
        reply = federation.reply(federation.sites[OURS].answer(federation.frame("train", 1, OURS, attempt=attempt)))
        assert (reply.manifest.role, reply.manifest.reason, reply.body) == ("observe", LedgerError.__name__, b"")
    assert federation.charges(OURS) == 1
    # It is out for this round only: it applies the others' aggregate and trains on.
    federation.train(1, *NAMES[1:])
    replies = federation.train(2)
    assert {reply.manifest.role for reply in replies} == {"contribute"}
    assert len({reply.manifest.state_tag for reply in replies}) == 1


def test_a_hospital_over_its_cap_observes_while_the_others_go_on(federation: SmallFederation) -> None:
    """The site's own cap wins over the plan, and its operator reads why."""
    federation.close(NAMES[0])
    federation.change_site(NAMES[0], cap_epsilon=6.0)
    federation.open(NAMES[0])
    federation.coordinator.whole_run(federation.sites)
    contributors = [[s.manifest.hospital for s in a.entry.survivors] for a in federation.coordinator.aggregates]
    assert contributors == [list(NAMES), list(NAMES[1:]), list(NAMES)]
    assert len({federation.tag(name) for name in NAMES}) == 1
    spent = federation.sites[NAMES[0]]._contributor.spent()
    assert 0 < spent <= 6.0
    rows = json.loads((results(federation, NAMES[0]) / "metrics.json").read_text(encoding="utf-8"))["rounds"]
    assert [row["contributors"] for row in rows] == contributors[:2]


def test_the_status_says_why_a_hospital_sits_out(federation: SmallFederation) -> None:
    """Spent, asked, cap, and what to do."""
    federation.train(1)
    federation.close(NAMES[0])
    federation.change_site(NAMES[0], cap_epsilon=5.5)
    federation.open(NAMES[0])
    federation.coordinator.switch("2" * 32)
    replies = federation.train(1)
    assert [reply.manifest.reason for reply in replies] == ["BudgetExceeded", "", "", ""]
    status = read_status(federation.folder / "federation" / NAMES[0] / "state" / "status.json")
    assert status is not None
    assert status.phase == "observing"
    assert "epsilon 5.297 spent" in status.message
    assert "> cap 5.500" in status.message
    assert federation.charges(NAMES[0]) == 1


def test_what_kept_a_hospital_from_a_round_may_pass(federation: SmallFederation) -> None:
    """Asked again for the same attempt it contributes; from then on the same request gets the same bytes."""
    federation.train(1)
    federation.coordinator.switch("2" * 32)
    federation.opened(1)
    for cap, reason in ((5.5, "BudgetExceeded"), (8.0, "")):
        federation.close(NAMES[0])
        federation.change_site(NAMES[0], cap_epsilon=cap)
        federation.open(NAMES[0])
        replies, _ = federation.coordinator.collect("train", 1, federation.sites)
        assert [reply.manifest.reason for reply in replies] == [reason, "", "", ""]
    assert federation.charges(NAMES[0]) == 2
    again, total = federation.coordinator.collect("train", 1, federation.sites)
    assert again == replies
    assert total.largest == set(NAMES)


def test_spending_survives_into_a_new_run(federation: SmallFederation) -> None:
    """The ledger is one per data source: a second run finds the budget gone, and announces no masks."""
    federation.coordinator.whole_run(federation.sites)
    federation.coordinator.switch("2" * 32)
    federation.reopen(OURS)
    for name in NAMES:
        with pytest.raises(BudgetExceeded):
            federation.sites[name].answer(federation.coordinator.request("keys", 1, name))
        # A run of spent hospitals ends here: nothing else tells the operator.
        status = read_status(federation.folder / "federation" / name / "state" / "status.json")
        assert status is not None
        assert "> cap" in status.message
    # Also if it had announced them before.
    federation.opened(1)
    replies, _ = federation.coordinator.collect("train", 1, federation.sites)
    assert {(reply.manifest.role, reply.manifest.reason) for reply in replies} == {("observe", "BudgetExceeded")}
    assert [federation.charges(name) for name in NAMES] == [2] * 4
