"""The coordinator writes and sends requests one at a time."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Sequence
from typing import cast

import pytest
import yaml
from flwr.app import Message
from flwr.serverapp import Grid

from common.config import parse_settings
from common.identity import Identity
from common.messages import AggregateEntry, Applied, Manifest, SignedManifest, decode_request
from common.plan import Plan
from server.aggregate import Aggregate
from server.ask import Attempt, expected_answer
from server.exchange import Collection
from server.one_by_one import OneByOneGrid, messages_of
from server.requests import RequestWriter, Step
from tests.support.flower_federation import REPOSITORY
from tests.support.in_process_grid import as_server_app

RUN = "a" * 32
COORDINATOR = Identity.generate()


def plan_of(hospitals: int) -> Plan:
    """An agreed plan with that many hospitals and 5000 rounds."""
    content = yaml.safe_load((REPOSITORY / "configs" / "plans" / "skin9.yaml").read_text(encoding="utf-8"))
    content["training"]["rounds"] = 5000
    content["encryption"]["update_norm_bound"] = 1.0
    names = [f"hospital-{k}" for k in range(1, hospitals + 1)]
    roster = [{"name": n, "identity": f"{k:064x}", "declared_units": 100} for k, n in enumerate(names)]
    content["federation"] = {
        "coordinator": COORDINATOR.public_hex,
        "epoch": 1,
        "trainable_parameters": 100,
        "hospitals": roster,
    }
    return parse_settings(yaml.safe_dump(content), Plan, source="plan")


def aggregate(round_number: int, *, hospitals: int, body: bytes) -> Aggregate:
    """What the store holds of a round: manifests of full length, under signatures that nobody checks here."""
    digest = hashlib.sha256(str(round_number).encode()).hexdigest()
    survivors = tuple(
        SignedManifest(
            manifest=Manifest(
                kind="train",
                run=RUN,
                plan=digest,
                epoch=1,
                round=round_number,
                attempt=0,
                hospital=f"hospital-{k}",
                role="contribute",
                reason="",
                parameters=digest,
                state_tag=digest,
                applied=Applied(round=round_number - 1, root=digest if round_number > 1 else "", chain=digest),
                ledger_sequence=round_number,
                ledger_head=digest,
                chunks=6,
                root=digest,
            ),
            signature=digest + digest,
        )
        for k in range(1, hospitals + 1)
    )
    return Aggregate(AggregateEntry(round=round_number, attempt=0, survivors=survivors, body_bytes=len(body)), body)


class Sink:
    """A SuperLink that takes messages and remembers nothing but their number."""

    def __init__(self) -> None:
        self.taken = 0

    def push_messages(self, messages: Sequence[Message]) -> list[str]:
        """Name and forget."""
        for message in messages:
            message.metadata.__dict__["_message_id"] = message.object_id
        self.taken += len(messages)
        return [message.object_id for message in messages]


@pytest.mark.parametrize("hospitals", [4, 24])
def test_memory_does_not_grow_with_the_number_of_hospitals(hospitals: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All get one body of 4 MB; frames of all of them at once would take `hospitals` times that."""
    as_server_app(monkeypatch)
    size = 4_000_000
    plan, stored = plan_of(hospitals), aggregate(1, hospitals=3, body=bytes(size))
    writer = RequestWriter(plan, RUN, COORDINATOR.sign, lambda *_: (stored,))
    step, nodes = Step("train", 2), {hospital.name: index for index, hospital in enumerate(plan.roster)}
    attempt = Attempt(step, 0, nodes, Collection(expected_answer(plan, RUN, step, attempt=0), {}))
    sink = Sink()
    tracemalloc.start()
    try:
        frames = writer.write(step, attempt=0, applied={}, to=tuple(nodes))
        OneByOneGrid(cast(Grid, sink)).send_and_receive(messages_of(attempt, frames, ttl_s=60.0))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sink.taken == hospitals
    assert set(attempt.hospitals.values()) == set(nodes)
    # One body, one frame, Flower's pieces of it.
    assert peak < 3.5 * size
    sizes = [outcome.down_bytes for outcome in attempt.collection.outcomes(0.0)]
    assert all(size < seen < size + 10_000 for seen in sizes)


def test_hospitals_in_one_state_get_one_body() -> None:
    """Each frame is for one hospital, and the bytes behind the header are the same."""
    plan = plan_of(4)
    stored = [aggregate(number, hospitals=4, body=bytes([number]) * 50) for number in (1, 2, 3)]
    asked: list[tuple[int, int]] = []

    def aggregates(first: int, last: int) -> list[Aggregate]:
        asked.append((first, last))
        return stored[first - 1 : last]

    writer = RequestWriter(plan, RUN, COORDINATOR.sign, aggregates)
    applied = {"hospital-1": 2, "hospital-3": 2, "hospital-4": 1}
    frames = dict(writer.write(Step("train", 4), attempt=0, applied=applied, to=[h.name for h in plan.roster]))
    signed = {name: decode_request(frame, COORDINATOR.public_hex) for name, frame in frames.items()}
    assert {name: s.request.hospital for name, s in signed.items()} == {name: name for name in frames}
    rounds = {name: [entry.round for entry in s.request.aggregates] for name, s in signed.items()}
    assert rounds == {"hospital-1": [3], "hospital-2": [1, 2, 3], "hospital-3": [3], "hospital-4": [2, 3]}
    assert sorted(asked) == [(1, 3), (2, 3), (3, 3)]
