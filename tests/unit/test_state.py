"""The model as a function of the applied aggregates: equal histories, equal bits."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace

import numpy as np
import pytest

from client.optimiser import OptimiserState, apply_update
from client.state import RunState, advance, initial_state, learn_mean, skip, state_tag
from common.canonical import canonical_bytes
from common.plan_settings import FedAvg, FedAvgM
from common.transcript import EMPTY_CHAIN, extend_chain

KEY = bytes(range(32))
AVERAGE = FedAvg(kind="fedavg")
MOMENTUM = FedAvgM(kind="fedavgm", momentum=0.9, learning_rate=0.3)
UPDATES = np.random.default_rng(0).normal(size=(6, 5))
START = np.random.default_rng(1).normal(size=5)


def replayed(optimiser: FedAvg | FedAvgM, rounds: int = 6) -> RunState:
    """The state after some rounds of `UPDATES`."""
    state = initial_state(START, statistics=0)
    for number in range(rounds):
        root = hashlib.sha256(UPDATES[number].tobytes()).hexdigest()
        state = advance(state, UPDATES[number], root=root, trains=True, optimiser=optimiser)
    return state


def test_fedavg_adds_the_mean_updates() -> None:
    """Plain Python, one number at a time: float addition in the same order."""
    state = replayed(AVERAGE)
    for index in range(5):
        value = float(START[index])
        for update in UPDATES:
            value = value + float(update[index])
        assert state.optimiser.parameters[index] == value
    assert not state.optimiser.velocity.any()


def test_fedavgm_is_heavy_ball_momentum() -> None:
    """Velocity <- m velocity + update, model <- model + lr velocity, one number at a time."""
    state = replayed(MOMENTUM)
    for index in range(5):
        value, velocity = float(START[index]), 0.0
        for update in UPDATES:
            velocity = 0.9 * velocity + float(update[index])
            value = value + 0.3 * velocity
        assert state.optimiser.parameters[index] == value
        assert state.optimiser.velocity[index] == velocity


def test_fedavgm_without_momentum_is_fedavg() -> None:
    """The special case that the formulas share."""
    plain = FedAvgM(kind="fedavgm", momentum=0.0, learning_rate=1.0)
    state = OptimiserState(START, np.ones(5))
    np.testing.assert_array_equal(
        apply_update(state, UPDATES[0], optimiser=plain).parameters,
        apply_update(state, UPDATES[0], optimiser=AVERAGE).parameters,
    )


@pytest.mark.parametrize("optimiser", [AVERAGE, MOMENTUM])
def test_a_replay_gives_the_same_bits(optimiser: FedAvg | FedAvgM) -> None:
    """A hospital that was away cannot be told from one that was there."""
    once, again = replayed(optimiser), replayed(optimiser)
    assert once.optimiser.parameters.tobytes() == again.optimiser.parameters.tobytes()
    assert once.optimiser.velocity.tobytes() == again.optimiser.velocity.tobytes()
    assert once.applied == again.applied
    assert state_tag(once, KEY) == state_tag(again, KEY)


def test_advancing_leaves_the_state_before_it_alone() -> None:
    """A refusal later must be able to fall back on it."""
    before = replayed(MOMENTUM, 2)
    kept = before.optimiser.parameters.tobytes(), before.optimiser.velocity.tobytes(), before.applied
    advance(before, UPDATES[2], root="a" * 64, trains=True, optimiser=MOMENTUM)
    assert (before.optimiser.parameters.tobytes(), before.optimiser.velocity.tobytes(), before.applied) == kept


def test_the_mean_of_the_features_comes_with_its_round_and_stays() -> None:
    """It moves no parameter; training after it leaves it as it is."""
    mean = np.array([0.5, -0.25])
    before = initial_state(START, statistics=2)
    assert before.feature_mean.tolist() == [0.0, 0.0]
    told = learn_mean(before, mean, root="a" * 64)
    assert told.optimiser.parameters.tobytes() == START.tobytes()
    assert (told.applied.round, told.applied.root) == (1, "a" * 64)
    for after in (told, advance(told, UPDATES[0], root="b" * 64, trains=True, optimiser=MOMENTUM), skip(told)):
        assert after.feature_mean.tobytes() == mean.tobytes()


def test_the_history_counts_rounds_and_chains_roots() -> None:
    """Round, last root, and the chain over all of them."""
    state = initial_state(START, statistics=0)
    assert (state.applied.round, state.applied.root, state.applied.chain) == (0, "", EMPTY_CHAIN)
    after = advance(state, UPDATES[0], root="a" * 64, trains=True, optimiser=AVERAGE)
    assert (after.applied.round, after.applied.root) == (1, "a" * 64)
    assert after.applied.chain == extend_chain(EMPTY_CHAIN, 1, "a" * 64)


def test_a_skipped_round_moves_no_parameter_and_stands_in_the_history() -> None:
    """Whoever skipped it cannot be taken for one that applied a sum, nor for one that never heard of the round."""
    before = replayed(MOMENTUM, 2)
    after = skip(before)
    assert after.optimiser.parameters.tobytes() == before.optimiser.parameters.tobytes()
    assert after.optimiser.velocity.tobytes() == before.optimiser.velocity.tobytes()
    assert (after.applied.round, after.applied.root) == (3, "")
    assert after.applied.chain == extend_chain(before.applied.chain, 3, "")
    applied = advance(before, np.zeros(5), root="a" * 64, trains=False, optimiser=MOMENTUM)
    assert len({state_tag(state, KEY) for state in (before, after, applied)}) == 3
    # The round after it counts on.
    assert skip(after).applied.round == 4


def test_the_closing_round_moves_no_parameter() -> None:
    """Momentum would otherwise carry the model on with an update of zero."""
    state = replayed(MOMENTUM, 2)
    closed = advance(state, np.zeros(5), root="a" * 64, trains=False, optimiser=MOMENTUM)
    assert closed.optimiser.parameters.tobytes() == state.optimiser.parameters.tobytes()
    assert closed.applied.round == 3
    # Control: as a training round it would.
    moved = advance(state, np.zeros(5), root="a" * 64, trains=True, optimiser=MOMENTUM)
    assert moved.optimiser.parameters.tobytes() != state.optimiser.parameters.tobytes()


def test_one_changed_bit_changes_the_tag() -> None:
    """Every bit of all three vectors, the sign of a zero too: what is compared is bits, not values."""
    state = replace(replayed(MOMENTUM, 2), feature_mean=np.array([0.0, 0.25, -1.5]))
    tag, seen = state_tag(state, KEY), 0
    vectors = [state.optimiser.parameters, state.optimiser.velocity, state.feature_mean]
    for which, vector in enumerate(vectors):
        for bit in range(64 * vector.size):
            words = vector.copy().view(np.uint64)
            words[bit // 64] ^= np.uint64(1 << (bit % 64))
            changed = [words.view(np.float64) if at == which else one for at, one in enumerate(vectors)]
            other = RunState(state.applied, OptimiserState(changed[0], changed[1]), changed[2])
            assert state_tag(other, KEY) != tag
            seen += 1
    assert seen == 64 * (5 + 5 + 3)


def test_another_history_changes_the_tag() -> None:
    """Two ways to one model are two histories."""
    state = replayed(AVERAGE, 2)
    for change in ({"round": 3}, {"root": "b" * 64}, {"chain": "b" * 64}):
        other = replace(state, applied=state.applied.model_copy(update=change))
        assert state_tag(other, KEY) != state_tag(state, KEY)


def test_the_tag_is_a_plain_hmac_and_needs_the_key() -> None:
    """By hand over the stated bytes; without the key nobody can test a guess of the model."""
    state = replace(replayed(MOMENTUM, 3), feature_mean=np.array([0.5, -0.25]))
    message = (
        b"fedward/state/1"
        + canonical_bytes({"round": 3, "root": state.applied.root, "chain": state.applied.chain})
        + state.optimiser.parameters.astype("<f8").tobytes()
        + state.optimiser.velocity.astype("<f8").tobytes()
        + state.feature_mean.astype("<f8").tobytes()
    )
    assert state_tag(state, KEY) == hmac.new(KEY, message, hashlib.sha256).hexdigest()
    assert state_tag(state, bytes(32)) != state_tag(state, KEY)
