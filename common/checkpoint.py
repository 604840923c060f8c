"""The message that brings a run's model to a hospital that does not hold it: sealed, signed, vouched for by others.

A frame: its header says what is in it, its body is the model under a fresh AES-256-GCM key, which the header holds once
for each hospital of the roster, sealed to that hospital's box key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Annotated

from pydantic import Field, StringConstraints

from common.canonical import canonical_bytes
from common.card import HospitalName
from common.errors import MalformedMessage
from common.identity import verify
from common.mask_messages import identity_of
from common.messages import Applied
from common.wire import Counter, Hex32, Hex64, Wire, frame, header_bytes, parse_header, signed_bytes, unframe

CHECKPOINT_MAGIC = b"FWCKP/1\n"
MAX_HEADER_BYTES = 4 << 20
# HPKE's encapsulated key, 32 bytes and a tag.
Box = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{160}$")]


class Checkpoint(Wire):
    """What a hospital signs of the model that it seals."""

    run: Hex32
    plan: Hex64
    epoch: Counter
    hospital: HospitalName = Field(description="who sealed it")
    applied: Applied
    state_tag: Hex64
    boxes: dict[HospitalName, Box] = Field(max_length=1000, description="the model's key, sealed to each hospital")
    body_sha256: Hex64


def encode_checkpoint(checkpoint: Checkpoint, body: bytes, sign: Callable[[bytes], bytes]) -> bytes:
    """Sign a checkpoint and frame it with the sealed model."""
    header = header_bytes(checkpoint)
    return frame(CHECKPOINT_MAGIC, header, sign(signed_bytes(CHECKPOINT_MAGIC, header)), body)


def decode_checkpoint(data: bytes, identities: dict[str, str]) -> tuple[Checkpoint, bytes]:
    """Parse a checkpoint and verify who signed it.

    Args:
        data: Bytes from the network.
        identities: Public key, hex, of each hospital in the roster.

    Returns:
        The header and the sealed model.

    Raises:
        MalformedMessage: If it is no canonical frame, or the body is another one.
        BadSignature: If it names a stranger, or the named hospital did not sign it.
    """
    header, signature, body = unframe(CHECKPOINT_MAGIC, data, most_header_bytes=MAX_HEADER_BYTES)
    checkpoint = parse_header(header, Checkpoint)
    verify(identity_of(checkpoint.hospital, identities), signature, signed_bytes(CHECKPOINT_MAGIC, header))
    if hashlib.sha256(body).hexdigest() != checkpoint.body_sha256:
        raise MalformedMessage("a checkpoint's body is not the one that was signed; refuse it")
    return checkpoint, body


def checkpoint_purpose(*, run: str, plan: str, epoch: int, sender: str, to: str) -> bytes:
    """HPKE `info` of one box: a box of another run, epoch, sender or recipient does not open."""
    return canonical_bytes(["fedward/checkpoint-box/1", run, plan, epoch, sender, to])
