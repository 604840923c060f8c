"""What a mapping file of form `image-index` holds: where a CSV file says what an image shows, and whose it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from common.config import Settings
from common.errors import ConfigError
from common.plan_features import ClassName
from common.printable import PrintableText

Column = Annotated[PrintableText, StringConstraints(min_length=1, max_length=100)]
Code = Annotated[PrintableText, StringConstraints(min_length=1, max_length=100)]


class SplitChoice(Settings):
    """Which rows count."""

    column: Column = Field(description="column that says which part an image belongs to")
    use: tuple[Code, ...] = Field(min_length=1, max_length=100, description="its values whose rows are used")


class ImageIndexMapping(Settings):
    """What a site's mapping file says of an index of images."""

    form: Literal["image-index"] = Field(description="images listed by a CSV file")
    index: Path = Field(description="the CSV file, from the data folder on")
    delimiter: Literal["comma", "semicolon", "tab"] = Field(default="comma", description="what stands between cells")
    path: Column | None = Field(default=None, description="column of the image's path, from the data folder on")
    sop_instance_uid: Column | None = Field(
        default=None, description="instead of path: column of the SOPInstanceUID of a DICOM file"
    )
    label: Column | None = Field(
        default=None, description="column of the label; without it only a finished model is asked about the images"
    )
    labels: dict[Code, ClassName] = Field(
        default_factory=dict, description="the plan's class of each label; a label that is a class needs no line"
    )
    leave_out: tuple[Code, ...] = Field(default=(), max_length=1000, description="labels whose rows are not used")
    patient: Column | None = Field(
        default=None,
        description="column that says whose an image is; without it a DICOM file's PatientID, else nobody knows",
    )
    split: SplitChoice | None = Field(default=None, description="which rows are used; without it all")
    keep_clean: Column | None = Field(default=None, description="column that is false for images not to be used")

    @model_validator(mode="after")
    def _one_name_per_image(self) -> Self:
        if (self.path is None) == (self.sop_instance_uid is None):
            raise ConfigError("path: seen both or neither of 'path' and 'sop_instance_uid'; name one of them")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that must be there."""
        split = self.split.column if self.split is not None else None
        named = (self.path, self.sop_instance_uid, self.label, self.patient, split, self.keep_clean)
        return tuple(name for name in named if name is not None)
