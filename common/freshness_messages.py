"""Messages of the freshness check: what a hospital asks after it was started, and what its peers have seen of it.

A site that was restored from an old copy knows nothing of what it did since then; its peers do. Its nonce is new in
each start and run, so an answer to an earlier one shows nothing. The nonce itself needs no signature: an answer to a
nonce that its hospital did not draw is refused there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import Field, StringConstraints

from common.canonical import canonical_bytes
from common.card import HospitalName
from common.identity import verify
from common.wire import Counter, Hex32, Hex64, Signature, Wire

MAX_SEEN_BYTES = 2 << 10
"""Of one manifest with its signature, as a frame without a body; a manifest takes about 1 KiB."""
_MOST_HOSPITALS = 1000
_UNSIGNED = "0" * 128

SeenManifest = Annotated[str, StringConstraints(pattern=rf"^([0-9a-f]{{2}}){{1,{MAX_SEEN_BYTES}}}$")]


class OpenNonce(Wire):
    """A hospital that was started and wants to know what its peers have seen of it."""

    hospital: HospitalName
    nonce: Hex64
    ledger: Hex64 = Field(description="which ledger it charges: hash of source and site")


class FreshnessAnswer(Wire):
    """What one hospital has seen of another; nothing seen is an answer."""

    run: Hex32
    plan: Hex64
    epoch: Counter
    nonce: Hex64 = Field(description="the one that is answered")
    asker: HospitalName
    ledger: Hex64 = Field(description="the asker's ledger that is meant")
    hospital: HospitalName = Field(description="who answers")
    seen: tuple[SeenManifest, ...] = Field(
        max_length=2,
        strict=False,
        description="the asker's own signed manifests, as frames: that with the most ledger entries, and the last of "
        "the run if it is another one",
    )
    signature: Signature = _UNSIGNED

    def check(self, public_hex: str) -> None:
        """Verify under the roster's key; raises BadSignature."""
        verify(public_hex, bytes.fromhex(self.signature), _signed(self))


OpenNonces = Annotated[tuple[OpenNonce, ...], Field(max_length=_MOST_HOSPITALS, strict=False)]
FreshnessAnswers = Annotated[tuple[FreshnessAnswer, ...], Field(max_length=_MOST_HOSPITALS, strict=False)]


def sign_answer(answer: FreshnessAnswer, signer: Callable[[bytes], bytes]) -> FreshnessAnswer:
    """The answer with its hospital's signature."""
    return answer.model_copy(update={"signature": signer(_signed(answer)).hex()})


def _signed(answer: FreshnessAnswer) -> bytes:
    return b"fedward/freshness/1" + canonical_bytes(answer.model_dump(mode="json", exclude={"signature"}))
