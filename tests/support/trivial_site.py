"""A hospital without data: a real site service with real signatures, whose uploads are random words of the ring.

`python trivial_site.py supervise SITE.json` runs the service and a real gateway; `serve` is what it runs as its first
child. Files in the site's folder steer and show it: `hold-ROUND` makes it wait in that round (once) until `go-ROUND`
exists; `observe` makes it answer without an upload; each upload and each applied aggregate is kept.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from client.advert import own_advert
from client.gateway import gateway_children
from client.member import Member
from client.opening import Opening, known_opening, open_round
from client.paged_site import PagedSite
from client.reveal import Revealer
from client.sampled import Recomputer
from client.service import serve
from client.storage import RunStorage
from client.verify import Expectation, check_history, verify_aggregate
from common.child import Child, ChildEvent
from common.ckks import PRESETS, EncryptedVector, chunks_for, encode_upload
from common.config import load_settings
from common.errors import BudgetExceeded, FedwardError, WrongPlan, WrongRound
from common.freshness_messages import FreshnessAnswer, sign_answer
from common.identity import Identity
from common.mask_messages import FullAdvert, encode_document
from common.messages import NOTHING_APPLIED, UPLOAD_KINDS, Applied, Manifest, Request, decode_reply, encode_reply
from common.plan import Plan
from common.request_frames import SignedRequest, decode_request
from common.site_config import GatewaySettings
from common.supervise import supervise
from common.transcript import EMPTY_CHAIN, aggregate_root, merkle_root

LONGEST_HOLD_S = 60.0
FRAMES_LOG = "frames.log"


class TrivialSite:
    """Answers requests like a hospital; its model is the chain of aggregates that it has seen."""

    def __init__(self, name: str, folder: Path, plan: Plan) -> None:
        self._name, self._folder, self._plan = name, folder, plan
        identity, box = Identity.load(folder / "identity.key"), (folder / "box.key").read_bytes()
        self._member = Member(plan, name, identity, box, plan.needed)
        self._state = folder / "applied.json"

    @property
    def member(self) -> Member:
        """This hospital in its roster."""
        return self._member

    def answer(self, frame: bytes | memoryview) -> bytes:
        """A signed reply to one request."""
        signed = decode_request(frame, self._plan.agreed.coordinator)
        request = signed.request
        if request.hospital != self._name or request.plan != self._plan.digest:
            raise WrongPlan("a request for another hospital or plan; refuse it")
        storage = self._storage(request.run)
        applied = self._catch_up(signed, storage)
        if request.kind == "keys":
            if self._observes:
                raise BudgetExceeded("this site only observes")
            advert = self._advert(request.round, request.run, storage)
            return encode_document(advert.model_copy(update={"answers": self._answers(request)}))
        if request.kind == "finish":
            Recomputer(self._member, storage).require_verdicts(request.verdicts, run=request.run, applied=applied)
        if request.kind in ("hello", "finish", "verify"):
            return self._reply(request, applied, body=b"", opening="")
        if applied.round != request.round - 1:
            raise WrongRound("aggregates are missing; send them")
        if request.kind == "unmask":
            return self._reveal(request, applied, storage)
        self._hold(request.round)
        opening = open_round(request, self._member, storage)
        stored = storage.load_reply(request.round, request.attempt)
        if stored is None:
            body = self._upload(request, opening)
            stored = self._reply(request, applied, body=body, opening=opening.digest)
            storage.save_reply(request.round, request.attempt, stored)
        return stored

    def _storage(self, run: str) -> RunStorage:
        return RunStorage(self._folder / "runs" / run, plan=self._plan.digest)

    @property
    def _observes(self) -> bool:
        return (self._folder / "observe").exists()

    def _catch_up(self, signed: SignedRequest, storage: RunStorage) -> Applied:
        """Verify and take up what comes, like `client.history`, and decrypt nothing."""
        request, applied = signed.request, self._applied()
        pairs = zip(request.aggregates, signed.aggregate_bodies(), strict=True)
        fresh = [(entry, body) for entry, body in pairs if entry.round > applied.round]
        roots = [aggregate_root(body[: entry.sum_bytes]) if entry.survivors else "" for entry, body in fresh]
        check_history([e for e, _ in fresh], roots, member=self._member, run=request.run, applied=applied)
        for (entry, body), root in zip(fresh, roots, strict=True):
            if entry.survivors:
                expected = self._expected(request.run, applied, storage, attempt=entry.attempt)
                verified = verify_aggregate(entry, body[: entry.sum_bytes], expected=expected)
                Recomputer(self._member, storage).recheck(verified, entry, body, signed)
                (self._folder / f"aggregate-{entry.round}.json").write_text(entry.model_dump_json())
                (self._folder / f"aggregate-{entry.round}.bin").write_bytes(body[: entry.sum_bytes])
            given = storage.load_reveal(entry.round)
            storage.record_round(entry.round, {"revealed": given.survivors if given else ""})
            applied = applied.followed_by(root)
            self._state.write_text(applied.model_dump_json())
        Recomputer(self._member, storage).take(signed, applied)
        return applied

    def _expected(self, run: str, applied: Applied, storage: RunStorage, *, attempt: int) -> Expectation:
        number = applied.round + 1
        opening, own = known_opening(number, storage), storage.load_reply(number, attempt)
        reveal = storage.load_reveal(number)
        return Expectation(
            member=self._member,
            run=run,
            epoch=self._plan.agreed.epoch,
            state_tag=tag_of(applied),
            applied=applied,
            opening=opening.digest if opening else None,
            revealed=reveal.survivors if reveal else None,
            own=decode_reply(own, self._member.identities) if own else None,
            revealed_before=storage.revealed_in(applied.round),
        )

    def _advert(self, number: int, run: str, storage: RunStorage) -> FullAdvert:
        return own_advert(self._member, storage, run=run, round_number=number, epoch=self._plan.agreed.epoch).full

    def _reveal(self, request: Request, applied: Applied, storage: RunStorage) -> bytes:
        verdicts = (*request.survivors, *request.verdicts)
        Recomputer(self._member, storage).require_verdicts(verdicts, run=request.run, applied=applied)
        following = None
        if request.round < self._plan.last_round and not self._observes:
            following = self._advert(request.round + 1, request.run, storage)
        expected = self._expected(request.run, applied, storage, attempt=request.attempt)
        return Revealer(self._member, storage, expected).answer(request, following, answers=self._answers(request))

    def _answers(self, request: Request) -> tuple[FreshnessAnswer, ...]:
        """To hospitals that were started: nothing seen of them."""
        return tuple(
            sign_answer(
                FreshnessAnswer(
                    run=request.run,
                    plan=request.plan,
                    epoch=request.epoch,
                    nonce=one.nonce,
                    asker=one.hospital,
                    ledger=one.ledger,
                    hospital=self._name,
                    seen=(),
                ),
                self._member.identity.sign,
            )
            for one in request.nonces
        )

    def _applied(self) -> Applied:
        if self._state.exists():
            return Applied.model_validate_json(self._state.read_text())
        return NOTHING_APPLIED

    def _hold(self, round_number: int) -> None:
        hold = self._folder / f"hold-{round_number}"
        if not hold.exists():
            return
        hold.rename(self._folder / f"held-{round_number}")
        (self._folder / "service.pid").write_text(str(os.getpid()))
        deadline = time.monotonic() + LONGEST_HOLD_S
        while not (self._folder / f"go-{round_number}").exists() and time.monotonic() < deadline:
            time.sleep(0.05)

    def _upload(self, request: Request, opening: Opening) -> bytes:
        """Masked random words of the ring; what they were before the masks is kept."""
        if self._observes or opening.own is None:
            return b""
        parameters = PRESETS[self._plan.encryption.preset]
        shape = (chunks_for(self._plan.upload_values, parameters), parameters.ring_degree)
        generator = np.random.default_rng(secrets.randbits(64))
        words = generator.integers(0, parameters.modulus, size=shape, dtype=np.uint64)
        vector = EncryptedVector(parameters, words, secrets.token_bytes(64 * shape[0]))
        (self._folder / f"upload-{request.round}.bin").write_bytes(encode_upload(vector))
        opening.mask(vector, self._member, run=request.run, attempt=request.attempt)
        return encode_upload(vector)

    def _reply(self, request: Request, applied: Applied, *, body: bytes, opening: str) -> bytes:
        parameters = PRESETS[self._plan.encryption.preset]
        chunks = chunks_for(self._plan.upload_values, parameters) if body else 0
        manifest = Manifest(
            kind=request.kind,
            run=request.run,
            plan=self._plan.digest,
            epoch=self._plan.agreed.epoch,
            round=request.round,
            attempt=request.attempt,
            hospital=self._name,
            role="contribute" if body else "observe",
            reason="BudgetExceeded" if self._observes and request.kind in UPLOAD_KINDS else "",
            parameters=parameters.digest(),
            opening=opening,
            revealed=self._storage(request.run).revealed_in(applied.round),
            state_tag=tag_of(applied),
            applied=applied,
            ledger_sequence=request.round,
            ledger_head=EMPTY_CHAIN,
            ledger=EMPTY_CHAIN,
            nonce="",
            chunks=chunks,
            root=merkle_root(body, chunks) if chunks else "",
            verdict=Recomputer(self._member, self._storage(request.run)).verdict(applied),
        )
        return encode_reply(manifest, body, self._member.identity.sign)


def tag_of(applied: Applied) -> str:
    """The state tag: there is no model but the chain."""
    return hashlib.sha256(applied.chain.encode()).hexdigest()


def noting(answer: Callable[[bytes], bytes], log: Path) -> Callable[[bytes], bytes]:
    """The same, with a line about each frame and its answer: the form of both and their lengths."""

    def noted(frame: bytes) -> bytes:
        reply = answer(frame)
        with log.open("a") as file:
            file.write(f"{form_of(frame)} {len(frame)} {form_of(reply)} {len(reply)}\n")
        return reply

    return noted


def form_of(frame: bytes) -> str:
    """What its magic says; nothing of bytes that are no frame."""
    magic = frame[:7]
    return magic.decode() if magic.startswith(b"FW") else "-"


def show(event: ChildEvent) -> None:
    """One line per event, for the test's log."""
    sys.stdout.write(f"{event.name} {event.kind} {event.detail}\n")
    sys.stdout.flush()


def main() -> None:
    """See the module."""
    command, file = sys.argv[1], Path(sys.argv[2])
    content = json.loads(file.read_text())
    folder = Path(content["folder"])
    socket = folder / "site.sock"
    if command == "serve":
        site = TrivialSite(content["name"], folder, load_settings(Path(content["plan"]), Plan))
        sys.stdout.write("site serves\n")
        sys.stdout.flush()
        serve(noting(PagedSite(site.answer, site.member, folder=folder / "pages").answer, folder / FRAMES_LOG), socket)
        return
    settings = GatewaySettings.model_validate_json(json.dumps(content["gateway"]))
    service = Child(
        name="site",
        argv=(sys.executable, __file__, "serve", str(file)),
        env=dict(os.environ),
        cwd=folder,
        log_path=folder / "logs" / "site.log",
        ready_pattern="site serves",
        ready_timeout_s=30.0,
    )
    stages = ((service,), *gateway_children(settings, socket, connect_timeout_s=content["connect_timeout_s"]))
    try:
        asyncio.run(supervise(stages, on_event=show, restart=True))
    except FedwardError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
