"""A federation in one process for `fedward attack`: real hospitals, the coordinator's real code, and no network.

Every hospital has its vault, ledger, data and folder in a temporary directory; the coordinator's part is made of the
functions that the ServerApp uses. An attack plays the coordinator, which may send what it likes.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from client.storage import RunStorage
from common.ckks import PRESETS, CkksParameters
from common.identity import Identity
from common.mask_messages import FullAdvert, Reveal
from common.messages import UPLOAD_KINDS, Kind, Request, SignedManifest
from common.plan import Plan
from common.request_frames import encode_request
from scripts.attack_freshness import nothing_seen
from scripts.attack_hospitals import Site, StageOptions, provision_sites
from server.admit import AdmittedReply, OpenExchange, admit
from server.aggregate import Aggregate, RunningSum
from server.ask import expected_answer
from server.masked_round import Opening, Unmasking, check_advert, read_advert
from server.steps import Step

Take = Callable[[bytes], object]
Watch = Callable[[str, str, bytes, Take], None]
"""Sees each valid message first: its kind, the hospital that gets or sent it, its bytes, and what takes it."""


@dataclass(slots=True)
class Attempt:
    """What the coordinator has of one attempt at a round."""

    number: int
    attempt: int
    opening: Opening
    total: RunningSum
    replies: dict[str, AdmittedReply] = field(default_factory=dict)

    def survivors(self, *names: str) -> tuple[SignedManifest, ...]:
        """Manifests of some hospitals, or of all, in roster order."""
        return tuple(one.signed for name, one in self.replies.items() if name in (names or self.replies))


def _ignore(*_: object) -> None:
    """Nothing to see."""


@dataclass(slots=True)
class Stage:
    """Open hospitals and a coordinator whose every message an attack can replace."""

    folder: Path
    plan: Plan
    identity: Identity
    sites: dict[str, Site]
    run: str = field(default_factory=lambda: secrets.token_hex(16))
    watch: Watch = _ignore
    adverts: dict[int, dict[str, FullAdvert]] = field(default_factory=dict)
    openings: dict[int, Opening] = field(default_factory=dict)
    attempts: dict[int, Attempt] = field(default_factory=dict)
    reveals: dict[int, dict[str, bytes]] = field(default_factory=dict)
    aggregates: list[Aggregate] = field(default_factory=list)

    @property
    def names(self) -> tuple[str, ...]:
        """The roster."""
        return tuple(hospital.name for hospital in self.plan.roster)

    @property
    def parameters(self) -> CkksParameters:
        """Of the plan."""
        return PRESETS[self.plan.encryption.preset]

    def new_sum(self) -> RunningSum:
        """Nothing yet."""
        return RunningSum(self.parameters)

    def take(self, kind: str, hospital: str, data: bytes, taker: Callable[[bytes], Any]) -> Any:  # noqa: ANN401 -- as taker
        """Hand a message over, after whoever watches has seen it."""
        self.watch(kind, hospital, data, taker)
        return taker(data)

    def ask(self, kind: Kind, hospital: str, frame: bytes) -> bytes:
        """One request and its answer."""
        answer: bytes = self.take(f"request {kind}", hospital, frame, self.sites[hospital].hospital.answer)
        return answer

    def request(
        self,
        kind: Kind,
        number: int,
        hospital: str,
        *,
        send: Sequence[Aggregate] = (),
        body: bytes = b"",
        **changes: Any,  # noqa: ANN401 -- any field of a request
    ) -> bytes:
        """A request that the coordinator signs, whatever it says."""
        body = b"".join(one.body for one in send) or body
        asks = kind in (*UPLOAD_KINDS, "unmask")
        usual: dict[str, Any] = {
            "kind": kind,
            "run": self.run,
            "plan": self.plan.digest,
            "epoch": self.plan.agreed.epoch,
            "round": number,
            "attempt": 0,
            "hospital": hospital,
            "aggregates": tuple(one.entry for one in send),
            "adverts": (),
            "survivors": (),
            "answers": nothing_seen(self.sites, hospital, self.request("hello", 0, hospital)) if asks else (),
            "body_sha256": hashlib.sha256(body).hexdigest(),
        }
        return encode_request(Request(**usual | changes), body, self.identity.sign)

    def missing(self, hospital: str, number: int) -> tuple[Aggregate, ...]:
        """What an honest coordinator sends a hospital with a round: what it lacks, the last one with its transcript."""
        state = self.storage(hospital).load_state()
        sent = self.aggregates[state.applied.round if state else 0 : number - 1]
        return (*map(light, sent[:-1]), *sent[-1:])

    def open_round(self, number: int) -> Opening:
        """Fix what a round opens with; hospitals whose advert is missing are asked for it."""
        if number not in self.openings:
            known = self.adverts.setdefault(number, {})
            for name in [name for name in self.sites if name not in known]:
                answer = self.ask("keys", name, self.request("keys", number, name, send=self.missing(name, number)))
                known[name] = self.take("advert", name, answer, partial(self.advert, name=name, number=number))
            self.openings[number] = Opening(tuple(known[name] for name in self.names if name in known))
        return self.openings[number]

    def advert(self, data: bytes, name: str, number: int) -> FullAdvert:
        """Read an advert as the coordinator does."""
        return read_advert(data, name, plan=self.plan, run=self.run, round_number=number, epoch=self.plan.agreed.epoch)

    def take_reveal(self, data: bytes, name: str, unmasking: Unmasking) -> Reveal:
        """Take shares and the next advert as the coordinator does."""
        reveal = unmasking.take(data, name)
        if reveal.next is not None:
            check_advert(reveal.next, name, plan=self.plan, run=self.run, round_number=reveal.round + 1, epoch=1)
        return reveal

    def kind_of(self, number: int) -> Kind:
        """What a round is."""
        return self.plan.kind_of(number)

    def exchange_of(self, kind: Kind, number: int, *, attempt: int = 0, opening: str = "") -> OpenExchange:
        """What the coordinator expects of a reply."""
        return expected_answer(
            self.plan, self.run, Step(kind, number), attempt=attempt, epoch=self.plan.agreed.epoch, opening=opening
        )

    def admit(self, frame: bytes, name: str, number: int, *, attempt: int, opening: str) -> AdmittedReply:
        """Send a request for an upload, and admit the answer."""
        expected = self.exchange_of(self.kind_of(number), number, attempt=attempt, opening=opening)
        reply = self.ask(expected.kind, name, frame)
        admitted: AdmittedReply = self.take(
            "reply", name, reply, partial(admit, hospital=name, expected=expected, seen={})
        )
        return admitted

    def open_with(self, opening: Opening, number: int, hospital: str, **changes: Any) -> bytes:  # noqa: ANN401 -- as `request`
        """A request for an upload with some opening."""
        adverts = opening.delivered_to(self.plan.agreed.position(hospital))
        return self.request(self.kind_of(number), number, hospital, **{"adverts": adverts} | changes)

    def collect(self, number: int, *, attempt: int = 0, names: Sequence[str] = ()) -> Attempt:
        """An honest exchange for uploads with some hospitals, or with all."""
        opening = self.open_round(number)
        made = Attempt(number, attempt, opening, self.new_sum())
        for name in [name for name in self.sites if name in (names or self.sites)]:
            frame = self.open_with(opening, number, name, attempt=attempt, send=self.missing(name, number))
            made.replies[name] = self.admit(frame, name, number, attempt=attempt, opening=opening.digest)
            upload = made.replies[name].upload
            if upload is not None:
                made.total.add(made.replies[name].signed, upload)
        self.attempts[number] = made
        return made

    def unmask_request(self, made: Attempt, hospital: str, survivors: Sequence[SignedManifest]) -> bytes:
        """Ask a hospital for its shares for these survivors."""
        return self.request("unmask", made.number, hospital, attempt=made.attempt, survivors=tuple(survivors))

    def unmask(self, made: Attempt) -> Aggregate:
        """An honest unmasking; the aggregate has its transcript and uploads, and is sent with the next round."""
        survivors = made.total.survivors(self.names)
        unmasking = Unmasking(self.plan, self.run, made.opening, survivors)
        for name in made.replies:
            answer = self.ask("unmask", name, self.unmask_request(made, name, survivors))
            reveal = self.take("reveal", name, answer, partial(self.take_reveal, name=name, unmasking=unmasking))
            self.reveals.setdefault(made.number, {})[name] = answer
            if reveal.next is not None:
                self.adverts.setdefault(made.number + 1, {})[name] = reveal.next
        aggregate, transcript = made.total.unmasked(unmasking)
        uploads = [made.replies[name].body for name in unmasking.names]
        entry = aggregate.entry.model_copy(update={"transcript": transcript})
        self.aggregates.append(Aggregate.held(entry, b"".join([aggregate.body, *uploads])))
        return self.aggregates[-1]

    def round(self, number: int, *, names: Sequence[str] = ()) -> Aggregate:
        """A whole honest round, of which only `names` upload."""
        return self.unmask(self.collect(number, names=names))

    def storage(self, name: str) -> RunStorage:
        """What a site keeps of the run."""
        return RunStorage(self.sites[name].config.state / "runs" / self.run, plan=self.plan.digest)


@contextmanager
def open_stage(folder: Path, options: StageOptions) -> Iterator[Stage]:
    """Draw images, provision a federation and start its hospitals; their ledgers close at the end."""
    plan, sites = provision_sites(folder, options)
    stage = Stage(folder, plan, Identity.load(folder / "federation" / "coordinator" / "identity.key"), sites)
    # Refusals are what an attack is after: hundreds of lines about them would hide the result.
    quiet = logging.getLogger("client")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        yield stage
    finally:
        quiet.setLevel(level)
        for site in stage.sites.values():
            site.close()


def light(aggregate: Aggregate) -> Aggregate:
    """An aggregate without what verifies it: later manifests vouch for it."""
    entry = aggregate.entry
    return Aggregate.held(entry.model_copy(update={"transcript": None}), aggregate.body[: entry.sum_bytes])
