"""DICOM files of drawn pixels, written by pydicom as a modality would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid


def image_dataset(pixels: NDArray[Any], **tags: Any) -> Dataset:  # noqa: ANN401 -- tags hold anything
    """An image of one frame, in memory.

    Args:
        pixels: Shape (rows, columns) for grey, (rows, columns, 3) for RGB; 8 or 16 bits, signed or not.
        tags: Keywords of further tags, which replace what is set here.
    """
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = SecondaryCaptureImageStorage, meta.MediaStorageSOPInstanceUID
    data.PatientID = "P1"
    data.Rows, data.Columns = pixels.shape[:2]
    data.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    data.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        data.PlanarConfiguration = 0
    data.BitsAllocated = data.BitsStored = 8 * pixels.dtype.itemsize
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    content = np.ascontiguousarray(pixels).tobytes()
    data.add_new(0x7FE00010, "OB" if pixels.dtype.itemsize == 1 else "OW", content + b"\0" * (len(content) % 2))
    for keyword, value in tags.items():
        setattr(data, keyword, value)
    return data


def write_dicom(path: Path, pixels: NDArray[Any], **tags: Any) -> Path:  # noqa: ANN401 -- tags hold anything
    """Write `image_dataset` to a file, with its folder."""
    return save(path, image_dataset(pixels, **tags))


def save(path: Path, data: Dataset) -> Path:
    """Write a data set as it is, right or wrong."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if data.file_meta.TransferSyntaxUID.is_private:  # pydicom cannot know how to write it
        data.save_as(path, implicit_vr=False, little_endian=True, enforce_file_format=True)
    else:
        data.save_as(path, enforce_file_format=True)
    return path


def put_text(data: Dataset, tag: int, vr: str, text: str) -> None:
    """Put text into a tag as it stands, also where a number or a date should be."""
    value = text.encode()
    data[tag] = RawDataElement(
        Tag(tag), vr, len(value), value, 0, is_implicit_VR=False, is_little_endian=True, is_raw=True
    )


def with_syntax(data: Dataset, uid: str, frames: list[bytes]) -> Dataset:
    """The same data set with its pixels in an encapsulated transfer syntax."""
    from pydicom.encaps import encapsulate  # noqa: PLC0415 -- only some tests need it

    data.file_meta.TransferSyntaxUID = UID(uid)
    data.add_new(0x7FE00010, "OB", encapsulate(frames))
    data["PixelData"].is_undefined_length = True
    return data
