"""Digests over a round's bytes, against an implementation written another way."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.canonical import canonical_bytes, sha256_hex
from common.messages import NOTHING_APPLIED
from common.transcript import EMPTY_CHAIN, aggregate_root, extend_chain, merkle_root


def largest_power_below(count: int) -> int:
    """RFC 6962's k: the largest power of two smaller than `count`."""
    return 1 << (count - 1).bit_length() - 1


def rfc6962(leaves: list[bytes]) -> bytes:
    """The Merkle tree hash, by the recursion of RFC 6962, section 2.1."""
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    split = largest_power_below(len(leaves))
    return hashlib.sha256(b"\x01" + rfc6962(leaves[:split]) + rfc6962(leaves[split:])).digest()


@pytest.mark.parametrize("chunks", [1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 31, 33])
def test_the_merkle_root_is_that_of_rfc_6962(chunks: int) -> None:
    """The recursion from the top gives what the levels from the bottom give."""
    leaves = [hashlib.sha256(bytes([i])).digest()[: 1 + chunks % 7] for i in range(chunks)]
    assert merkle_root(b"".join(leaves), chunks) == rfc6962(leaves).hex()


@given(st.data())
def test_one_changed_byte_changes_the_root(data: st.DataObject) -> None:
    """And so does another order of the chunks."""
    chunks = data.draw(st.integers(1, 12))
    body = bytearray(data.draw(st.binary(min_size=3 * chunks, max_size=3 * chunks)))
    before = merkle_root(bytes(body), chunks)
    position, change = data.draw(st.integers(0, len(body) - 1)), data.draw(st.integers(1, 255))
    body[position] ^= change
    assert merkle_root(bytes(body), chunks) != before
    assert merkle_root(memoryview(body), chunks) == merkle_root(bytes(body), chunks)


def test_an_inner_node_is_no_leaf() -> None:
    """Two chunks cannot be presented as one whose bytes are their hashes."""
    left, right = (hashlib.sha256(b"\x00" + leaf).digest() for leaf in (b"aa", b"bb"))
    assert merkle_root(b"aabb", 2) != merkle_root(left + right, 1)


def test_the_chain_holds_the_whole_history() -> None:
    """By hand: lengths in front of every part; any other root, order or round number gives another chain."""
    roots = [aggregate_root(bytes([i])) for i in range(3)]
    chain = EMPTY_CHAIN
    for number, root in enumerate(roots, start=1):
        parts = [b"fedward/chain/1", bytes.fromhex(chain), number.to_bytes(8, "big"), bytes.fromhex(root)]
        by_hand = hashlib.sha256(b"".join(len(p).to_bytes(8, "big") + p for p in parts)).hexdigest()
        chain = extend_chain(chain, number, root)
        assert chain == by_hand
    swapped = EMPTY_CHAIN
    for number, root in enumerate((roots[1], roots[0], roots[2]), start=1):
        swapped = extend_chain(swapped, number, root)
    assert swapped != chain
    assert extend_chain(EMPTY_CHAIN, 2, roots[0]) != extend_chain(EMPTY_CHAIN, 1, roots[0])


def test_a_skipped_round_is_a_link_of_its_own() -> None:
    """By hand: an empty root. A round that was skipped is no round that was left out, and no round with a sum."""
    parts = [b"fedward/chain/1", bytes.fromhex(EMPTY_CHAIN), (1).to_bytes(8, "big"), b""]
    by_hand = hashlib.sha256(b"".join(len(p).to_bytes(8, "big") + p for p in parts)).hexdigest()
    skipped = NOTHING_APPLIED.followed_by("")
    assert (skipped.round, skipped.root, skipped.chain) == (1, "", by_hand)
    root = aggregate_root(b"sum")
    chains = [
        skipped.followed_by(root).chain,
        NOTHING_APPLIED.followed_by(root).chain,
        NOTHING_APPLIED.followed_by(root).followed_by("").chain,
        NOTHING_APPLIED.followed_by(root).followed_by(root).chain,
    ]
    assert len(set(chains)) == len(chains)


@given(st.lists(st.binary(max_size=6), max_size=4), st.lists(st.binary(max_size=6), max_size=4))
def test_parts_cannot_flow_into_each_other(first: list[bytes], second: list[bytes]) -> None:
    """Equal digests mean equal parts, not equal concatenations."""
    assert (sha256_hex(b"d", *first) == sha256_hex(b"d", *second)) == (first == second)


def test_the_domain_separates() -> None:
    """One digest has one purpose; a domain is no part either."""
    assert sha256_hex(b"a", b"x") != sha256_hex(b"b", b"x")
    assert sha256_hex(b"a", b"x") != sha256_hex(b"ax")
    assert sha256_hex(b"a", b"bc") != sha256_hex(b"a", b"b", b"c")


def test_canonical_bytes_are_one_for_each_value() -> None:
    """Sorted keys, no space, ASCII, and no NaN."""
    assert canonical_bytes({"b": 1, "a": [1.0e-5, "ä"]}) == rb'{"a":[1e-05,"\u00e4"],"b":1}'
    assert canonical_bytes({"a": 1, "b": 2}) == canonical_bytes({"b": 2, "a": 1})
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="Out of range"):
            canonical_bytes(value)
