"""What a connector is: the one interface between a hospital's own form of data and the plan, for rows and images."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from client.data.decode import Decode, decode_image
from client.data.reading import ImageReading, Reading
from common.config import Settings
from common.plan_data import DataSettings

Mapping = TypeVar("Mapping", bound=Settings)
Data = TypeVar("Data", bound=DataSettings)


@dataclass(frozen=True, slots=True)
class UnitNaming:
    """What the names of privacy units hang on, beside the plan: another one is another held-out rule.

    Attributes:
        column: What tells patients; None where nothing does, or where patients are not the unit.
        others: Whatever else names units, by what it is.
    """

    column: str | None
    others: MappingOf[str, str]


@dataclass(frozen=True, slots=True)
class Connector(Generic[Data, Mapping]):
    """Reads one form of data.

    Attributes:
        form: What mapping files call it (`form:`).
        kinds: Settings of the plan's `data` that it can serve.
        mapping: What a mapping file of this form holds; has a key `form`.
        read: From the file or folder, the plan's declaration and the mapping to rows in the plan's units and words, or
            to images. Raises DataError for what is wrong with the data, and ConfigError for a mapping that does not fit
            the plan; both name file, row and column, and never a patient's value.
        patient_of: What the mapping says patients are told by; None where it names nothing.
        tells_outcome: Whether the mapping says where classes, or times and events, stand. Without, `read` leaves them
            empty: a finished model needs none.
        in_folder: Makes the mapping's paths those that it means, where its file lies in a folder; None if it has none.
        unmapped: Makes the mapping of a site that names none, from the site's `patient_column`; None if this form needs
            a mapping file.
        naming: What names units where patients are protected, without a look at pixels or rows; None where
            `patient_of` and the mapping say all of it. Raises ConfigError or DataError, as `read` does, and OSError.
        decode: Of images: makes pixels of one file.
    """

    form: str
    kinds: tuple[type[DataSettings], ...]
    mapping: type[Mapping]
    read: Callable[[Path, Data, Mapping], Reading | ImageReading]
    patient_of: Callable[[Mapping], str | None]
    tells_outcome: Callable[[Mapping], bool]
    in_folder: Callable[[Mapping, Path], Mapping] | None = None
    unmapped: Callable[[str], Mapping] | None = None
    naming: Callable[[Path, Data, Mapping], UnitNaming] | None = None
    decode: Decode = decode_image
