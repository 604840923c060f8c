"""Frames to and from Flower records: opaque arrays that are one frame's pieces."""

from __future__ import annotations

from itertools import pairwise
from typing import Final, Literal

from flwr.app import Array, ArrayRecord, RecordDict

from common.errors import MalformedMessage

REQUEST: Final = "fedward.request/1"
REPLY: Final = "fedward.reply/1"
FrameKind = Literal["fedward.request/1", "fedward.reply/1"]

# As large as what Flower sends at once (5 MiB), or less.
PIECE_BYTES = 4 << 20
_RECORD = "fedward"
_ARRAY = "frame"
_DTYPE = "bytes"


def frame_to_record(frame: bytes, kind: FrameKind, *, shared_from: int = 0) -> RecordDict:
    """Wrap a frame of `common.messages` for Flower, which cuts, compresses nothing and de-duplicates by content.

    Args:
        frame: The frame.
        kind: Request or reply.
        shared_from: Where in it those bytes begin that other frames have too: Flower keeps and sends them once.
    """
    # Pieces: Flower holds an array three times while it puts it together.
    cuts = sorted({0, *range(shared_from, len(frame), PIECE_BYTES), len(frame)} if frame else {0, 1})
    arrays = {
        f"{_ARRAY}-{index:05d}": Array(dtype=_DTYPE, shape=(len(piece),), stype=kind, data=piece)
        for index, (start, stop) in enumerate(pairwise(cuts))
        for piece in [frame[start:stop]]
    }
    return RecordDict({_RECORD: ArrayRecord(arrays)})


def record_to_frame(record: RecordDict, kind: FrameKind) -> bytes:
    """Unwrap what `frame_to_record` made; the frame itself stays unchecked bytes.

    Raises:
        MalformedMessage: If the record holds anything else, or anything more.
    """
    arrays = record.array_records.get(_RECORD)
    if len(record) != 1 or not arrays or list(arrays) != [f"{_ARRAY}-{index:05d}" for index in range(len(arrays))]:
        raise MalformedMessage("a message holds other records than one frame; refuse it")
    for array in arrays.values():
        if array.stype != kind or array.dtype != _DTYPE or tuple(array.shape) != (len(array.data),):
            raise MalformedMessage(f"a message's frame is not a {kind} of the stated length; refuse it")
    return b"".join(array.data for array in arrays.values())
