"""Frames pass through Flower's records unchanged, and nothing else does."""

from __future__ import annotations

import os
from contextlib import nullcontext

import numpy as np
import pytest
from annotated_types import Le
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from common.errors import MalformedMessage
from common.frame_bounds import MAX_FRAME_BYTES
from common.pages import MAX_HEADER_BYTES
from common.plan_settings import CohortSettings
from common.records import PIECE_BYTES, REPLY, REQUEST, frame_to_record, record_to_frame
from common.request_frames import MAX_REQUEST_HEADER_BYTES
from common.wire import SIGNED_PARTS_BYTES


def record_of(
    *,
    name: str = "fedward",
    array_name: str = "frame-00000",
    dtype: str = "bytes",
    shape: tuple[int, ...] = (3,),
    stype: str = REPLY,
) -> RecordDict:
    """A right record, but for what is given."""
    return RecordDict({name: ArrayRecord({array_name: Array(dtype=dtype, shape=shape, stype=stype, data=b"abc")})})


@given(st.binary(max_size=5000))
def test_a_frame_comes_back(frame: bytes) -> None:
    """Whatever its bytes."""
    assert record_to_frame(frame_to_record(frame, REQUEST), REQUEST) == frame


@pytest.mark.parametrize("shared_from", [0, 1, 700, PIECE_BYTES, 2 * PIECE_BYTES + 5])
def test_a_large_frame_comes_back_in_pieces(shared_from: int) -> None:
    """None is larger than what Flower sends at once, and those behind the head are the same for all recipients."""
    body = os.urandom(2 * PIECE_BYTES + 5)
    records = [frame_to_record(head + body, REQUEST, shared_from=shared_from) for head in (b"a" * 9, b"b" * 9)]
    assert [record_to_frame(one, REQUEST) for one in records] == [b"a" * 9 + body, b"b" * 9 + body]
    pieces = [[array.data for array in one.array_records["fedward"].values()] for one in records]
    if shared_from >= 9:
        assert pieces[0][1:] == pieces[1][1:]
    assert all(len(piece) <= max(PIECE_BYTES, shared_from) for piece in pieces[0])


def test_the_control_record_passes() -> None:
    """So that each refusal below is due to its one change."""
    assert record_to_frame(record_of(), REPLY) == b"abc"


@pytest.mark.parametrize(
    "record",
    [
        RecordDict(),
        record_of(name="other"),
        record_of(array_name="other"),
        record_of(stype=REQUEST),
        record_of(dtype="float32"),
        record_of(shape=(2,)),
        record_of(shape=(4,)),
        record_of(shape=(1, 3)),
        record_of(shape=()),
        RecordDict({"fedward": ConfigRecord({"frame-00000": b"abc"})}),
        RecordDict({"fedward": ArrayRecord([np.zeros(3, dtype=np.float32)])}),
        RecordDict(dict(record_of()) | {"more": ConfigRecord({"a": 1})}),
    ],
)
def test_anything_else_is_refused(record: RecordDict) -> None:
    """A pickle in an array, a second record, a false length."""
    with pytest.raises(MalformedMessage):
        record_to_frame(record, REPLY)


def test_a_frame_longer_than_any_is_refused_before_it_is_put_together() -> None:
    """Its pieces are one and the same here, so that only putting them together would take memory."""
    piece = bytes(PIECE_BYTES)
    for pieces, refused in ((MAX_FRAME_BYTES // PIECE_BYTES + 1, True), (2, False)):
        array = Array(dtype="bytes", shape=(len(piece),), stype=REPLY, data=piece)
        record = RecordDict({"fedward": ArrayRecord({f"frame-{index:05d}": array for index in range(pieces)})})
        with pytest.raises(MalformedMessage, match="at most") if refused else nullcontext():
            assert len(record_to_frame(record, REPLY)) == pieces * PIECE_BYTES


def test_no_plan_asks_for_a_longer_frame() -> None:
    """What goes whole, with the longest header, and a page with its name."""
    longest = {
        name: limit.le << 10
        for name in ("whole_kib", "page_kib")
        for limit in CohortSettings.model_fields[name].metadata
        if isinstance(limit, Le) and isinstance(limit.le, int)
    }
    assert longest["whole_kib"] + MAX_REQUEST_HEADER_BYTES + SIGNED_PARTS_BYTES <= MAX_FRAME_BYTES
    assert longest["page_kib"] + 512 <= MAX_FRAME_BYTES
    assert MAX_HEADER_BYTES + SIGNED_PARTS_BYTES <= MAX_FRAME_BYTES
