"""Digests that tie a round's bytes together: Merkle roots of uploads, the chain over aggregates."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from common.canonical import sha256_hex
from common.errors import MalformedMessage

_AGGREGATE = b"fedward/aggregate/1"
EMPTY_CHAIN = sha256_hex(b"fedward/chain/1")


def merkle_root(body: bytes | memoryview, chunks: int) -> str:
    """Merkle root over `chunks` equal pieces of an upload's body, as hex.

    Leaves and inner nodes carry different prefixes, and an odd node moves up unpaired, so no two bodies of one length
    share a root unless SHA-256 collides. References: RFC 6962, section 2.1.

    Args:
        body: Packed words and seeds, chunk by chunk; its length is a multiple of `chunks`.
        chunks: Number of ciphertexts, >= 1.
    """
    return _levels(_leaves(body, chunks))[-1][0].hex()


class MerkleTree:
    """The tree behind `merkle_root`, for who needs many paths of one body.

    Args:
        body: As in `merkle_root`; it is not kept.
        pieces: Number of equal pieces, >= 1.
    """

    def __init__(self, body: bytes | memoryview, pieces: int) -> None:
        self._levels = _levels(_leaves(body, pieces))

    @classmethod
    def of(cls, pieces: Iterable[bytes | memoryview]) -> MerkleTree:
        """The tree over pieces that come one after the other."""
        tree = cls.__new__(cls)
        tree._levels = _levels([_leaf(piece) for piece in pieces])  # noqa: SLF001 -- its own
        return tree

    def path(self, index: int) -> tuple[bytes, ...]:
        """What shows that piece `index` belongs to the root: its neighbours from the leaf up, 32 bytes each."""
        found = []
        for level in self._levels[:-1]:
            if index ^ 1 < len(level):
                found.append(level[index ^ 1])
            index //= 2
        return tuple(found)


def merkle_path(body: bytes | memoryview, pieces: int, index: int) -> tuple[str, ...]:
    """What shows that piece `index` belongs to `merkle_root(body, pieces)`: its neighbours from the leaf up, hex.

    Args:
        body: As in `merkle_root`.
        pieces: Number of equal pieces, >= 1.
        index: Which one, from 0.
    """
    return tuple(node.hex() for node in MerkleTree(body, pieces).path(index))


def path_bytes(index: int, pieces: int) -> int:
    """Length of the path of piece `index` in a tree of that many pieces."""
    nodes = 0
    while pieces > 1:
        nodes += index ^ 1 < pieces
        index, pieces = index // 2, (pieces + 1) // 2
    return 32 * nodes


def root_of_path(piece: bytes | memoryview, *, index: int, pieces: int, path: tuple[str, ...]) -> str:
    """The root that a piece and its path lead to, hex; another path, place or piece leads to another root.

    Args:
        piece: The leaf's bytes.
        index: Its place, from 0.
        pieces: Number of leaves in the tree.
        path: From `merkle_path`.

    Raises:
        MalformedMessage: If the path is not as long as the tree is high at that place.
    """
    node, left, width = hashlib.sha256(b"\x00" + piece).digest(), list(path), pieces
    while width > 1:
        if index ^ 1 < width:
            if not left:
                raise MalformedMessage("a Merkle path is too short; refuse the message")
            neighbour = bytes.fromhex(left.pop(0))
            node = hashlib.sha256(b"\x01" + (neighbour + node if index % 2 else node + neighbour)).digest()
        index, width = index // 2, (width + 1) // 2
    if left:
        raise MalformedMessage("a Merkle path is too long; refuse the message")
    return node.hex()


def _leaf(piece: bytes | memoryview) -> bytes:
    return hashlib.sha256(b"\x00" + piece).digest()


def _leaves(body: bytes | memoryview, pieces: int) -> list[bytes]:
    view = memoryview(body)
    size = len(view) // pieces
    return [_leaf(view[i * size : (i + 1) * size]) for i in range(pieces)]


def _levels(leaves: list[bytes]) -> list[list[bytes]]:
    """All nodes of the tree, leaves first."""
    levels = [leaves]
    while len(below := levels[-1]) > 1:
        pairs = [hashlib.sha256(b"\x01" + below[i] + below[i + 1]).digest() for i in range(0, len(below) - 1, 2)]
        levels.append(pairs + below[len(below) - len(below) % 2 :])
    return levels


class AggregateRoot:
    """`aggregate_root` of a body that comes in pieces.

    Args:
        size_bytes: Length of the whole.
    """

    def __init__(self, size_bytes: int) -> None:
        # As `sha256_hex` frames its parts.
        lengths = (len(_AGGREGATE).to_bytes(8, "big"), size_bytes.to_bytes(8, "big"))
        self._digest = hashlib.sha256(lengths[0] + _AGGREGATE + lengths[1])

    def update(self, piece: bytes | memoryview) -> None:
        """Take the next piece."""
        self._digest.update(piece)

    @property
    def hex(self) -> str:
        """The digest."""
        return self._digest.hexdigest()


def aggregate_root(body: bytes | memoryview) -> str:
    """Digest of one stored aggregate, as hex."""
    digest = AggregateRoot(len(body))
    digest.update(body)
    return digest.hex


def extend_chain(chain: str, round_number: int, root: str) -> str:
    """Hash chain over applied rounds: equal chains mean equal histories. The root of a skipped round is empty."""
    return sha256_hex(b"fedward/chain/1", bytes.fromhex(chain), round_number.to_bytes(8, "big"), bytes.fromhex(root))
