"""Takes one aggregate into the model: verify, decrypt, check the weight, run the server optimiser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.encode import DecodedSum, decode_sum_of_updates
from client.encrypt import SecretKey
from client.refused import RefusedAggregates
from client.state import RunState, advance
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
    after = advance(
        state,
        decoded.mean_update,
        root=root,
        trains=entry.round <= plan.training.rounds,
        optimiser=plan.training.server_optimiser,
    )
    return AppliedAggregate(after, verified.contributors, decoded.slots)


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
