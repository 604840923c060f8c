"""What coordinator and hospitals say to each other, and replies to bytes and back; see `common.request_frames`.

A request's header holds the digest of its body, a manifest the Merkle root, so a signature covers every byte.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from common.canonical import sha256_hex
from common.card import HospitalName
from common.errors import BadSignature
from common.freshness_messages import FreshnessAnswers, OpenNonces
from common.identity import verify
from common.mask_messages import Advert, DeliveredAdvert
from common.transcript import EMPTY_CHAIN, extend_chain
from common.verdicts import ChunkCheck, Verdict
from common.wire import (
    Counter,
    Hex32,
    Hex64,
    OptionalHex64,
    Signature,
    Wire,
    frame,
    header_bytes,
    parse_header,
    signed_bytes,
    unframe,
)

REPLY_MAGIC = b"FWREP/1\n"
# A manifest takes about 1 KiB. It is parsed before its signature can be checked, since it names the signer.
MAX_MANIFEST_BYTES = 8 << 10

Kind = Literal[
    "deal",
    "open",
    "confirm",
    "hello",
    "checkpoint",
    "restore",
    "keys",
    "stat",
    "train",
    "eval",
    "unmask",
    "verify",
    "finish",
]
KEY_KINDS: tuple[Kind, ...] = ("deal", "open", "confirm")
# One of them is what each round asks first: for an encrypted upload.
UPLOAD_KINDS: tuple[Kind, ...] = ("stat", "train", "eval")


class Applied(Wire):
    """What a hospital's model state rests on."""

    round: Counter
    root: OptionalHex64 = Field(description="digest of that round's aggregate; empty before any, or if it was skipped")
    chain: Hex64 = Field(description="hash chain over all applied and skipped rounds")

    def followed_by(self, root: str) -> Applied:
        """What it is after one more round; an empty root skips it."""
        number = self.round + 1
        return Applied(round=number, root=root, chain=extend_chain(self.chain, number, root))


NOTHING_APPLIED = Applied(round=0, root="", chain=EMPTY_CHAIN)


class Manifest(Wire):
    """What a hospital signs about its reply."""

    kind: Kind
    run: Hex32
    plan: Hex64
    epoch: Counter
    round: Counter
    attempt: Counter
    hospital: HospitalName
    role: Literal["contribute", "observe"]
    reason: str = Field(pattern=r"^[A-Za-z]{0,40}$", description="code of the error that made it observe, or empty")
    parameters: Hex64 = Field(description="digest of the CKKS parameters")
    opening: OptionalHex64 = Field(description="digest of the adverts that the round was opened with, if it was")
    revealed: OptionalHex64 = Field(
        description="digest of the survivors that it was asked to give shares for in the round before, if it was"
    )
    state_tag: Hex64
    applied: Applied
    ledger_sequence: Counter
    ledger: Hex64 = Field(description="which ledger: hash of source and site")
    ledger_head: Hex64
    nonce: OptionalHex64 = Field(description="asks what peers have seen of this site since its start; empty: it knows")
    chunks: Counter
    root: OptionalHex64 = Field(description="Merkle root of the body; empty without one")
    verdict: Verdict | None = Field(default=None, description="of the last sum, where verification is sampled")


class SignedManifest(Wire):
    """A manifest and its hospital's signature, as transcripts carry it."""

    manifest: Manifest
    signature: Signature

    def check(self, public_hex: str) -> None:
        """Verify under the roster's key; raises BadSignature."""
        verify(public_hex, bytes.fromhex(self.signature), signed_bytes(REPLY_MAGIC, header_bytes(self.manifest)))


def survivors_digest(survivors: Sequence[SignedManifest]) -> str:
    """What shares are revealed for, hex: the survivors' signed manifests in roster order."""
    return sha256_hex(b"fedward/survivors/1", *(header_bytes(signed) for signed in survivors))


class Transcript(Wire):
    """What shows that a sum is that of its survivors' uploads; the uploads follow the sum in the body."""

    adverts: tuple[Advert, ...] = Field(min_length=1, max_length=1000, strict=False, description="the opening's")
    seeds: tuple[Hex64, ...] = Field(max_length=1000, strict=False, description="self-mask seeds of the survivors")
    mask_secrets: tuple[Hex64, ...] = Field(
        max_length=1000, strict=False, description="X25519 secrets of those in the opening that did not survive"
    )
    upload_bytes: Counter = Field(description="size of each upload; 0 if verification is sampled and none follows")


class AggregateEntry(Wire):
    """One round that is over: whose uploads are in the sum; without survivors it was skipped.

    The last sum comes with its transcript, earlier ones rest on the manifests of later rounds, which name them.
    """

    round: Counter
    attempt: Counter
    survivors: tuple[SignedManifest, ...] = Field(max_length=1000, strict=False)
    sum_bytes: Counter
    transcript: Transcript | None
    witnesses: tuple[SignedManifest, ...] = Field(
        max_length=1000, strict=False, description="manifests of a later round, where that round itself is not sent"
    )

    @property
    def body_bytes(self) -> int:
        """Bytes of the sum and, with a transcript, of the uploads."""
        uploads = self.transcript.upload_bytes * len(self.survivors) if self.transcript else 0
        return self.sum_bytes + uploads


class Request(Wire):
    """What the coordinator signs."""

    kind: Kind
    run: Hex32
    plan: Hex64
    epoch: Counter
    round: Counter
    attempt: Counter
    hospital: HospitalName = Field(description="recipient")
    aggregates: tuple[AggregateEntry, ...] = Field(max_length=10_000, strict=False)
    adverts: tuple[DeliveredAdvert, ...] = Field(
        max_length=1000, strict=False, description="what the round opens with, in roster order; for train and eval"
    )
    survivors: tuple[SignedManifest, ...] = Field(
        max_length=1000,
        strict=False,
        description="whose uploads are to be unmasked, in roster order; for restore, who vouch for the checkpoint",
    )
    check: ChunkCheck | None = Field(default=None, description="chunks of the last sum that the recipient recomputes")
    verdicts: tuple[SignedManifest, ...] = Field(
        default=(), max_length=1000, strict=False, description="with verdicts on the last sum; for unmask and finish"
    )
    nonces: OpenNonces = ()
    answers: FreshnessAnswers = ()
    body_sha256: Hex64


@dataclass(frozen=True, slots=True)
class SignedReply:
    """A manifest with its signature and body (an encrypted upload, or nothing)."""

    signed: SignedManifest
    body: bytes | memoryview

    @property
    def manifest(self) -> Manifest:
        """What was signed."""
        return self.signed.manifest


def encode_reply(manifest: Manifest, body: bytes, sign: Callable[[bytes], bytes]) -> bytes:
    """Sign a manifest and frame it with its body; the caller has put the body's root into the manifest."""
    header = header_bytes(manifest)
    return frame(REPLY_MAGIC, header, sign(signed_bytes(REPLY_MAGIC, header)), body)


def decode_reply(data: bytes | memoryview, identities: dict[str, str]) -> SignedReply:
    """Parse a reply and verify its hospital's signature; the body stays unchecked bytes (see `server.admit`).

    Args:
        data: Bytes from the network; the body of a view is a view.
        identities: Public key, hex, of each hospital in the roster.

    Raises:
        MalformedMessage: If it is no canonical frame.
        BadSignature: If it names a stranger, or the named hospital did not sign it.
    """
    header, signature, body = unframe(REPLY_MAGIC, data, most_header_bytes=MAX_MANIFEST_BYTES)
    manifest = parse_header(header, Manifest)
    public_hex = identities.get(manifest.hospital)
    if public_hex is None:
        raise BadSignature("a reply names a hospital that is not in the roster; refuse it")
    signed = SignedManifest(manifest=manifest, signature=signature.hex())
    signed.check(public_hex)
    return SignedReply(signed, body)
