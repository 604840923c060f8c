"""Four hospitals with a tiny network in one process: what a round costs is cryptography and bookkeeping."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import yaml
from PIL import Image

from client.data.source import DataPlace
from client.round import Hospital
from client.state import RunState
from common.config import parse_settings
from common.identity import Identity
from common.messages import UPLOAD_KINDS, SignedReply, decode_reply
from common.plan import Plan
from scripts.federation import FederationOptions, provision
from server.aggregate import Aggregate
from tests.support.in_process import Coordinator, open_site
from tests.support.known_secrets import KnownSecrets

NAMES = tuple(f"hospital-{k}" for k in range(1, 5))
CLASSES = ("dark", "light")

TEMPLATE: dict[str, Any] = {
    "name": "small",
    "data": {
        "kind": "image-folder",
        "classes": list(CLASSES),
        "held_out": 0.4,
        "held_out_salt": "seed-0",
        "unreadable_images": "skip",
    },
    "model": {"kind": "groupnorm-cnn", "image_size": 16, "width": 4, "seed": 0},
    "training": {
        "rounds": 2,
        "local_steps": 1,
        "sampling": {"kind": "full"},
        "learning_rate": 0.5,
        "momentum": 0.0,
        "server_optimiser": {"kind": "fedavgm", "momentum": 0.5, "learning_rate": 1.0},
    },
    "privacy": {"mode": "local", "unit": "record", "epsilon": 8.0, "delta": 1.0e-5, "clip": 0.5, "mean_share": 0.0},
    "encryption": {"preset": "compact", "update_norm_bound": "auto", "epoch_rounds": 50, "verification": "auto"},
    "cohort": {
        "threshold": "auto",
        "min_cohort": "auto",
        "assumed_colluders": 1,
        "round_timeout_s": 60,
        "attempts": 3,
    },
    "metrics": {"released": "confusion"},
}


def template(**changes: dict[str, Any]) -> Plan:
    """The small plan with some keys of its sections replaced."""
    content = {**TEMPLATE, **{name: {**TEMPLATE[name], **section} for name, section in changes.items()}}
    return parse_settings(yaml.safe_dump(content), Plan, source="small plan")


def write_images(folder: Path, *, per_class: int, seed: int) -> None:
    """Noise of two brightnesses, as PNG files of 16 x 16 pixels."""
    random = np.random.default_rng(seed)
    for index, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = random.integers(40 + 110 * index, 105 + 110 * index, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{seed}-{number}.png")


def provision_small(folder: Path, plan: Plan, *, metrics: str = "aggregate") -> None:
    """Shards of different sizes and a provisioned federation in `folder`."""
    for index, name in enumerate(NAMES):
        write_images(folder / "shards" / name, per_class=6 + 2 * index, seed=index)
    options = FederationOptions(
        fleet_address="127.0.0.1:9092",
        ports=range(20_000, 20_001 + len(NAMES)),
        metrics=metrics,
        public_data=metrics == "aggregate",
        threads=1,
        device="cpu",
    )
    provision(plan, {n: DataPlace(folder / "shards" / n) for n in NAMES}, folder / "federation", options=options)


@dataclass
class SmallFederation(KnownSecrets):
    """Open hospitals and a coordinator that can also lie; use it as a context, which closes the ledgers."""

    folder: Path
    plan: Plan
    coordinator: Coordinator
    sites: dict[str, Hospital] = field(default_factory=dict)

    @classmethod
    def copy_of(cls, base: Path, folder: Path, *, sites: Sequence[str] = NAMES) -> Self:
        """A federation of its own, with the files that `provision_small` has written to `base`."""
        shutil.copytree(base, folder, dirs_exist_ok=True)
        root = folder / "federation"
        text = (root / "plan.yaml").read_text(encoding="utf-8")
        plan = parse_settings(text, Plan, source="plan.yaml")
        coordinator = Coordinator(plan, Identity.load(root / "coordinator" / "identity.key"))
        federation = cls(folder, plan, coordinator)
        coordinator.absent = federation.nothing_seen
        for name in sites:
            federation.open(name)
        return federation

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for name in tuple(self.sites):
            self.close(name)

    def open(self, name: str) -> Hospital:
        """Start a site's service on its files."""
        hospital = open_site(self.folder / "federation", name)
        self.sites = {n: s for n in NAMES if (s := hospital if n == name else self.sites.get(n))}
        return hospital

    def close(self, name: str) -> None:
        """Stop it; its files stay."""
        self.sites.pop(name)._contributor.ledger.close()

    def reopen(self, name: str) -> Hospital:
        """Stop and start a site's service."""
        self.close(name)
        return self.open(name)

    def change_site(self, name: str, **privacy: Any) -> None:  # noqa: ANN401 -- YAML values
        """Edit the `privacy` section of a closed site's file."""
        path = self.folder / "federation" / name / f"{name}.yaml"
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        content["privacy"].update(privacy)
        path.write_text(yaml.safe_dump(content), encoding="utf-8")

    def state(self, name: str) -> RunState:
        """A site's state on its disk; it must have applied an aggregate."""
        state = self.storage(name).load_state()
        assert state is not None
        return state

    def tag(self, name: str) -> str:
        """What a site says that it holds."""
        return self.coordinator.exchange("hello", 0, {name: self.sites[name]})[0].manifest.state_tag

    def charges(self, name: str) -> int:
        """Entries of a site's ledger."""
        return self.sites[name]._contributor.ledger.sequence()

    def train(self, round_number: int, *names: str) -> list[SignedReply]:
        """An honest training exchange with some sites, or all; adds an aggregate."""
        chosen = {name: self.sites[name] for name in names or self.sites}
        return self.coordinator.exchange("train", round_number, chosen)

    def catch_up(self, *names: str, first: int = 1, last: int = 10**6) -> list[SignedReply]:
        """Bring sites, or all, the rounds that are over."""
        send = self.coordinator.history(first, last)
        return [self.catch_up_with(name, send) for name in names or self.sites]

    def catch_up_with(self, name: str, send: Sequence[Aggregate]) -> SignedReply:
        """Bring a site these rounds."""
        return self.reply(self.sites[name].answer(self.frame("hello", 0, name, send=send)))

    def reply(self, frame: bytes) -> SignedReply:
        """An answer, its signature verified."""
        return decode_reply(frame, {h.name: h.identity for h in self.plan.roster})

    def frame(
        self,
        kind: str,
        round_number: int,
        to: str,
        *,
        send: Sequence[Aggregate] = (),
        **changes: Any,  # noqa: ANN401 -- any field
    ) -> bytes:
        """A request that the coordinator's key signs, whatever it says."""
        body = b"".join(aggregate.body for aggregate in send)
        entries = tuple(aggregate.entry for aggregate in send)
        usual: dict[str, Any] = {"kind": kind, "round": round_number, "hospital": to, "aggregates": entries}
        if kind in UPLOAD_KINDS and to in self.sites:
            self.freshen(to)
        opening = self.coordinator.openings.get(round_number)
        if opening is not None and kind in UPLOAD_KINDS:
            usual["adverts"] = opening.delivered_to(self.plan.agreed.position(to))
        return self.coordinator.sign(body, **usual | changes)
