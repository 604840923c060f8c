"""One attempt of a step: who is asked, what an answer must say, and what has come back."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from common.ckks import PRESETS, chunks_for
from common.plan import Plan
from server.admit import OpenExchange
from server.exchange import Collection
from server.steps import Step


@dataclass(frozen=True, slots=True)
class Attempt:
    """A request that is under way.

    `nodes` are Flower's node ids of the recipients; `hospitals` are their names by Flower's ids of the messages.
    """

    step: Step
    number: int
    nodes: Mapping[str, int]
    collection: Collection
    started: float = field(default_factory=time.monotonic)
    hospitals: dict[str, str] = field(default_factory=dict)


def expected_answer(  # noqa: PLR0913 -- all that an answer must repeat
    plan: Plan, run: str, step: Step, *, attempt: int, epoch: int, opening: str = ""
) -> OpenExchange:
    """What an answer to a request must say."""
    parameters = PRESETS[plan.encryption.preset]
    return OpenExchange(
        kind=step.kind,
        run=run,
        plan=plan.digest,
        epoch=epoch,
        round=step.round,
        attempt=attempt,
        parameters=parameters,
        chunks=chunks_for(plan.upload_values, parameters),
        identities={hospital.name: hospital.identity for hospital in plan.roster},
        opening=opening,
    )
