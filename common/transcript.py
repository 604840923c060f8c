"""Digests that tie a round's bytes together: Merkle roots of uploads, the chain over aggregates."""

from __future__ import annotations

import hashlib

from common.canonical import sha256_hex

EMPTY_CHAIN = sha256_hex(b"fedward/chain/1")


def merkle_root(body: bytes | memoryview, chunks: int) -> str:
    """Merkle root over `chunks` equal pieces of an upload's body, as hex.

    Leaves and inner nodes carry different prefixes, and an odd node moves up unpaired, so no two bodies of one length
    share a root unless SHA-256 collides. References: RFC 6962, section 2.1.

    Args:
        body: Packed words and seeds, chunk by chunk; its length is a multiple of `chunks`.
        chunks: Number of ciphertexts, >= 1.
    """
    view = memoryview(body)
    size = len(view) // chunks
    level = [hashlib.sha256(b"\x00" + view[i * size : (i + 1) * size]).digest() for i in range(chunks)]
    while len(level) > 1:
        pairs = [hashlib.sha256(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)]
        level = pairs + level[len(level) - len(level) % 2 :]
    return level[0].hex()


def aggregate_root(body: bytes | memoryview) -> str:
    """Digest of one stored aggregate, as hex."""
    return sha256_hex(b"fedward/aggregate/1", bytes(body))


def extend_chain(chain: str, round_number: int, root: str) -> str:
    """Hash chain over applied rounds: equal chains mean equal histories."""
    return sha256_hex(b"fedward/chain/1", bytes.fromhex(chain), round_number.to_bytes(8, "big"), bytes.fromhex(root))
