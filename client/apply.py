"""Takes one aggregate into the model: verify, decrypt, check the weight, run the server optimiser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.encode import DecodedSum, decode_sum_of_updates
from client.encrypt import SecretKey
from client.refused import RefusedAggregates
from client.state import RunState, advance, learn_mean
from client.verify import Expectation, VerifiedAggregate, verify_aggregate
from common.errors import DecryptionError, WeightMismatch
from common.grid import Grid
from common.messages import AggregateEntry
from common.plan import Plan
from common.transcript import aggregate_root


@dataclass(frozen=True, slots=True)
class AppliedAggregate:
    """The model after an aggregate, and what the aggregate said beside it.

    `counts` are the sums of the metric slots, int64, shape (slots,): they describe the model *before* it.
    """

    state: RunState
    contributors: tuple[str, ...]
    counts: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Opener:
    """What opens an aggregate: the key of its epoch and what it has refused, on the plan's grid."""

    key: SecretKey
    grid: Grid
    refused: RefusedAggregates


def apply_aggregate(  # noqa: PLR0913 -- a sum, and the three that judge it
    state: RunState,
    entry: AggregateEntry,
    *,
    total: memoryview,
    expected: Expectation,
    recheck: Callable[[VerifiedAggregate], None],
    opener: Opener,
) -> AppliedAggregate:
    """Verify an aggregate, and only then decrypt and apply it.

    Args:
        state: Before the aggregate.
        entry: Its manifests; a sum without a transcript must be vouched for already, see
            `client.verify.check_history`.
        total: The sum.
        expected: What this hospital holds against the coordinator's word.
        recheck: Makes sure that it is the sum of its survivors' uploads, or raises.
        opener: Decrypts it.

    Raises:
        PeerError: If any check fails; the state is unchanged then.
        EpochClosed: If the key has refused too many aggregates.
        SiteStorageError: If the disk refuses.
    """
    plan = expected.member.plan
    root = aggregate_root(total)
    verified = verify_aggregate(entry, total, expected=expected)
    recheck(verified)
    opener.refused.check(root)
    try:
        decoded = _open(verified, plan, key=opener.key, grid=opener.grid)
    except (DecryptionError, WeightMismatch):
        # Each refusal tells the coordinator something about the key's noise: it is counted before it is told.
        opener.refused.add(root)
        raise
    after = _moved(state, decoded.mean_update, plan, root=root, round_number=entry.round)
    return AppliedAggregate(after, verified.contributors, decoded.slots)


def _moved(state: RunState, mean_update: NDArray[np.float64], plan: Plan, *, root: str, round_number: int) -> RunState:
    kind, training = plan.kind_of(round_number), plan.training
    if kind == "stat":
        # Features travel with the norm of a clipped gradient: one bound holds for the sums of all rounds.
        return learn_mean(state, mean_update[: plan.statistics] / plan.privacy.clip, root=root)
    if plan.privacy.mode == "distributed":
        # What came is the mean over all units of clipped gradients, of which one batch holds a part q.
        mean_update = mean_update * (-training.learning_rate / training.sample_rate)
    return advance(state, mean_update, root=root, trains=kind == "train", optimiser=training.server_optimiser)


def _open(verified: VerifiedAggregate, plan: Plan, *, key: SecretKey, grid: Grid) -> DecodedSum:
    decoded = decode_sum_of_updates(
        key.decrypt(verified.total, grid),
        parameter_count=plan.agreed.trainable_parameters,
        slot_count=plan.metric_slots,
        grid=grid,
    )
    if decoded.weight != verified.declared_units:
        raise WeightMismatch(
            f"an aggregate weighs {decoded.weight} units, its {len(verified.contributors)} hospitals "
            f"declared {verified.declared_units}; it is not their sum; refuse it"
        )
    return decoded
