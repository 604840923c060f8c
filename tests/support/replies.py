"""Real signed uploads of hospitals for the coordinator's tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.ckks import PRESETS, EncryptedVector, encode_upload
from common.identity import Identity
from common.messages import Applied, Manifest, encode_reply
from common.transcript import EMPTY_CHAIN, merkle_root
from server.admit import OpenExchange

CHUNKS = 3
RUN, PLAN, TAG, OPENING = "0" * 32, "1" * 64, "2" * 64, "5" * 64
NAMES = ("hospital-1", "hospital-2", "hospital-3", "hospital-4")
PARAMETERS = PRESETS["compact"]


@dataclass
class Hospitals:
    """Identities of a roster, and what they send."""

    identities: dict[str, Identity] = field(default_factory=lambda: {name: Identity.generate() for name in NAMES})

    def open(self, **changes: Any) -> OpenExchange:  # noqa: ANN401 -- any field
        """Round 2, attempt 0, as the coordinator has opened it."""
        fields: dict[str, Any] = {
            "kind": "train",
            "run": RUN,
            "plan": PLAN,
            "epoch": 1,
            "round": 2,
            "attempt": 0,
            "parameters": PARAMETERS,
            "chunks": CHUNKS,
            "identities": {name: identity.public_hex for name, identity in self.identities.items()},
            "opening": OPENING,
        }
        return OpenExchange(**fields | changes)

    def manifest(self, body: bytes, **changes: Any) -> Manifest:  # noqa: ANN401 -- any field
        """What hospital-1 signs about `body`."""
        fields: dict[str, Any] = {
            "kind": "train",
            "run": RUN,
            "plan": PLAN,
            "epoch": 1,
            "round": 2,
            "attempt": 0,
            "hospital": "hospital-1",
            "role": "contribute" if body else "observe",
            "reason": "",
            "parameters": PARAMETERS.digest(),
            "opening": OPENING,
            "revealed": "",
            "state_tag": TAG,
            "applied": Applied(round=1, root="3" * 64, chain=EMPTY_CHAIN),
            "ledger_sequence": 1,
            "ledger_head": "4" * 64,
            "ledger": "8" * 64,
            "nonce": "",
            "chunks": CHUNKS if body else 0,
            "root": merkle_root(body, CHUNKS) if body else "",
        }
        return Manifest(**fields | changes)

    def frame(self, body: bytes, *, signer: str = "", **changes: Any) -> bytes:  # noqa: ANN401 -- any field
        """A reply with this body; `signer` signs in the name of another."""
        manifest = self.manifest(body, **changes)
        return encode_reply(manifest, body, self.identities[signer or manifest.hospital].sign)


def random_words(seed: int) -> NDArray[np.uint64]:
    """Words of the ring, shape (CHUNKS, N)."""
    shape = (CHUNKS, PARAMETERS.ring_degree)
    return np.random.default_rng(seed).integers(0, PARAMETERS.modulus, size=shape, dtype=np.uint64)


def body_of(words: NDArray[np.uint64], seed_byte: int = 7) -> bytes:
    """The upload of these words."""
    return encode_upload(EncryptedVector(PARAMETERS, words, bytes([seed_byte]) * 64 * CHUNKS))
