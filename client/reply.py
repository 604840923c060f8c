"""What a hospital signs in reply to a request: where its model and its ledger stand."""

from __future__ import annotations

from dataclasses import dataclass

from client.freshness import Freshness
from client.keys import Keys
from client.ledger import Ledger
from client.sampled import Recomputer
from client.state import RunState, state_tag
from client.storage import RunStorage
from common.ckks import PRESETS, chunks_for
from common.messages import UPLOAD_KINDS, Manifest, Request, encode_reply
from common.transcript import merkle_root


@dataclass(frozen=True, slots=True)
class ReplyWriter:
    """Writes replies of one hospital.

    Args:
        keys: Its keys.
        ledger: Its ledger.
        freshness: What its peers have seen of it.
    """

    keys: Keys
    ledger: Ledger
    freshness: Freshness

    def write(  # noqa: PLR0913 -- the fields of a reply
        self,
        request: Request,
        state: RunState,
        *,
        storage: RunStorage,
        body: bytes = b"",
        reason: str = "",
        opening: str = "",
    ) -> bytes:
        """A signed reply.

        Args:
            request: What it answers.
            state: The model.
            storage: What is kept of the run.
            body: The upload, if there is one.
            reason: Code of the error that makes this hospital observe, or empty.
            opening: Digest of the adverts that the round was opened with, if it was.
        """
        member = self.keys.member
        parameters = PRESETS[member.plan.encryption.preset]
        chunks = chunks_for(member.plan.upload_values, parameters) if body else 0
        manifest = Manifest(
            kind=request.kind,
            run=request.run,
            plan=member.plan.digest,
            epoch=request.epoch,
            round=request.round,
            attempt=request.attempt,
            hospital=member.hospital,
            role="contribute" if body else "observe",
            reason=reason,
            parameters=parameters.digest(),
            opening=opening,
            revealed=storage.revealed_in(state.applied.round),
            state_tag=state_tag(state, self.keys.epoch(request.epoch).tag),
            applied=state.applied,
            ledger_sequence=self.ledger.sequence(),
            ledger=self.freshness.ledger,
            ledger_head=self.ledger.head(),
            nonce=self.freshness.nonce(request.run) if request.kind in ("hello", *UPLOAD_KINDS) else "",
            chunks=chunks,
            root=merkle_root(body, chunks) if body else "",
            verdict=Recomputer(member, storage).verdict(state.applied),
        )
        return encode_reply(manifest, body, self.keys.identity.sign)
