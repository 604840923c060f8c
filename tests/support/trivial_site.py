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
from pathlib import Path

import numpy as np

from client.gateway import gateway_children
from client.service import serve
from common.child import Child, ChildEvent
from common.ckks import PRESETS, EncryptedVector, chunks_for, encode_upload
from common.config import load_settings
from common.errors import FedwardError, TranscriptError, WrongPlan, WrongRound
from common.identity import Identity
from common.messages import Applied, Manifest, Request, decode_request, encode_reply
from common.plan import Plan
from common.site_config import GatewaySettings
from common.supervise import supervise
from common.transcript import EMPTY_CHAIN, aggregate_root, extend_chain, merkle_root

LONGEST_HOLD_S = 60.0


class TrivialSite:
    """Answers requests like a hospital; its model is the chain of aggregates that it has seen."""

    def __init__(self, name: str, folder: Path, plan: Plan) -> None:
        self._name, self._folder, self._plan = name, folder, plan
        self._identity = Identity.load(folder / "identity.key")
        self._state = folder / "applied.json"

    def answer(self, frame: bytes) -> bytes:
        """A signed reply to one request."""
        signed = decode_request(frame, self._plan.agreed.coordinator)
        request = signed.request
        if request.hospital != self._name or request.plan != self._plan.digest:
            raise WrongPlan("a request for another hospital or plan; refuse it")
        applied = self._applied()
        for entry, body in zip(request.aggregates, signed.aggregate_bodies(), strict=True):
            if entry.round <= applied.round:
                # Asked again after a crash: these are applied already.
                continue
            if entry.round != applied.round + 1:
                raise TranscriptError("aggregates out of order; refuse them")
            root = aggregate_root(body)
            (self._folder / f"aggregate-{entry.round}.json").write_text(entry.model_dump_json())
            (self._folder / f"aggregate-{entry.round}.bin").write_bytes(body)
            applied = Applied(round=entry.round, root=root, chain=extend_chain(applied.chain, entry.round, root))
            self._state.write_text(applied.model_dump_json())
        if request.kind not in ("hello", "finish") and applied.round != request.round - 1:
            raise WrongRound("aggregates are missing; send them")
        self._hold(request.round)
        return self._reply(request, applied)

    def _applied(self) -> Applied:
        if self._state.exists():
            return Applied.model_validate_json(self._state.read_text())
        return Applied(round=0, root="", chain=EMPTY_CHAIN)

    def _hold(self, round_number: int) -> None:
        hold = self._folder / f"hold-{round_number}"
        if not hold.exists():
            return
        hold.rename(self._folder / f"held-{round_number}")
        (self._folder / "service.pid").write_text(str(os.getpid()))
        deadline = time.monotonic() + LONGEST_HOLD_S
        while not (self._folder / f"go-{round_number}").exists() and time.monotonic() < deadline:
            time.sleep(0.05)

    def _reply(self, request: Request, applied: Applied) -> bytes:
        parameters = PRESETS[self._plan.encryption.preset]
        observes = request.kind in ("hello", "finish") or (self._folder / "observe").exists()
        chunks = 0 if observes else chunks_for(self._plan.upload_values, parameters)
        body = b""
        if not observes:
            shape = (chunks, parameters.ring_degree)
            generator = np.random.default_rng(secrets.randbits(64))
            words = generator.integers(0, parameters.modulus, size=shape, dtype=np.uint64)
            body = encode_upload(EncryptedVector(parameters, words, secrets.token_bytes(64 * chunks)))
            (self._folder / f"upload-{request.round}.bin").write_bytes(body)
        manifest = Manifest(
            kind=request.kind,
            run=request.run,
            plan=self._plan.digest,
            epoch=self._plan.agreed.epoch,
            round=request.round,
            attempt=request.attempt,
            hospital=self._name,
            role="observe" if observes else "contribute",
            reason="BudgetExceeded" if observes and request.kind in ("train", "eval") else "",
            parameters=parameters.digest(),
            state_tag=hashlib.sha256(applied.chain.encode()).hexdigest(),
            applied=applied,
            ledger_sequence=request.round,
            ledger_head=EMPTY_CHAIN,
            chunks=chunks,
            root=merkle_root(body, chunks) if chunks else "",
        )
        return encode_reply(manifest, body, self._identity.sign)


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
        serve(site.answer, socket)
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
