"""Frames to and from Flower records: opaque arrays that are one frame's pieces."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Final, Literal

from flwr.app import Array, ArrayRecord, RecordDict

from common.errors import MalformedMessage
from common.frame_bounds import MAX_FRAME_BYTES

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
    cuts = sorted({0, *range(shared_from, len(frame), PIECE_BYTES), len(frame)} if frame else {0, 1})
    return _record((frame[start:stop] for start, stop in pairwise(cuts)), kind)


def page_to_record(head: bytes, page: bytes, kind: FrameKind) -> RecordDict:
    """The same for a frame in two parts, of which the second is not copied if it is no longer than a piece."""
    cuts = sorted({*range(0, len(page), PIECE_BYTES), len(page)})
    return _record((head, *(page[start:stop] for start, stop in pairwise(cuts))), kind)


def _record(pieces: Iterable[bytes], kind: FrameKind) -> RecordDict:
    # Pieces: Flower holds an array three times while it puts it together.
    arrays = {
        f"{_ARRAY}-{index:05d}": Array(dtype=_DTYPE, shape=(len(piece),), stype=kind, data=piece)
        for index, piece in enumerate(pieces)
    }
    return RecordDict({_RECORD: ArrayRecord(arrays)})


def record_to_frame(record: RecordDict, kind: FrameKind) -> bytes:
    """Unwrap what `frame_to_record` made; the frame itself stays unchecked bytes.

    Raises:
        MalformedMessage: If the record holds anything else, or anything more, or a longer frame than there is any.
    """
    arrays = record.array_records.get(_RECORD)
    if len(record) != 1 or not arrays or list(arrays) != [f"{_ARRAY}-{index:05d}" for index in range(len(arrays))]:
        raise MalformedMessage("a message holds other records than one frame; refuse it")
    for array in arrays.values():
        if array.stype != kind or array.dtype != _DTYPE or tuple(array.shape) != (len(array.data),):
            raise MalformedMessage(f"a message's frame is not a {kind} of the stated length; refuse it")
    size = sum(len(array.data) for array in arrays.values())
    if size > MAX_FRAME_BYTES:
        raise MalformedMessage(f"a message's frame has {size} bytes; at most {MAX_FRAME_BYTES} are allowed; refuse it")
    return b"".join(array.data for array in arrays.values())
