"""A plan, hospitals and a coordinator that take part in one masked round in this process, for `fedward bench codec`."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from client.encrypt import SecretKey
from client.hpke import box_public_hex
from client.member import Member
from client.storage import RunStorage
from common.card import sign_card
from common.ckks import PRESETS
from common.config import parse_settings
from common.grid import Grid, plan_grid
from common.identity import Identity
from common.messages import AggregateEntry
from common.node_key import write_node_key
from common.plan import Plan
from server.aggregate import Aggregate
from server.bodies import Body, JoinedBody
from server.requests import RequestWriter
from server.steps import Rounds

PRESET = "compact"
UPDATE_NORM_BOUND = 1.0


@dataclass(frozen=True, slots=True)
class SentHistory:
    """The rounds that a request carries: what the coordinator's store holds in a real run."""

    aggregate: Aggregate | None

    def entries(self, rounds: Rounds) -> tuple[AggregateEntry, ...]:
        """The one round, if it is asked for."""
        return tuple(one.entry for one in self._sent(rounds))

    def body(self, rounds: Rounds) -> Body:
        """Its body."""
        return JoinedBody([one.content for one in self._sent(rounds)])

    def sizes(self, rounds: Rounds) -> Sequence[tuple[int, int]]:
        """All goes at once here."""
        return [(0, one.content.size_bytes) for one in self._sent(rounds)]

    def _sent(self, rounds: Rounds) -> Sequence[Aggregate]:
        return [self.aggregate] if self.aggregate and rounds.first <= rounds.last else []


@dataclass(frozen=True, slots=True)
class Parties:
    """Who takes part.

    Args:
        plan: What they agreed to: no metric slots, thresholds as `auto` sets them.
        run: The run.
        coordinator: Its identity.
        members: The hospitals in roster order.
        storages: What each keeps on the disk.
        key: The hospitals' CKKS key.
        grid: The plan's grid.
    """

    plan: Plan
    run: str
    coordinator: Identity
    members: dict[str, Member]
    storages: dict[str, RunStorage]
    key: SecretKey
    grid: Grid

    def writer(self, aggregate: Aggregate | None = None) -> RequestWriter:
        """Writes requests that carry the one round given."""
        return RequestWriter(self.plan, self.run, self.coordinator.sign, SentHistory(aggregate))


def make_parties(folder: Path, parameters: int, declared_sizes: Sequence[int]) -> Parties:
    """Make keys, cards and a plan.

    Args:
        folder: Empty; holds node keys and what the hospitals keep.
        parameters: Length of an update.
        declared_sizes: Of each hospital, in units.
    """
    coordinator, run = Identity.generate(), secrets.token_hex(16)
    names = [f"hospital-{number}" for number in range(1, len(declared_sizes) + 1)]
    identities = {name: Identity.generate() for name in names}
    boxes = {name: secrets.token_bytes(32) for name in names}
    cards = [
        sign_card(
            identities[name],
            name=name,
            box=box_public_hex(boxes[name]),
            node=write_node_key(folder / f"{name}.node"),
            declared_units=size,
        ).model_dump(mode="json")
        for name, size in zip(names, declared_sizes, strict=True)
    ]
    federation = {
        "coordinator": coordinator.public_hex,
        "epoch": 1,
        "trainable_parameters": parameters,
        "hospitals": cards,
    }
    plan = _plan(federation, len(names))
    members = {name: Member(plan, name, identities[name], boxes[name], plan.needed) for name in names}
    ckks = PRESETS[PRESET]
    return Parties(
        plan=plan,
        run=run,
        coordinator=coordinator,
        members=members,
        storages={name: RunStorage(folder / name, plan=plan.digest) for name in names},
        key=SecretKey.generate(ckks),
        grid=plan_grid(ckks, declared_sizes, update_norm_bound=UPDATE_NORM_BOUND, slot_sum_max=plan.slot_sum_max),
    )


def _plan(federation: dict[str, object], hospitals: int) -> Plan:
    template = {
        "name": "bench",
        "data": {
            "kind": "image-folder",
            "classes": ["one", "other"],
            "held_out": 0.2,
            "held_out_salt": "bench",
            "unreadable_images": "refuse",
        },
        "model": {"kind": "groupnorm-cnn", "image_size": 16, "width": 4, "seed": 0},
        "training": {
            "rounds": 2,
            "local_steps": 1,
            "sampling": {"kind": "full"},
            "learning_rate": 0.1,
            "momentum": 0.0,
            "server_optimiser": {"kind": "fedavg"},
        },
        "privacy": {"mode": "local", "unit": "record", "epsilon": 1.0, "delta": 1e-5, "clip": 1.0, "mean_share": 0.0},
        "encryption": {
            "preset": PRESET,
            "update_norm_bound": UPDATE_NORM_BOUND,
            "epoch_rounds": 50,
            "verification": "full",
        },
        "cohort": {
            "threshold": "auto",
            "min_cohort": "auto",
            "assumed_colluders": 1,
            "round_timeout_s": 60,
            "attempts": 1,
        },
        "metrics": {"released": "none"},
    }
    plan = parse_settings(yaml.safe_dump(template), Plan, source="bench plan")
    cohort = plan.cohort.filled(hospitals).model_dump(mode="json")
    return parse_settings(
        yaml.safe_dump(template | {"cohort": cohort, "federation": federation}), Plan, source="bench plan"
    )
