"""Pixels of a whole table of images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from client.data.decode import why_undecodable
from client.data.table import ImageTable, OnUndecodable
from common.errors import DataError


def check_decodable(table: ImageTable, *, on_undecodable: OnUndecodable) -> ImageTable:
    """Decode every image now and leave out, or refuse, those that fail.

    The feature pass finds the same files without a second decoding; this is for `fedward split` and for trial runs.

    Raises:
        DataError: If an image fails and `on_undecodable` is "refuse", or if none is left.
    """
    bad = {}
    for record in table.records:
        try:
            table.decode(table.file(record), 8)
        except DataError:
            bad[record.path] = why_undecodable(table.file(record))
    return table.without_undecodable(bad, on_undecodable=on_undecodable)


def load_pixels(
    table: ImageTable, *, image_size: int, on_undecodable: OnUndecodable
) -> tuple[NDArray[np.uint8], ImageTable]:
    """Decode all images of a table for a model that is trained whole.

    Args:
        table: Images.
        image_size: Side, pixels; memory is 3 * image_size^2 bytes per image.
        on_undecodable: As in `load_table`.

    Returns:
        Pixels of shape (images, image_size, image_size, 3), uint8, and the table of those images, in the same order.

    Raises:
        DataError: As `ImageTable.without_undecodable`.
    """
    pixels = np.empty((len(table.records), image_size, image_size, 3), dtype=np.uint8)
    bad: dict[str, str] = {}
    for position, record in enumerate(table.records):
        try:
            # In place: a list to be stacked at the end would take twice the memory.
            pixels[position - len(bad)] = table.decode(table.file(record), image_size)
        except DataError:
            bad[record.path] = why_undecodable(table.file(record))
    kept = table.without_undecodable(bad, on_undecodable=on_undecodable)
    return pixels[: len(kept.records)], kept
