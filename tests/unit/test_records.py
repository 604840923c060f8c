"""Frames pass through Flower's records unchanged, and nothing else does."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from common.errors import MalformedMessage
from common.records import REPLY, REQUEST, frame_to_record, record_to_frame


def record_of(
    *,
    name: str = "fedward",
    array_name: str = "frame",
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
        RecordDict({"fedward": ConfigRecord({"frame": b"abc"})}),
        RecordDict({"fedward": ArrayRecord([np.zeros(3, dtype=np.float32)])}),
        RecordDict(dict(record_of()) | {"more": ConfigRecord({"a": 1})}),
    ],
)
def test_anything_else_is_refused(record: RecordDict) -> None:
    """A pickle in an array, a second record, a false length."""
    with pytest.raises(MalformedMessage):
        record_to_frame(record, REPLY)
