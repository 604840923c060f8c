"""From a DICOM file to a picture of eight bits, as its own window or look-up table shows it.

References:
    DICOM PS3.3, C.7.6.3 (image pixel), C.11.1 (modality LUT), C.11.2 (VOI LUT and window).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from client.data.dicom import read_header, silent_pydicom
from common.errors import DataError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_WHITE: Final = 255.0
_GREY: Final = ("MONOCHROME1", "MONOCHROME2")
# pydicom has turned all but the first into RGB when it hands pixels over.
_COLOUR: Final = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_LOOK: Final = (
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *(
        f"{colour}PaletteColorLookupTable{part}"
        for colour in ("Red", "Green", "Blue")
        for part in ("Descriptor", "Data")
    ),
)


class _UnreadableLook(Exception):
    """What says how grey values are shown makes no sense; the text is read after the file's name."""


def decode_dicom(path: Path) -> Image.Image:
    """Decode a DICOM file of one frame.

    Grey values go through rescale slope and intercept (or the modality LUT), then through the VOI LUT, else the first
    window, else the whole range of Bits Stored; MONOCHROME1 is inverted. Colours keep theirs.

    Args:
        path: A file that begins as DICOM does.

    Returns:
        Mode L or RGB, of the file's own size.

    Raises:
        DataError: If the pixels cannot be used; names the file without its folders, and no value of a text tag.
    """
    with path.open("rb") as stream:
        problem = read_header(stream).problem
    if problem:
        raise DataError(f"the image {path.name} {problem}")
    with silent_pydicom():
        try:
            return Image.fromarray(_picture(path))
        except _UnreadableLook as error:
            problem = str(error)
        except Exception:  # noqa: BLE001 -- a damaged file leads pydicom to raise anything, with values in the text
            problem = "cannot be decoded: its pixels are cut off or damaged, or not as its header says; export it again"
    raise DataError(f"the image {path.name} {problem}")


def _picture(path: Path) -> NDArray[np.uint8]:
    """Shape (rows, columns) for grey, or (rows, columns, 3)."""
    from pydicom.dataset import Dataset  # noqa: PLC0415 -- optional
    from pydicom.pixels.processing import apply_color_lut  # noqa: PLC0415
    from pydicom.pixels.utils import pixel_array  # noqa: PLC0415
    from pydicom.tag import Tag  # noqa: PLC0415

    header = Dataset()
    stored = pixel_array(path, ds_out=header, index=0, specific_tags=[Tag(name) for name in _LOOK])
    kind = header.PhotometricInterpretation
    if kind in _GREY and stored.ndim == 2:
        table, lowest = _grey_table(header)
        return table[np.clip(stored.astype(np.int32) - lowest, 0, len(table) - 1)]
    if kind == "PALETTE COLOR" and stored.ndim == 2:
        if "RedPaletteColorLookupTableData" not in header:
            # A segmented one may unpack to gigabytes.
            raise _UnreadableLook("has a palette in segments, which is not read; export it as RGB")
        stored = apply_color_lut(stored, header)[:, :, :3]
        return _eight_bits(stored, 8 * stored.dtype.itemsize)
    # All of these have been made RGB.
    if stored.ndim == 3 and stored.shape[2] == 3 and kind in _COLOUR:
        return _eight_bits(stored, int(header.BitsStored))
    raise _UnreadableLook("has colours of a kind that is not read; export it as MONOCHROME2 or RGB")


def _eight_bits(stored: NDArray[np.unsignedinteger], bits: int) -> NDArray[np.uint8]:
    if bits == 8:
        return stored.astype(np.uint8)
    white = (1 << bits) - 1
    return ((stored.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)


def _grey_table(header: Dataset) -> tuple[NDArray[np.uint8], int]:
    """What each stored value is shown as: shape (2^bits,), 0 black to 255 white, and the lowest stored value.

    A table of 65,536 entries at most; a picture of floats would take eight bytes for each pixel.
    """
    from pydicom.pixels.processing import apply_modality_lut  # noqa: PLC0415 -- optional

    bits = int(header.BitsStored)
    lowest = -(1 << (bits - 1)) if header.PixelRepresentation == 1 else 0
    stored = np.arange(lowest, lowest + (1 << bits), dtype=np.int32)
    values = np.asarray(apply_modality_lut(stored, header), dtype=np.float64)
    if not np.isfinite(values).all() or values.min() == values.max():
        raise _UnreadableLook("rescales all grey values to one; correct its rescale slope and intercept")
    shown = _shown(values, header)
    if header.PhotometricInterpretation == "MONOCHROME1":
        shown = _WHITE - shown
    return np.rint(np.clip(shown, 0.0, _WHITE)).astype(np.uint8), lowest


def _shown(values: NDArray[np.float64], header: Dataset) -> NDArray[np.float64]:
    if header.get("VOILUTSequence"):
        return _looked_up(values, header)
    centre, width = _first(header.get("WindowCenter")), _first(header.get("WindowWidth"))
    if centre is None or width is None:
        return np.asarray(_WHITE * (values - values.min()) / (values.max() - values.min()))
    return _windowed(values, centre, width, function=str(header.get("VOILUTFunction") or "LINEAR"))


def _first(value: object) -> float | None:
    """The first of several, as windows are listed."""
    from pydicom.multival import MultiValue  # noqa: PLC0415 -- optional

    one = (value[0] if len(value) else None) if isinstance(value, MultiValue) else value
    return None if one is None or one == "" else float(str(one))


def _windowed(values: NDArray[np.float64], centre: float, width: float, *, function: str) -> NDArray[np.float64]:
    """The window's functions as PS3.3 C.11.2.1.2 and C.11.2.1.3 write them, from 0 to 255.

    Raises:
        _UnreadableLook: If the window has no width, or the function is not one of the standard's.
    """
    least = 1.0 if function == "LINEAR" else np.nextafter(0.0, 1.0)
    if not (np.isfinite(centre) and np.isfinite(width) and width >= least):
        raise _UnreadableLook("has a window without a width; correct its window centre and width")
    if function == "SIGMOID":
        # Beyond 40 the exponential is nothing to 255, and must not overflow.
        return np.asarray(_WHITE / (1.0 + np.exp(np.clip(-4.0 * (values - centre) / width, -40.0, 40.0))))
    if function == "LINEAR_EXACT":
        return np.asarray(_WHITE * ((values - centre) / width + 0.5))
    if function != "LINEAR":
        raise _UnreadableLook("has a VOI LUT function that is none of LINEAR, LINEAR_EXACT and SIGMOID; export it anew")
    if width == 1.0:
        return np.where(values <= centre - 0.5, 0.0, _WHITE)
    return np.asarray(_WHITE * ((values - (centre - 0.5)) / (width - 1.0) + 0.5))


def _looked_up(values: NDArray[np.float64], header: Dataset) -> NDArray[np.float64]:
    from pydicom.pixels.processing import apply_voi  # noqa: PLC0415 -- optional

    entries, first, bits = (int(number) for number in header.VOILUTSequence[0].LUTDescriptor)
    # Clipped here: pydicom takes the difference in 16 bits, where a large one would wrap around.
    inside = np.clip(np.rint(values), first, first + (entries or 1 << 16) - 1).astype(np.int64)
    return np.asarray(apply_voi(inside, header, index=0), dtype=np.float64) * (_WHITE / ((1 << bits) - 1))
