"""Sampled verification: which hospitals recompute which chunks of a sum, and what they sign about it.

Every chunk is recomputed by as many hospitals as the plan assumes colluders, and one more. So one of them is honest,
whoever they are; the hash that chooses them spreads the work evenly and leaves nothing to agree on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import Field

from common.canonical import sha256_hex
from common.errors import LocalProtocolError
from common.transcript import MerkleTree, path_bytes, root_of_path
from common.wire import Counter, Hex64, Wire

NODE_BYTES = 32

Present = tuple[Counter, ...]


class Verdict(Wire):
    """What a hospital says about the last sum: its chunks, as `assigned_chunks` gives them, are those of the uploads.

    There is no verdict that says otherwise: a hospital that finds another sum answers with an error, and nothing more.
    """

    round: Counter
    sample: Hex64 = Field(description="`sample_of` the sum")
    present: Present = Field(max_length=1000, strict=False, description="roster positions that share the chunks")


class ChunkCheck(Wire):
    """What the coordinator asks a hospital to recompute; the records of its chunks end the request's body."""

    round: Counter
    sample: Hex64
    present: Present = Field(max_length=1000, strict=False)
    known: Present = Field(
        max_length=1000, strict=False, description="of its earlier verdict, whose chunks are not sent again, or empty"
    )
    record_bytes: Counter = Field(description="size of all records")


def sample_of(survivors: str, root: str) -> str:
    """What decides who recomputes which chunk of a sum, hex.

    Args:
        survivors: Digest of the survivors' signed manifests.
        root: Digest of the sum.
    """
    return sha256_hex(b"fedward/sample/1", bytes.fromhex(survivors), bytes.fromhex(root))


def assigned_chunks(
    sample: str, present: Sequence[int], *, hospitals: int, chunks: int, verifiers: int
) -> dict[int, tuple[int, ...]]:
    """The chunks that each of the present hospitals recomputes.

    Each run of `hospitals` chunks has one order of the roster by hash, which begins one place later for each chunk; a
    chunk's verifiers are the first present ones. Where all are present, each gets as many chunks of such a run.

    Args:
        sample: From `sample_of`.
        present: Roster positions, distinct.
        hospitals: Length of the roster.
        chunks: Chunks of the sum.
        verifiers: How many hospitals recompute each chunk.

    Returns:
        Chunks in ascending order, by roster position; every chunk stands with exactly `verifiers` of them.

    Raises:
        LocalProtocolError: If fewer are present, or one is not in the roster.

    Guarantees:
        Without one of the present hospitals all others keep the chunks that they had, and get more.
    """
    if len(set(present)) < max(verifiers, 1) or not set(present) <= set(range(hospitals)):
        raise LocalProtocolError(f"{len(set(present))} hospitals are to recompute chunks; {verifiers} at least")
    found: dict[int, list[int]] = {position: [] for position in present}
    for start in range(0, chunks, hospitals):
        order = sorted(range(hospitals), key=lambda position: _place(sample, start, position))
        ordered = [position for position in order if position in found]
        first = 0
        for chunk in range(start, min(start + hospitals, chunks)):
            for index in range(first, first + verifiers):
                found[ordered[index % len(ordered)]].append(chunk)
            first += order[chunk - start] in found
    return {position: tuple(own) for position, own in found.items()}


def can_share(present: Sequence[int], *, hospitals: int, verifiers: int) -> bool:
    """Whether these can share a sum's chunks: distinct positions of the roster, in order, and enough of them."""
    distinct = sorted({position for position in present if position < hospitals})
    return list(present) == distinct and len(present) >= max(verifiers, 1)


def record_with_path(record: bytes | memoryview, tree: MerkleTree, chunk: int) -> bytes:
    """One chunk of an upload as its verifiers get it: the record, then its Merkle path."""
    return b"".join((record, *tree.path(chunk)))


def records_bytes(own: Sequence[int], *, chunks: int, record_bytes: int) -> int:
    """Size of the records of one upload, with their paths."""
    return sum(record_bytes + path_bytes(chunk, chunks) for chunk in own)


def read_records(
    data: memoryview, own: Sequence[int], *, chunks: int, record_bytes: int
) -> Iterator[tuple[memoryview, str]]:
    """Records of one upload and the Merkle root that each leads to, hex; the inverse of `record_with_path`.

    Args:
        data: `records_bytes` of it.
        own: The chunks, in order.
        chunks: Chunks of the upload.
        record_bytes: Size of a record.
    """
    start = 0
    for chunk in own:
        end = start + record_bytes + path_bytes(chunk, chunks)
        record, path = data[start : start + record_bytes], data[start + record_bytes : end]
        nodes = tuple(path[at : at + NODE_BYTES].hex() for at in range(0, len(path), NODE_BYTES))
        yield record, root_of_path(record, index=chunk, pieces=chunks, path=nodes)
        start = end


def _place(sample: str, start: int, position: int) -> str:
    return sha256_hex(
        b"fedward/verifier/1", bytes.fromhex(sample), start.to_bytes(8, "big"), position.to_bytes(4, "big")
    )
