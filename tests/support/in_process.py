"""A coordinator and hospitals in one process: real codec, keys, ledger, training; no Flower, no sockets."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from client.data.source import DataPlace
from client.round import Hospital
from client.site import open_hospital
from client.status import StatusFile
from common.errors import BudgetExceeded, LedgerRolledBack
from common.freshness_messages import FreshnessAnswer, OpenNonce
from common.identity import Identity
from common.mask_messages import FullAdvert, decode_document
from common.messages import UPLOAD_KINDS, Kind, Request, SignedManifest, SignedReply, decode_reply
from common.plan import Plan
from common.request_frames import encode_request
from common.site_config import load_site
from scripts.federation import FederationOptions, provision
from scripts.split import split_dataset
from server.admit import admit
from server.aggregate import Aggregate, RunningSum
from server.ask import expected_answer
from server.freshness import FreshnessDesk
from server.masked_round import Opening, Unmasking, read_advert
from server.steps import Step

Wire = Callable[[str, bytes], bytes]


def make_federation(
    source: Path, folder: Path, template: Plan, *, hospitals: int = 5, metrics: str = "aggregate"
) -> tuple[Plan, Path]:
    """Deal `source` and provision a federation in `folder`; returns the plan and the federation's folder."""
    split_dataset(source, folder / "shards", hospitals=hospitals, seed=0, on_undecodable="skip")
    data = {f"hospital-{k}": DataPlace(folder / "shards" / f"hospital-{k}" / "data") for k in range(1, hospitals + 1)}
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
    """Sends requests to hospitals, adds up what they upload and takes the masks off, as the ServerApp does."""

    plan: Plan
    identity: Identity
    run: str = field(default_factory=lambda: secrets.token_hex(16))
    aggregates: list[Aggregate] = field(default_factory=list)
    adverts: dict[int, dict[str, FullAdvert]] = field(default_factory=dict)
    openings: dict[int, Opening] = field(default_factory=dict)
    absent: Callable[[OpenNonce], Sequence[FreshnessAnswer]] = lambda _: ()
    desks: dict[str, FreshnessDesk] = field(default_factory=dict)
    _runs: dict[str, tuple[list[Aggregate], dict[int, dict[str, FullAdvert]], dict[int, Opening]]] = field(
        default_factory=dict
    )

    def request(self, kind: Kind, round_number: int, hospital: str, *, attempt: int = 0, first: int = 1) -> bytes:
        """A signed request with the rounds from `first` on, and the round's opening if it is fixed."""
        sent = self.history(first, round_number - 1)
        opening = self.openings.get(round_number)
        adverts = opening.delivered_to(self.plan.agreed.position(hospital)) if opening else ()
        return self.sign(
            b"".join(a.body for a in sent),
            kind=kind,
            round=round_number,
            attempt=attempt,
            hospital=hospital,
            aggregates=tuple(a.entry for a in sent),
            adverts=adverts if kind in UPLOAD_KINDS else (),
        )

    def history(self, first: int, last: int) -> list[Aggregate]:
        """Rounds that are over, as hospitals get them: the newest sum verifies itself, others rest on later ones."""
        numbered = dict(enumerate(self.aggregates, 1))
        newest = max((number for number, one in numbered.items() if one.entry.survivors), default=0)
        sent = [one if number == newest else light(one) for number, one in numbered.items() if first <= number <= last]
        if last < newest and any(one.entry.survivors for one in sent):
            later = next(one for number, one in numbered.items() if number > last and one.entry.survivors)
            sent[-1] = with_witnesses(sent[-1], later)
        return sent

    def switch(self, run: str) -> None:
        """Go on with another run, or begin one."""
        self._runs[self.run] = (self.aggregates, self.adverts, self.openings)
        self.run = run
        self.aggregates, self.adverts, self.openings = self._runs.pop(run, ([], {}, {}))

    def sign(self, body: bytes, **fields: Any) -> bytes:  # noqa: ANN401 -- any field
        """A request that the coordinator's key signs, whatever it says."""
        usual: dict[str, Any] = {
            "run": self.run,
            "plan": self.plan.digest,
            "epoch": self.plan.agreed.epoch,
            "attempt": 0,
            "aggregates": (),
            "adverts": (),
            "survivors": (),
            "nonces": self.desk.nonces_for(fields["hospital"], fields["kind"]),
            "answers": self.desk.answers_for(fields["hospital"], fields["kind"]),
            "body_sha256": hashlib.sha256(body).hexdigest(),
        }
        return encode_request(Request(**usual | fields), body, self.identity.sign)

    @property
    def desk(self) -> FreshnessDesk:
        """Nonces and answers of the current run."""
        return self.desks.setdefault(self.run, FreshnessDesk(self.plan, self.run))

    def freshen(self, round_number: int, sites: Mapping[str, Hospital]) -> None:
        """Have those of `sites` that were started answered by the others, and by what `absent` says for who is away."""
        identities = {h.name: h.identity for h in self.plan.roster}
        for name, site in sites.items():
            hello = decode_reply(site.answer(self.sign(b"", kind="hello", round=0, hospital=name)), identities).manifest
            self.desk.note(name, hello.nonce, ledger=hello.ledger)
        for name, site in (sites if self.desk.is_open(sites) else {}).items():
            with suppress(BudgetExceeded, LedgerRolledBack):
                answer = site.answer(self.request("keys", round_number, name))
                self.desk.take(decode_document(answer, FullAdvert).answers, name, epoch=self.plan.agreed.epoch)
        for asked in self.desk.nonces_for("", "keys"):
            for one in self.absent(asked):
                if one.hospital not in sites:
                    self.desk.take((one,), one.hospital, epoch=one.epoch)

    def open(self, round_number: int, sites: Mapping[str, Hospital]) -> Opening:
        """Fix a round's opening; hospitals of `sites` whose advert is missing are asked, and may lack the budget."""
        self.freshen(round_number, sites)
        if round_number not in self.openings:
            known = self.adverts.setdefault(round_number, {})
            for name in sites.keys() - known.keys():
                with suppress(BudgetExceeded, LedgerRolledBack):
                    answer = sites[name].answer(self.request("keys", round_number, name))
                    known[name] = read_advert(
                        answer,
                        name,
                        plan=self.plan,
                        run=self.run,
                        round_number=round_number,
                        epoch=self.plan.agreed.epoch,
                    )
            names = [h.name for h in self.plan.roster]
            self.openings[round_number] = Opening(tuple(known[name] for name in names if name in known))
        return self.openings[round_number]

    def collect(
        self, kind: Kind, round_number: int, sites: Mapping[str, Hospital], *, attempt: int = 0
    ) -> tuple[list[SignedReply], RunningSum]:
        """Ask for uploads, or for manifests alone, and add up what comes."""
        opening = self.open(round_number, sites) if kind in UPLOAD_KINDS else None
        expected = expected_answer(
            self.plan,
            self.run,
            Step(kind, round_number),
            attempt=attempt,
            epoch=self.plan.agreed.epoch,
            opening=opening.digest if opening else "",
        )
        total, seen, replies = RunningSum(expected.parameters), dict[str, str](), []
        for name, site in sites.items():
            frame = site.answer(self.request(kind, round_number, name, attempt=attempt))
            admitted = admit(frame, name, expected=expected, seen=seen)
            replies.append(decode_reply(frame, dict(expected.identities)))
            self.desk.note(name, replies[-1].manifest.nonce, ledger=replies[-1].manifest.ledger)
            if admitted is not None and admitted.upload is not None:
                total.add(admitted.signed, admitted.upload)
        return replies, total

    def exchange(
        self, kind: Kind, round_number: int, sites: Mapping[str, Hospital], *, attempt: int = 0
    ) -> list[SignedReply]:
        """One exchange with all `sites`; after a train or eval exchange they unmask its sum, which becomes the next."""
        replies, total = self.collect(kind, round_number, sites, attempt=attempt)
        if kind in UPLOAD_KINDS:
            self.aggregates.append(self.unmask(round_number, replies, sites, total=total))
        return replies

    def unmask(
        self, round_number: int, replies: list[SignedReply], sites: Mapping[str, Hospital], *, total: RunningSum
    ) -> Aggregate:
        """Have `sites` take the masks off the sum; the aggregate comes with its transcript."""
        survivors = total.survivors([h.name for h in self.plan.roster])
        unmasking = Unmasking(self.plan, self.run, self.openings[round_number], survivors)
        if any(self._reveal(unmasking, name, site) for name, site in sites.items()):
            # Some were started after their upload: they give no shares before the others have answered them.
            self.freshen(round_number, sites)
            for name, site in sites.items():
                self._reveal(unmasking, name, site)
        assert unmasking.is_enough
        aggregate, transcript = total.unmasked(unmasking)
        bodies = {reply.manifest.hospital: reply.body for reply in replies}
        entry = aggregate.entry.model_copy(update={"transcript": transcript})
        return Aggregate.held(entry, b"".join([aggregate.body, *(bodies[name] for name in unmasking.names)]))

    def _reveal(self, unmasking: Unmasking, name: str, site: Hospital) -> bool:
        """Take one site's shares; whether it withheld them."""
        reveal = unmasking.take(site.answer(self.unmask_request(unmasking.survivors, name)), name)
        self.desk.take(reveal.answers, name, epoch=reveal.epoch)
        if reveal.next is not None:
            self.adverts.setdefault(reveal.round + 1, {})[name] = reveal.next
        if reveal.nonce:
            self.desk.note(name, reveal.nonce)
        return bool(reveal.nonce)

    def unmask_request(self, survivors: tuple[SignedManifest, ...], hospital: str, **changes: Any) -> bytes:  # noqa: ANN401
        """Ask one hospital for its shares."""
        place = survivors[0].manifest
        fields = {"round": place.round, "attempt": place.attempt, "hospital": hospital, "survivors": survivors}
        return self.sign(b"", kind="unmask", **fields | changes)

    def whole_run(self, sites: Mapping[str, Hospital]) -> None:
        """hello, all rounds, the closing eval round, finish."""
        self.exchange("hello", 0, sites)
        for number in range(1, self.plan.last_round + 1):
            self.exchange(self.plan.kind_of(number), number, sites)
        self.exchange("finish", self.plan.last_round + 1, sites)


def light(aggregate: Aggregate) -> Aggregate:
    """The aggregate without what verifies it: later manifests vouch for it."""
    entry = aggregate.entry
    return Aggregate.held(entry.model_copy(update={"transcript": None}), aggregate.body[: entry.sum_bytes])


def with_witnesses(aggregate: Aggregate, later: Aggregate) -> Aggregate:
    """The aggregate with the manifests of a later one."""
    return replace(aggregate, entry=aggregate.entry.model_copy(update={"witnesses": later.entry.survivors}))
