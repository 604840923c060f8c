"""Four hospitals with a tiny network in one process: what a round costs is cryptography and bookkeeping."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from client.round import Hospital
from client.state import RunState
from client.storage import RunStorage
from common.ckks import PRESETS, EncryptedSum, EncryptedVector, add_in_place, decode_upload, encode_sum
from common.config import parse_settings
from common.grid import Grid
from common.identity import Identity
from common.messages import AggregateEntry, Request, SignedReply, encode_request
from common.plan import Plan
from scripts.federation import FederationOptions, provision
from server.aggregate import Aggregate
from tests.support.in_process import Coordinator, open_site

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
    "privacy": {"mode": "local", "unit": "record", "epsilon": 8.0, "delta": 1.0e-5, "clip": 0.5},
    "encryption": {"preset": "compact", "update_norm_bound": "auto"},
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
    provision(plan, {n: folder / "shards" / n for n in NAMES}, folder / "federation", options=options)


@dataclass
class SmallFederation:
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

    def run_folder(self, name: str) -> Path:
        """Where a site keeps the current run."""
        return self.folder / "federation" / name / "state" / "runs" / self.coordinator.run

    def storage(self, name: str) -> RunStorage:
        """What a site keeps of the current run."""
        return RunStorage(self.run_folder(name), plan=self.plan.digest)

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

    @property
    def grid(self) -> Grid:
        """The plan's grid."""
        return next(iter(self.sites.values()))._contributor.grid

    def decrypted(self, reply: SignedReply) -> NDArray[np.int64]:
        """The integers in one upload; whoever holds the epoch's key can read it until masks exist."""
        upload = self.upload(reply)
        key = next(iter(self.sites.values()))._keys.epoch().ckks
        return key.decrypt(EncryptedSum(upload.parameters, upload.words, (upload.seeds,)), self.grid)

    def upload(self, reply: SignedReply) -> EncryptedVector:
        """The ciphertexts of a reply."""
        return decode_upload(reply.body, reply.manifest.chunks, PRESETS[self.plan.encryption.preset])

    def sum_of(self, replies: Sequence[SignedReply], *, round_number: int) -> Aggregate:
        """The sum of just these uploads, whatever models they start from."""
        uploads = [self.upload(reply) for reply in replies]
        words = np.zeros_like(uploads[0].words)
        for upload in uploads:
            add_in_place(words, upload.words, upload.parameters)
        body = encode_sum(EncryptedSum(uploads[0].parameters, words, tuple(upload.seeds for upload in uploads)))
        survivors = tuple(reply.signed for reply in replies)
        entry = AggregateEntry(round=round_number, attempt=0, survivors=survivors, body_bytes=len(body))
        return Aggregate(entry, body)

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
        fields: dict[str, Any] = {
            "kind": kind,
            "run": self.coordinator.run,
            "plan": self.plan.digest,
            "epoch": self.plan.agreed.epoch,
            "round": round_number,
            "attempt": 0,
            "hospital": to,
            "aggregates": tuple(aggregate.entry for aggregate in send),
            "body_sha256": hashlib.sha256(body).hexdigest(),
        }
        return encode_request(Request(**fields | changes), body, self.coordinator.identity.sign)
