"""A coordinator and hospitals in one process: real codec, keys, ledger, training; no Flower, no sockets."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from client.round import Hospital
from client.site import open_hospital
from client.status import StatusFile
from common.ckks import PRESETS, chunks_for
from common.identity import Identity
from common.messages import Kind, Request, SignedReply, decode_reply, encode_request
from common.plan import Plan
from common.site_config import load_site
from scripts.federation import FederationOptions, provision
from scripts.split import split_dataset
from server.admit import OpenExchange, admit
from server.aggregate import Aggregate, RunningSum

Wire = Callable[[str, bytes], bytes]


def make_federation(
    source: Path, folder: Path, template: Plan, *, hospitals: int = 5, metrics: str = "aggregate"
) -> tuple[Plan, Path]:
    """Deal `source` and provision a federation in `folder`; returns the plan and the federation's folder."""
    split_dataset(source, folder / "shards", hospitals=hospitals, seed=0, on_undecodable="skip")
    data = {f"hospital-{k}": folder / "shards" / f"hospital-{k}" / "data" for k in range(1, hospitals + 1)}
    options = FederationOptions(
        fleet_address="127.0.0.1:9092",
        ports=range(20_000, 20_001 + hospitals),
        metrics=metrics,
        public_data=metrics == "aggregate",
        threads=1,
        device="cpu",
    )
    plan = provision(template, data, folder / "federation", options=options)
    return plan, folder / "federation"


def open_site(federation: Path, name: str) -> Hospital:
    """Start one hospital's service in this process."""
    config = load_site(federation / name / f"{name}.yaml")
    config.state.mkdir(parents=True, exist_ok=True)
    return open_hospital(config, StatusFile(config.state / "status.json", name))


@dataclass
class Coordinator:
    """Sends requests to hospitals and adds up what they upload, as the ServerApp does."""

    plan: Plan
    identity: Identity
    run: str = field(default_factory=lambda: secrets.token_hex(16))
    aggregates: list[Aggregate] = field(default_factory=list)

    def request(self, kind: Kind, round_number: int, hospital: str, *, attempt: int = 0, first: int = 1) -> bytes:
        """A signed request with the aggregates from `first` on."""
        sent = self.aggregates[first - 1 : round_number - 1] if round_number else []
        body = b"".join(a.body for a in sent)
        request = Request(
            kind=kind,
            run=self.run,
            plan=self.plan.digest,
            epoch=self.plan.agreed.epoch,
            round=round_number,
            attempt=attempt,
            hospital=hospital,
            aggregates=tuple(a.entry for a in sent),
            body_sha256=hashlib.sha256(body).hexdigest(),
        )
        return encode_request(request, body, self.identity.sign)

    def exchange(
        self, kind: Kind, round_number: int, sites: dict[str, Hospital], *, attempt: int = 0
    ) -> list[SignedReply]:
        """One exchange with all `sites`; a train or eval exchange ends with a new aggregate."""
        parameters = PRESETS[self.plan.encryption.preset]
        identities = {h.name: h.identity for h in self.plan.roster}
        expected = OpenExchange(
            kind=kind,
            run=self.run,
            plan=self.plan.digest,
            epoch=self.plan.agreed.epoch,
            round=round_number,
            attempt=attempt,
            parameters=parameters,
            chunks=chunks_for(self.plan.upload_values, parameters),
            identities=identities,
        )
        total, seen, replies = RunningSum(parameters), dict[str, str](), []
        for name, site in sites.items():
            frame = site.answer(self.request(kind, round_number, name, attempt=attempt))
            admitted = admit(frame, name, expected=expected, seen=seen)
            replies.append(decode_reply(frame, identities))
            if admitted is not None and admitted.upload is not None:
                total.add(admitted.signed, admitted.upload)
        if total.largest:
            names = [h.name for h in self.plan.roster]
            self.aggregates.append(total.result(names, round_number=round_number, attempt=attempt))
        return replies

    def whole_run(self, sites: dict[str, Hospital]) -> None:
        """hello, all rounds, the closing eval round, finish."""
        self.exchange("hello", 0, sites)
        for number in range(1, self.plan.last_round + 1):
            self.exchange("train" if number <= self.plan.training.rounds else "eval", number, sites)
        self.exchange("finish", self.plan.last_round + 1, sites)
