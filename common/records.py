"""Frames to and from Flower records: one opaque array per message."""

from __future__ import annotations

from typing import Final, Literal

from flwr.app import Array, ArrayRecord, RecordDict

from common.errors import MalformedMessage

REQUEST: Final = "fedward.request/1"
REPLY: Final = "fedward.reply/1"
FrameKind = Literal["fedward.request/1", "fedward.reply/1"]

_RECORD = "fedward"
_ARRAY = "frame"
_DTYPE = "bytes"


def frame_to_record(frame: bytes, kind: FrameKind) -> RecordDict:
    """Wrap a frame of `common.messages` for Flower, which cuts, compresses nothing and de-duplicates by content."""
    array = Array(dtype=_DTYPE, shape=(len(frame),), stype=kind, data=frame)
    return RecordDict({_RECORD: ArrayRecord({_ARRAY: array})})


def record_to_frame(record: RecordDict, kind: FrameKind) -> bytes:
    """Unwrap what `frame_to_record` made; the frame itself stays unchecked bytes.

    Raises:
        MalformedMessage: If the record holds anything else, or anything more.
    """
    arrays = record.array_records.get(_RECORD)
    if len(record) != 1 or arrays is None or list(arrays) != [_ARRAY]:
        raise MalformedMessage("a message holds other records than one frame; refuse it")
    array = arrays[_ARRAY]
    if array.stype != kind or array.dtype != _DTYPE or tuple(array.shape) != (len(array.data),):
        raise MalformedMessage(f"a message's frame is not a {kind} of the stated length; refuse it")
    return array.data
