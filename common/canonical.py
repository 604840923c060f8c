"""One byte string for one value: what digests and signatures are taken over."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def canonical_bytes(value: Any) -> bytes:  # noqa: ANN401 -- any JSON value
    """JSON with sorted keys, no white space, ASCII only, shortest round-trip floats, no NaN.

    Raises:
        ValueError: If the value holds a NaN or an infinity.
        TypeError: If it holds what JSON cannot say.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def sha256_hex(domain: bytes, *parts: bytes) -> str:
    """SHA-256 over a domain label and parts, each prefixed by its length, as hex.

    Guarantees:
        Injective: no two different (domain, parts) give the same input to the hash.
    """
    digest = hashlib.sha256()
    for part in (domain, *parts):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()
