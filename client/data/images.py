"""Pixels: decode one file, or a whole table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from client.data.dicom import PREAMBLE_BYTES, begins_as_dicom
from client.data.dicom_pixels import decode_dicom
from client.data.image_files import open_picture
from client.data.table import ImageTable, OnUndecodable
from common.errors import DataError

_DEEP_WHITE = 65_535


def decode_image(path: Path, size: int) -> NDArray[np.uint8]:
    """Decode a file, turn it upright, and scale and crop it centrally to a square.

    Args:
        path: JPEG, PNG or DICOM file of any size and colour mode; its content says which, whatever its name.
        size: Side of the square, pixels, >= 1.

    Returns:
        Shape (size, size, 3), RGB, uint8.

    Raises:
        DataError: If the file cannot be decoded; names it without its folders.
    """
    try:
        with path.open("rb") as stream:
            dicom = begins_as_dicom(stream.read(PREAMBLE_BYTES))
    except OSError as error:
        raise _undecodable(path, error) from error
    return _square(decode_dicom(path).convert("RGB") if dicom else _decode_picture(path, size), size)


def _decode_picture(path: Path, size: int) -> Image.Image:
    """Upright and RGB, of its own size or, of a large JPEG, of one that is still at least twice `size`."""
    try:
        with path.open("rb") as stream, open_picture(stream) as image:
            # A JPEG can be decoded at 1/2, 1/4, 1/8 of its size: keeps a 20-megapixel photograph cheap and small.
            image.draft("RGB", (2 * size, 2 * size))
            return _to_rgb(ImageOps.exif_transpose(image))
    # One damaged byte leads Pillow to raise anything: EXIF alone makes it a struct.error, TypeError or AttributeError.
    except Exception as error:
        raise _undecodable(path, error) from error


def _undecodable(path: Path, error: Exception) -> DataError:
    """Says no more of the error than is known to hold neither folders nor what the file says of a patient."""
    if isinstance(error, UnidentifiedImageError):
        reason = "it is no JPEG or PNG image"
    elif isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        reason = str(error)
    elif isinstance(error, OSError):
        reason = error.strerror or str(error)
    else:
        reason = "it is damaged"
    return DataError(f"the image {path.name} cannot be decoded: {reason}; replace or delete it")


def _square(upright: Image.Image, size: int) -> NDArray[np.uint8]:
    if upright.size != (size, size):
        upright = ImageOps.fit(upright, (size, size), method=Image.Resampling.BICUBIC)
    return np.asarray(upright, dtype=np.uint8)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert to RGB of 8 bits; grey of 16 bits is scaled by its mode's whole range, 0 to 65535.

    Pillow's own `convert` cuts every grey above 255 off: a 16-bit image would turn white.
    """
    if not image.mode.startswith("I"):
        return image.convert("RGB")
    # Rounded, in 64 bits: white is 255 and black 0, and nothing wraps around.
    eight = (np.asarray(image).astype(np.int64) + _DEEP_WHITE // 510) // (_DEEP_WHITE // 255)
    return Image.fromarray(eight.astype(np.uint8)).convert("RGB")


def check_decodable(table: ImageTable, *, on_undecodable: OnUndecodable) -> ImageTable:
    """Decode every image now and leave out, or refuse, those that fail.

    The feature pass finds the same files without a second decoding; this is for `fedward split` and for trial runs.

    Raises:
        DataError: If an image fails and `on_undecodable` is "refuse", or if none is left.
    """
    bad = set()
    for record in table.records:
        try:
            decode_image(table.file(record), 8)
        except DataError:
            bad.add(record.path)
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
    bad: set[str] = set()
    for position, record in enumerate(table.records):
        try:
            # In place: a list to be stacked at the end would take twice the memory.
            pixels[position - len(bad)] = decode_image(table.file(record), image_size)
        except DataError:
            bad.add(record.path)
    kept = table.without_undecodable(bad, on_undecodable=on_undecodable)
    return pixels[: len(kept.records)], kept
