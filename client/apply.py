"""Takes one aggregate into the model: verify, decrypt, check the weight, run the server optimiser. No I/O."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.encode import decode_sum_of_updates
from client.encrypt import SecretKey
from client.state import RunState, advance
from client.verify import Expectation, verify_aggregate
from common.errors import WeightMismatch
from common.grid import Grid
from common.messages import AggregateEntry, SignedManifest
from common.transcript import aggregate_root


@dataclass(frozen=True, slots=True)
class AppliedAggregate:
    """The model after an aggregate, and what the aggregate said beside it.

    `counts` are the sums of the metric slots, int64, shape (slots,): they describe the model *before* it.
    """

    state: RunState
    contributors: tuple[str, ...]
    counts: NDArray[np.int64]


def apply_aggregate(  # noqa: PLR0913 -- an aggregate, what is expected of it, and the key that opens it
    state: RunState,
    entry: AggregateEntry,
    *,
    body: memoryview,
    expected: Expectation,
    own: SignedManifest | None,
    key: SecretKey,
    grid: Grid,
) -> AppliedAggregate:
    """Verify an aggregate, and only then decrypt and apply it.

    Args:
        state: Before the aggregate.
        entry: Its transcript.
        body: Its bytes.
        expected: What this hospital holds against the coordinator's word.
        own: Our manifest of that round, if we still have it.
        key: The epoch's CKKS secret.
        grid: The plan's public grid.

    Raises:
        PeerError: If any check fails; the state is unchanged then.
    """
    plan = expected.plan
    verified = verify_aggregate(entry, body, expected=expected, own=own)
    decoded = decode_sum_of_updates(
        key.decrypt(verified.total, grid),
        parameter_count=plan.agreed.trainable_parameters,
        slot_count=plan.metric_slots,
        grid=grid,
    )
    if decoded.weight != verified.declared_units:
        raise WeightMismatch(
            f"aggregate {entry.round} weighs {decoded.weight} units, its {len(verified.contributors)} hospitals "
            f"declared {verified.declared_units}; it is not their sum; refuse it"
        )
    after = advance(
        state,
        decoded.mean_update,
        root=aggregate_root(body),
        trains=entry.round <= plan.training.rounds,
        optimiser=plan.training.server_optimiser,
    )
    return AppliedAggregate(after, verified.contributors, decoded.slots)
