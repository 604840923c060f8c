"""Takes a run up from the model of an earlier one: this site's own, or one that others seal to it and vouch for."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from client.hpke import seal, unseal
from client.member import Member
from client.optimiser import OptimiserState
from client.state import RunState, state_tag
from client.storage import RunStorage
from common.checkpoint import Checkpoint, checkpoint_purpose, decode_checkpoint, encode_checkpoint
from common.errors import CeremonyError, CheckpointMissing, CheckpointRefused
from common.mask_messages import identity_of
from common.messages import Request, SignedManifest
from common.plan import Plan

_KEY_BYTES, _NONCE_BYTES = 32, 12
_WORD_BYTES = 8


def continued_state(runs: Path, storage: RunStorage, plan: Plan) -> RunState:
    """The model that a run continues, from what this site keeps of the earlier run.

    Args:
        runs: The folder of all runs.
        storage: Of the new run; gets the model and the rows of the rounds behind it.
        plan: A plan that continues a run.

    Returns:
        The model; it is on the disk.

    Raises:
        CheckpointMissing: If this site does not hold it.
        WrongPlan: If the earlier run was under another plan here.
        SiteStorageError: If the disk refuses.
    """
    continues = plan.agreed.continues
    earlier = RunStorage(runs / continues.run, plan=continues.plan) if continues else storage
    state = earlier.load_state()
    if state is None or state.applied.round != plan.first_round - 1 or not _fits(state, plan):
        raise CheckpointMissing(
            f"plan '{plan.name}' goes on from round {plan.first_round - 1} of an earlier run, whose model is not here; "
            "this site waits for a checkpoint from the other hospitals"
        )
    storage.take_over({number: row for number, row in earlier.rounds().items() if number < plan.first_round}, state)
    return state


def _fits(state: RunState, plan: Plan) -> bool:
    size = plan.agreed.trainable_parameters
    return state.optimiser.parameters.size == size and state.feature_mean.size == plan.statistics


def make_checkpoint(state: RunState, request: Request, member: Member, *, tag_key: bytes) -> bytes:
    """Seal this hospital's model to all hospitals of the roster.

    Args:
        state: The model that the run begins with.
        request: A `checkpoint` request that was verified.
        member: This hospital.
        tag_key: Key of the state tags of the request's epoch.
    """
    key, nonce = secrets.token_bytes(_KEY_BYTES), secrets.token_bytes(_NONCE_BYTES)
    vectors = (state.optimiser.parameters, state.optimiser.velocity, state.feature_mean)
    body = nonce + AESGCM(key).encrypt(nonce, b"".join(v.astype("<f8").tobytes() for v in vectors), None)
    me = member.hospital

    def purpose(to: str) -> bytes:
        return checkpoint_purpose(run=request.run, plan=request.plan, epoch=request.epoch, sender=me, to=to)

    checkpoint = Checkpoint(
        run=request.run,
        plan=request.plan,
        epoch=request.epoch,
        hospital=me,
        applied=state.applied,
        state_tag=state_tag(state, tag_key),
        boxes={peer.name: seal(key, to=peer.box, info=purpose(peer.name)).hex() for peer in member.plan.roster},
        body_sha256=hashlib.sha256(body).hexdigest(),
    )
    return encode_checkpoint(checkpoint, body, member.identity.sign)


def open_checkpoint(request: Request, data: bytes, member: Member, *, tag_key: bytes) -> RunState:
    """Open a checkpoint, and take it only if enough hospitals say that they hold the same model.

    Args:
        request: A `restore` request that was verified; its `survivors` are the hospitals' manifests of `hello`.
        data: The checkpoint, as the coordinator forwarded it.
        member: This hospital.
        tag_key: Key of the state tags of the request's epoch.

    Raises:
        CheckpointRefused: If it is of another run, key or round, does not open, is no model of this plan, or fewer than
            the plan's threshold of hospitals vouch for what is in it.
        BadSignature: If it, or a manifest, was not signed by its hospital.
        MalformedMessage: If it is no checkpoint.
    """
    checkpoint, body = decode_checkpoint(data, member.identities)
    plan = member.plan
    seen = (checkpoint.run, checkpoint.plan, checkpoint.epoch, checkpoint.applied.round)
    if seen != (request.run, plan.digest, request.epoch, plan.first_round - 1):
        raise CheckpointRefused(f"the checkpoint of {checkpoint.hospital} is for another run, key or round; refuse it")
    state = _open(checkpoint, body, member)
    tag = state_tag(state, tag_key)
    vouching = _vouching(request.survivors, checkpoint, tag=tag, member=member)
    if vouching < plan.threshold:
        raise CheckpointRefused(
            f"{vouching} hospitals vouch for the checkpoint of {checkpoint.hospital}, {plan.threshold} are needed; "
            "refuse it, stop the run and call each other"
        )
    return state


def _open(checkpoint: Checkpoint, body: bytes, member: Member) -> RunState:
    me, size = member.hospital, member.plan.agreed.trainable_parameters
    info = checkpoint_purpose(
        run=checkpoint.run, plan=checkpoint.plan, epoch=checkpoint.epoch, sender=checkpoint.hospital, to=me
    )
    box = bytes.fromhex(checkpoint.boxes.get(me, ""))
    try:
        key = unseal(box, box_secret=member.box, info=info)
        content = AESGCM(key).decrypt(body[:_NONCE_BYTES], body[_NONCE_BYTES:], None)
    except (CeremonyError, InvalidTag, ValueError) as error:
        raise CheckpointRefused(
            f"the checkpoint of {checkpoint.hospital} does not open with this hospital's box key; refuse it"
        ) from error
    if len(content) != (2 * size + member.plan.statistics) * _WORD_BYTES:
        raise CheckpointRefused(f"the checkpoint of {checkpoint.hospital} is no model of this plan; refuse it")
    vectors = np.frombuffer(content, dtype="<f8").astype(np.float64)
    parameters, velocity, feature_mean = (part.copy() for part in np.split(vectors, [size, 2 * size]))
    return RunState(checkpoint.applied, OptimiserState(parameters, velocity), feature_mean)


def _vouching(survivors: Sequence[SignedManifest], checkpoint: Checkpoint, *, tag: str, member: Member) -> int:
    vouching = set()
    for signed in survivors:
        manifest = signed.manifest
        signed.check(identity_of(manifest.hospital, member.identities))
        said = (manifest.kind, manifest.run, manifest.plan, manifest.epoch, manifest.applied, manifest.state_tag)
        if said == ("hello", checkpoint.run, checkpoint.plan, checkpoint.epoch, checkpoint.applied, tag):
            vouching.add(manifest.hospital)
    return len(vouching)
