"""Who recomputes which chunk: enough distinct hospitals for each, the same for all, and about as many for each."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import LocalProtocolError
from common.plan_bounds import FEWEST_HONEST
from common.transcript import MerkleTree, merkle_root
from common.verdicts import assigned_chunks, can_share, read_records, record_with_path, records_bytes, sample_of


@st.composite
def shares(draw: st.DrawFn) -> tuple[str, tuple[int, ...], int, int, int]:
    """A sum's digest, who is present, the length of the roster, chunks, verifiers."""
    hospitals = draw(st.integers(3, 20))
    verifiers = draw(st.integers(2, hospitals - FEWEST_HONEST + 1))
    present = draw(st.sets(st.integers(0, hospitals - 1), min_size=verifiers))
    sample = hashlib.sha256(draw(st.binary(max_size=4))).hexdigest()
    return sample, tuple(sorted(present)), hospitals, draw(st.integers(1, 90)), verifiers


@given(shares())
def test_every_chunk_has_distinct_verifiers_among_those_present(
    drawn: tuple[str, tuple[int, ...], int, int, int],
) -> None:
    """Exactly as many as were asked for, so that one more than the colluders looks at each chunk."""
    sample, present, hospitals, chunks, verifiers = drawn
    assigned = assigned_chunks(sample, present, hospitals=hospitals, chunks=chunks, verifiers=verifiers)
    assert set(assigned) == set(present)
    assert all(list(own) == sorted(set(own)) for own in assigned.values())
    assert Counter(chunk for own in assigned.values() for chunk in own) == dict.fromkeys(range(chunks), verifiers)


@given(shares())
def test_the_order_of_names_does_not_matter(drawn: tuple[str, tuple[int, ...], int, int, int]) -> None:
    """Coordinator and hospitals get the same chunks from the same facts."""
    sample, present, hospitals, chunks, verifiers = drawn
    one = assigned_chunks(sample, present, hospitals=hospitals, chunks=chunks, verifiers=verifiers)
    assert one == assigned_chunks(sample, present[::-1], hospitals=hospitals, chunks=chunks, verifiers=verifiers)


@given(shares(), st.data())
def test_without_a_hospital_the_others_keep_their_chunks(
    drawn: tuple[str, tuple[int, ...], int, int, int], data: st.DataObject
) -> None:
    """What was recomputed stays so: the others only add the missing hospital's chunks."""
    sample, present, hospitals, chunks, verifiers = drawn
    if len(present) == verifiers:
        return
    gone = data.draw(st.sampled_from(present))
    rest = tuple(position for position in present if position != gone)
    before = assigned_chunks(sample, present, hospitals=hospitals, chunks=chunks, verifiers=verifiers)
    after = assigned_chunks(sample, rest, hospitals=hospitals, chunks=chunks, verifiers=verifiers)
    assert all(set(before[position]) <= set(after[position]) for position in rest)
    assert sum(len(after[position]) - len(before[position]) for position in rest) == len(before[gone])


@given(st.integers(3, 20), st.integers(1, 400), st.integers(0, 2**32))
def test_the_work_is_even_where_all_are_present(hospitals: int, chunks: int, seed: int) -> None:
    """No two hospitals differ by more chunks than a chunk has verifiers."""
    sample = hashlib.sha256(str(seed).encode()).hexdigest()
    assigned = assigned_chunks(sample, range(hospitals), hospitals=hospitals, chunks=chunks, verifiers=2)
    loads = [len(own) for own in assigned.values()]
    assert max(loads) - min(loads) <= 2


@pytest.mark.parametrize(("hospitals", "gone"), [(5, 1), (10, 3), (50, 16)])
@pytest.mark.parametrize("seed", range(5))
def test_the_work_is_even_within_a_factor_of_two_where_a_third_is_away(hospitals: int, gone: int, seed: int) -> None:
    """11.2 million parameters: the busiest hospital recomputes less than twice as much as the least busy one."""
    sample = hashlib.sha256(bytes([seed])).hexdigest()
    present = tuple(position for position in range(hospitals) if (position * 7 + seed) % hospitals >= gone)
    assigned = assigned_chunks(sample, present, hospitals=hospitals, chunks=5469, verifiers=2)
    loads = [len(own) for own in assigned.values()]
    assert max(loads) < 2 * min(loads)


def test_another_sum_or_other_survivors_give_other_verifiers() -> None:
    """The hash is over both, so nobody chooses the verifiers before the sum is fixed."""
    digests = [hashlib.sha256(bytes([number])).hexdigest() for number in range(3)]
    samples = [sample_of(digests[0], digests[1]), sample_of(digests[2], digests[1]), sample_of(digests[0], digests[2])]
    own = [assigned_chunks(sample, range(5), hospitals=5, chunks=100, verifiers=2)[0] for sample in samples]
    assert len(set(own)) == 3


def test_too_few_or_strangers_share_nothing() -> None:
    """Fewer than there must be verifiers, twice the same, in another order, or outside the roster."""
    for present in ((0,), (0, 0), (1, 0), (0, 5)):
        assert not can_share(present, hospitals=5, verifiers=2)
    assert can_share((0, 4), hospitals=5, verifiers=2)
    with pytest.raises(LocalProtocolError):
        assigned_chunks("00" * 32, (0,), hospitals=5, chunks=3, verifiers=2)
    with pytest.raises(LocalProtocolError):
        assigned_chunks("00" * 32, (0, 5), hospitals=5, chunks=3, verifiers=2)


@given(st.integers(1, 40), st.integers(1, 20), st.binary(min_size=1, max_size=8), st.data())
def test_records_lead_to_the_signed_root_and_others_do_not(
    chunks: int, size: int, fill: bytes, data: st.DataObject
) -> None:
    """The round trip of what verifiers get, and, as control, the same with one bit changed."""
    body = hashlib.shake_256(fill).digest(chunks * size)
    own = tuple(sorted(data.draw(st.sets(st.integers(0, chunks - 1), min_size=1))))
    tree, root = MerkleTree(body, chunks), merkle_root(body, chunks)
    sent = b"".join(record_with_path(body[chunk * size : (chunk + 1) * size], tree, chunk) for chunk in own)
    assert len(sent) == records_bytes(own, chunks=chunks, record_bytes=size)
    read = list(read_records(memoryview(sent), own, chunks=chunks, record_bytes=size))
    assert [bytes(record) for record, _ in read] == [body[chunk * size : (chunk + 1) * size] for chunk in own]
    assert {found for _, found in read} == {root}
    at = data.draw(st.integers(0, len(sent) - 1))
    changed = bytearray(sent)
    changed[at] ^= 1
    roots = [found for _, found in read_records(memoryview(bytes(changed)), own, chunks=chunks, record_bytes=size)]
    assert sum(found != root for found in roots) == 1
