"""The coordinator writes requests part by part, and sends them one at a time."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
import yaml
from flwr.app import Message
from flwr.serverapp import Grid

from common.config import parse_settings
from common.errors import MalformedMessage
from common.identity import Identity
from common.mask_messages import opening_digest
from common.messages import AggregateEntry, Applied, Manifest, SignedManifest
from common.plan import Plan
from common.plan_bounds import default_threshold
from common.request_frames import decode_request
from common.wire import header_bytes
from server.aggregate import Aggregate, skipped
from server.ask import Attempt, expected_answer
from server.bodies import JoinedBody
from server.exchange import Collection
from server.flower_messages import messages_of
from server.one_by_one import OneByOneGrid
from server.parts import PartLimits
from server.requests import RequestWriter
from server.steps import HELLO, Rounds, Step
from tests.support.cards import make_rows
from tests.support.flower_federation import REPOSITORY
from tests.support.in_process_grid import as_server_app
from tests.support.masked_sites import MaskedSites
from tests.support.replies import NAMES

RUN = "a" * 32
COORDINATOR = Identity.generate()


def plan_of(hospitals: int) -> Plan:
    """An agreed plan with that many hospitals and 5000 rounds."""
    content = yaml.safe_load((REPOSITORY / "configs" / "plans" / "skin9.yaml").read_text(encoding="utf-8"))
    content["training"]["rounds"] = 5000
    content["privacy"]["mean_share"] = 0.0
    content["encryption"]["update_norm_bound"] = 1.0
    content["cohort"] |= {"threshold": default_threshold(hospitals), "min_cohort": default_threshold(hospitals)}
    names = [f"hospital-{k}" for k in range(1, hospitals + 1)]
    roster = make_rows(names)
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
                opening=digest,
                revealed=digest,
                state_tag=digest,
                applied=Applied(round=round_number - 1, root=digest if round_number > 1 else "", chain=digest),
                ledger_sequence=round_number,
                ledger_head=digest,
                ledger=digest,
                nonce="",
                chunks=6,
                root=digest,
            ),
            signature=digest + digest,
        )
        for k in range(1, hospitals + 1)
    )
    entry = AggregateEntry(
        round=round_number, attempt=0, survivors=survivors, sum_bytes=len(body), transcript=None, witnesses=()
    )
    return Aggregate.held(entry, body)


@dataclass
class Generated:
    """A history of any length, made when it is asked for."""

    hospitals: int
    body_bytes: int = 50
    skipped: frozenset[int] = frozenset()
    asked: list[Rounds] = field(default_factory=list)

    def entries(self, rounds: Rounds) -> tuple[AggregateEntry, ...]:
        """See `server.parts.History`."""
        self.asked.append(rounds)
        return tuple(one.entry for one in self._all(rounds))

    def body(self, rounds: Rounds) -> JoinedBody:
        """Each round's number."""
        return JoinedBody([one.content for one in self._all(rounds)])

    def sizes(self, rounds: Rounds) -> list[tuple[int, int]]:
        """Of those."""
        return [(len(header_bytes(one.entry)), one.content.size_bytes) for one in self._all(rounds)]

    def _all(self, rounds: Rounds) -> list[Aggregate]:
        return [self._one(number) for number in range(rounds.first, rounds.last + 1)]

    def _one(self, number: int) -> Aggregate:
        if number in self.skipped:
            return skipped(number, 0)
        return aggregate(number, hospitals=self.hospitals, body=number.to_bytes(self.body_bytes, "big"))


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
    plan = plan_of(hospitals)
    writer = RequestWriter(plan, RUN, COORDINATOR.sign, Generated(3, body_bytes=size))
    step, nodes = Step("train", 2), {hospital.name: index for index, hospital in enumerate(plan.roster)}
    attempt = Attempt(step, 0, nodes, Collection(expected_answer(plan, RUN, step, attempt=0, epoch=1), {}))
    sink = Sink()
    tracemalloc.start()
    try:
        frames = writer.write(step, attempt=0, rounds=dict.fromkeys(nodes, Rounds(1, 1)))
        OneByOneGrid(cast(Grid, sink)).send_and_receive(messages_of(attempt, frames, ttl_s=60.0))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sink.taken == hospitals
    assert set(attempt.hospitals.values()) == set(nodes)
    # One body, one frame, and what Flower makes of it.
    assert peak < 4.5 * size
    sizes = [outcome.down_bytes for outcome in attempt.collection.outcomes(0.0)]
    assert all(size < seen < size + 10_000 for seen in sizes)


def test_hospitals_in_one_state_get_one_body() -> None:
    """Each frame is for one hospital, and what lies behind the header is read once."""
    plan, history = plan_of(4), Generated(4)
    writer = RequestWriter(plan, RUN, COORDINATOR.sign, history)
    missing = {"hospital-1": Rounds(3, 3), "hospital-2": Rounds(1, 3), "hospital-3": Rounds(3, 3)}
    frames = dict(writer.write(Step("train", 4), attempt=0, rounds=missing))
    signed = {name: decode_request(frame, COORDINATOR.public_hex) for name, frame in frames.items()}
    assert {name: s.request.hospital for name, s in signed.items()} == {name: name for name in missing}
    rounds = {name: [entry.round for entry in s.request.aggregates] for name, s in signed.items()}
    assert rounds == {"hospital-1": [3], "hospital-2": [1, 2, 3], "hospital-3": [3]}
    assert sorted(history.asked) == [(1, 3), (3, 3)]


def test_each_hospital_gets_the_opening_with_its_own_sealed_shares(tmp_path: Path) -> None:
    """The adverts are the same for all; the shares beside them are those of the recipient, and of nobody else."""
    sites = MaskedSites(tmp_path)
    opening = sites.opening(1, NAMES[:3])
    writer = RequestWriter(sites.plan, RUN, sites.coordinator.sign, Generated(0))
    frames = dict(writer.write(Step("train", 1), attempt=1, rounds=dict.fromkeys(NAMES, Rounds(1, 0)), opening=opening))
    assert set(frames) == set(NAMES)
    for position, name in enumerate(NAMES):
        request = decode_request(frames[name], sites.coordinator.public_hex).request
        assert (request.hospital, request.attempt, request.survivors) == (name, 1, ())
        assert opening_digest([one.advert for one in request.adverts]) == opening.digest
        for full, one in zip(opening.adverts, request.adverts, strict=True):
            assert one.shares == full.shares[position]
            public_hex = sites.identities[one.advert.hospital].public_hex
            one.check(public_hex, position=position, hospitals=len(NAMES))
            # Control: they are no other hospital's.
            with pytest.raises(MalformedMessage, match="not those it signed"):
                one.check(public_hex, position=(position + 1) % 4, hospitals=len(NAMES))


def test_a_plain_request_carries_survivors_and_neither_aggregates_nor_adverts(tmp_path: Path) -> None:
    """It asks for shares, or for an advert."""
    sites = MaskedSites(tmp_path)
    survivors = aggregate(3, hospitals=3, body=b"sum").entry.survivors
    writer = RequestWriter(sites.plan, RUN, sites.coordinator.sign, Generated(0))
    signed = decode_request(
        writer.write_plain(Step("unmask", 3), "hospital-2", attempt=1, survivors=survivors),
        sites.coordinator.public_hex,
    )
    request = signed.request
    assert (request.kind, request.round, request.attempt, request.hospital) == ("unmask", 3, 1, "hospital-2")
    assert (request.survivors, request.aggregates, request.adverts, signed.body) == (survivors, (), (), b"")
    keys = decode_request(writer.write_plain(Step("keys", 4), "hospital-1"), sites.coordinator.public_hex).request
    assert (keys.kind, keys.round, keys.survivors) == ("keys", 4, ())


@pytest.mark.parametrize(("hospitals", "rounds", "most"), [(5, 2500, 256), (50, 300, 72)])
def test_any_number_of_missed_rounds_fits_part_by_part(hospitals: int, rounds: int, most: int) -> None:
    """A site takes a header of 8 MiB: without parts one that was away for 1690 rounds of five could never come back."""
    writer = RequestWriter(plan_of(hospitals), RUN, COORDINATOR.sign, Generated(hospitals))
    missing, seen, largest = Rounds(1, rounds), list[int](), 0
    while missing.first <= missing.last:
        part = writer.part(missing)
        ((_, frame),) = writer.write(HELLO, attempt=0, rounds={"hospital-1": part})
        sent = decode_request(frame, COORDINATOR.public_hex)
        seen += [int.from_bytes(body, "big") for body in sent.aggregate_bodies()]
        largest = max(largest, len(sent.request.aggregates))
        missing = Rounds(part.last + 1, rounds)
    assert seen == list(range(1, rounds + 1))
    assert largest == most
    # The control: all at once is refused by the site, however well it is signed.
    ((_, frame),) = writer.write(HELLO, attempt=0, rounds={"hospital-1": Rounds(1, rounds)})
    with pytest.raises(MalformedMessage):
        decode_request(frame, COORDINATOR.public_hex)


@pytest.mark.parametrize(
    ("limits", "missing", "part"),
    [
        (PartLimits(), Rounds(4, 3), Rounds(4, 3)),
        (PartLimits(aggregates=3), Rounds(2, 9), Rounds(2, 4)),
        (PartLimits(aggregates=3), Rounds(2, 4), Rounds(2, 4)),
        (PartLimits(body_bytes=1000), Rounds(2, 9), Rounds(2, 3)),
        (PartLimits(body_bytes=1), Rounds(2, 9), Rounds(2, 2)),
        (PartLimits(header_bytes=1), Rounds(2, 9), Rounds(2, 2)),
    ],
)
def test_a_part_takes_what_fits_and_one_at_least(limits: PartLimits, missing: Rounds, part: Rounds) -> None:
    """A model whose aggregate is larger than a part goes round by round."""
    writer = RequestWriter(plan_of(4), RUN, COORDINATOR.sign, Generated(4, body_bytes=400), limits)
    assert writer.part(missing) == part


@pytest.mark.parametrize(
    ("skips", "limits", "part"),
    [
        # One that fits is followed by three that were skipped, which count for nothing.
        ({4, 5, 6}, PartLimits(aggregates=2), Rounds(2, 6)),
        ({4, 5, 6}, PartLimits(aggregates=3), Rounds(2, 6)),
        ({4, 5, 6}, PartLimits(body_bytes=1000), Rounds(2, 6)),
        ({4, 5, 6}, PartLimits(header_bytes=1), Rounds(2, 2)),
        ({3, 4, 5}, PartLimits(header_bytes=1), Rounds(2, 5)),
        ({3, 4, 5}, PartLimits(aggregates=1), Rounds(2, 5)),
        # The part begins with skipped rounds: a sum goes with them as long as it fits.
        ({2, 3}, PartLimits(aggregates=3), Rounds(2, 4)),
        ({2, 3}, PartLimits(aggregates=2), Rounds(2, 3)),
        ({2, 3}, PartLimits(body_bytes=1), Rounds(2, 3)),
        (set(range(2, 10)), PartLimits(aggregates=1, header_bytes=1, body_bytes=1), Rounds(2, 9)),
    ],
)
def test_a_part_ends_before_a_sum(skips: set[int], limits: PartLimits, part: Rounds) -> None:
    """What vouches for a part are manifests of the next sum, which name the rounds that were skipped before it too."""
    history = Generated(4, body_bytes=400, skipped=frozenset(skips))
    assert RequestWriter(plan_of(4), RUN, COORDINATOR.sign, history, limits).part(Rounds(2, 9)) == part
