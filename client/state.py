"""What a hospital knows of a run: the model after the last applied aggregate, and where that came from."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from client.optimiser import OptimiserState, apply_update
from common.canonical import canonical_bytes
from common.messages import NOTHING_APPLIED, Applied
from common.plan_settings import FedAvg, FedAvgM


@dataclass(frozen=True, slots=True)
class RunState:
    """Model and history of one run; a pure function of the plan and the applied aggregates.

    `feature_mean` is what is taken off each unit's features before the model sees them: zeros until a round of
    statistics has told it, float64, shape (k,); k is 0 for a plan without such a round.
    """

    applied: Applied
    optimiser: OptimiserState
    feature_mean: NDArray[np.float64]


def initial_state(parameters: NDArray[np.float64], *, statistics: int) -> RunState:
    """The state before round 1.

    Args:
        parameters: The plan's initial trainable parameters, float64, shape (d,).
        statistics: How many features' means a first round tells; 0 without one.
    """
    return RunState(NOTHING_APPLIED, OptimiserState(parameters, np.zeros_like(parameters)), np.zeros(statistics))


def advance(
    state: RunState, mean_update: NDArray[np.float64], *, root: str, trains: bool, optimiser: FedAvg | FedAvgM
) -> RunState:
    """The state after one more aggregate.

    Args:
        state: Before it.
        mean_update: Decrypted weighted mean, float64, shape (d,).
        root: Digest of the aggregate's bytes.
        trains: False for the closing `eval` round, which moves no parameter.
        optimiser: As the plan says.
    """
    moved = apply_update(state.optimiser, mean_update, optimiser=optimiser) if trains else state.optimiser
    return replace(state, applied=state.applied.followed_by(root), optimiser=moved)


def learn_mean(state: RunState, feature_mean: NDArray[np.float64], *, root: str) -> RunState:
    """The state after the round of statistics.

    Args:
        state: Before it.
        feature_mean: Private mean of all units' features, float64, shape (k,).
        root: Digest of the aggregate's bytes.
    """
    return replace(state, applied=state.applied.followed_by(root), feature_mean=feature_mean)


def skip(state: RunState) -> RunState:
    """The state after a round without a sum: the same model, and a history that says so."""
    return replace(state, applied=state.applied.followed_by(""))


def state_tag(state: RunState, key: bytes) -> str:
    """Keyed digest of the whole state, hex: equal tags mean equal models, and tell an outsider nothing.

    Args:
        state: What is compared.
        key: 32 bytes derived from the epoch's CKKS secret, which all hospitals and nobody else hold.
    """
    tag = hmac.new(key, b"fedward/state/1", hashlib.sha256)
    tag.update(canonical_bytes(state.applied.model_dump(mode="json")))
    for vector in (state.optimiser.parameters, state.optimiser.velocity, state.feature_mean):
        tag.update(vector.astype("<f8").tobytes())
    return tag.hexdigest()
