"""Connector `images`: all images below a folder, or a single one, of which nobody says what they show."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from client.data.connector import Connector
from client.data.image_files import is_dicom_file, is_picture, patient_ids, scan_files
from client.data.reading import ImageReading, RawImage
from common.config import Settings
from common.errors import DataError
from common.plan_data import ImageData


class LooseImages(Settings):
    """What a mapping file says of such a folder: nothing more."""

    form: Literal["images"] = Field(description="images at any depth, without labels")


def read_images(path: Path, _data: ImageData, _mapping: LooseImages) -> ImageReading:
    """Read the images of a folder; see `client.data.connector.Connector`."""
    root = path if path.is_dir() else path.parent
    files = (
        sorted(each for each in path.rglob("*") if is_picture(each) or is_dicom_file(each)) if path.is_dir() else [path]
    )
    if not files:
        raise DataError(f"{path}: holds no .jpg, .jpeg, .png or DICOM file; name a folder of images")
    images = [
        RawImage(
            file.relative_to(root).as_posix(),
            "",
            scan.sha256,
            patient_ids("", scan),
            problem=None if scan.opens else scan.problem,
        )
        for file, scan in zip(files, scan_files(files, root), strict=True)
    ]
    return ImageReading(root=root, images=images)


CONNECTOR = Connector(
    form="images",
    kinds=(ImageData,),
    mapping=LooseImages,
    read=read_images,
    patient_of=lambda _: None,
    tells_outcome=lambda _: False,
    unmapped=lambda _: LooseImages(form="images"),
)
