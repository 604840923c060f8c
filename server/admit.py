"""Admits a reply, or refuses it, before anything is allocated in proportion to what it claims."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from common.ckks import CkksParameters, PackedUpload
from common.ckks_parameters import SEED_BYTES
from common.errors import BadSignature, MalformedMessage, ReplayedMessage, WrongPlan, WrongRound
from common.messages import UPLOAD_KINDS, Kind, Manifest, SignedManifest, SignedReply, decode_reply
from common.transcript import merkle_root


@dataclass(frozen=True, slots=True)
class OpenExchange:
    """What the coordinator has asked for, and so what a reply must say.

    Args:
        kind: hello, train, eval or finish.
        run: Run id, 32 hex digits.
        plan: Digest of the plan.
        epoch: Key epoch.
        round: Round number.
        attempt: Attempt of that round.
        parameters: The plan's CKKS parameters.
        chunks: Ciphertexts of an upload.
        identities: Public key, hex, of each hospital in the roster.
        opening: Digest of the adverts that the round was opened with, hex; empty for what needs none.
    """

    kind: Kind
    run: str
    plan: str
    epoch: int
    round: int
    attempt: int
    parameters: CkksParameters
    chunks: int
    identities: Mapping[str, str]
    opening: str = ""

    @property
    def body_bytes(self) -> int:
        """Exact size of an upload's body."""
        return self.chunks * (self.parameters.chunk_bytes + SEED_BYTES)

    @property
    def wants_uploads(self) -> bool:
        """Whether hospitals may contribute; else they only sign a manifest."""
        return self.kind in UPLOAD_KINDS


@dataclass(frozen=True, slots=True)
class AdmittedReply:
    """A reply that is what it says; `upload` is None for an observer.

    `frame_digest` identifies its bytes, for `admit`'s `seen`.
    """

    signed: SignedManifest
    upload: PackedUpload | None
    body: bytes | memoryview
    frame_digest: str


def admit(
    frame: bytes | memoryview, hospital: str, *, expected: OpenExchange, seen: Mapping[str, str]
) -> AdmittedReply | None:
    """Check a reply, cheapest checks first.

    Args:
        frame: Bytes from the network.
        hospital: The name under which the node that sent them is registered.
        expected: The open exchange.
        seen: Digest of the reply that was admitted in this attempt, per hospital.

    Returns:
        The reply, or None if these very bytes were admitted before.

    Raises:
        MalformedMessage: If it is no canonical frame, its body has not exactly the length of the plan's uploads, is not
            the one that was signed, or holds a word outside the ring; or if an observer sends a body.
        BadSignature: If this hospital did not sign it.
        WrongPlan: If it belongs to another run, plan, epoch or parameter set.
        WrongRound: If it answers another kind, round, attempt or opening.
        ReplayedMessage: If this hospital's reply to this attempt was admitted with other bytes.
    """
    # A view: of an upload there is one copy, however large the model is.
    reply = decode_reply(memoryview(frame), dict(expected.identities))
    if reply.manifest.hospital != hospital:
        raise BadSignature(f"the node of {hospital} brought a reply of {reply.manifest.hospital}; refuse it")
    _check_place(reply.manifest, expected)
    digest = hashlib.sha256(frame).hexdigest()
    if hospital in seen:
        if seen[hospital] == digest:
            return None
        raise ReplayedMessage(f"a second, different reply of {hospital} to one request; refuse it")
    upload = _open_body(reply, expected)
    return AdmittedReply(reply.signed, upload, reply.body, digest)


def _check_place(manifest: Manifest, expected: OpenExchange) -> None:
    if (manifest.run, manifest.plan, manifest.epoch) != (expected.run, expected.plan, expected.epoch):
        raise WrongPlan(f"a reply of {manifest.hospital} is for another run, plan or key epoch; refuse it")
    if manifest.parameters != expected.parameters.digest():
        raise WrongPlan(f"a reply of {manifest.hospital} uses other CKKS parameters than the plan; refuse it")
    if (manifest.kind, manifest.round, manifest.attempt) != (expected.kind, expected.round, expected.attempt):
        raise WrongRound(
            f"a reply of {manifest.hospital} answers {manifest.kind} {manifest.round}.{manifest.attempt}, "
            f"{expected.kind} {expected.round}.{expected.attempt} is open; refuse it"
        )
    if manifest.opening != expected.opening:
        raise WrongRound(f"a reply of {manifest.hospital} is for another opening of round {expected.round}; refuse it")


def _open_body(reply: SignedReply, expected: OpenExchange) -> PackedUpload | None:
    manifest = reply.manifest
    if manifest.role == "observe":
        if reply.body or manifest.root or manifest.chunks:
            raise MalformedMessage(f"{manifest.hospital} observes and yet sends a body; refuse it")
        return None
    if not expected.wants_uploads:
        raise MalformedMessage(
            f"{manifest.hospital} contributes to a {expected.kind}, which takes no upload; refuse it"
        )
    if manifest.chunks != expected.chunks or len(reply.body) != expected.body_bytes:
        raise MalformedMessage(
            f"{manifest.hospital} sends {manifest.chunks} ciphertexts in {len(reply.body)} bytes; "
            f"exactly {expected.chunks} in {expected.body_bytes} bytes are allowed; refuse it"
        )
    if merkle_root(reply.body, expected.chunks) != manifest.root:
        raise MalformedMessage(f"the body of {manifest.hospital} is not the one that it signed; refuse it")
    return PackedUpload.read(reply.body, expected.chunks, expected.parameters)
