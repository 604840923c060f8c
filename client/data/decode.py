"""Pixels of one file: decoded, turned upright, and brought to a square."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from client.data.dicom import PREAMBLE_BYTES, begins_as_dicom
from client.data.dicom_pixels import decode_dicom
from client.data.image_files import open_picture
from common.errors import DataError

# From a file and the side of a square to its pixels, shape (side, side, 3), RGB, uint8; raises DataError. A function at
# the top of a module: the feature pass runs in a process of its own.
Decode = Callable[[Path, int], NDArray[np.uint8]]

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
    return to_square(decode_dicom(path).convert("RGB") if dicom else _decode_picture(path, size), size)


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


def why_undecodable(path: Path) -> str:
    """What is wrong with a file that opens as an image and that `decode_image` refused, to be read after its name.

    Says nothing that the file says, and so less than the error: a list of files is no place for whole sentences.
    """
    try:
        with path.open("rb") as stream:
            dicom = begins_as_dicom(stream.read(PREAMBLE_BYTES))
    except OSError:
        return "cannot be read"
    return "has pixels or a window that are damaged or of a kind that is not read" if dicom else "is damaged"


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


def to_square(upright: Image.Image, size: int) -> NDArray[np.uint8]:
    """Scale and crop an RGB image centrally, shape (size, size, 3)."""
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
