"""What a connector is: the one interface between a hospital's own form of data and the plan's rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from client.data.rows import Reading
from common.config import Settings
from common.plan_data import RowData

Mapping = TypeVar("Mapping", bound=Settings)
Data = TypeVar("Data", bound=RowData)


@dataclass(frozen=True, slots=True)
class Connector(Generic[Data, Mapping]):
    """Reads one form of data.

    Attributes:
        form: What mapping files call it (`form:`).
        kinds: Settings of the plan's `data` that it can serve.
        mapping: What a mapping file of this form holds; has a key `form`.
        read: From the file or folder, the plan's declaration and the mapping to rows in the plan's units and words.
            Raises DataError for what is wrong with the data, and ConfigError for a mapping that does not fit the plan;
            both name file, row and column, and never a patient's value.
        patient_of: What the mapping says patients are told by; None where each row is a patient of its own.
        tells_outcome: Whether the mapping says where classes, or times and events, stand. Without, `read` leaves them
            empty: a finished model needs none.
        in_folder: Makes the mapping's paths those that it means, where its file lies in a folder; None if it has none.
    """

    form: str
    kinds: tuple[type[RowData], ...]
    mapping: type[Mapping]
    read: Callable[[Path, Data, Mapping], Reading]
    patient_of: Callable[[Mapping], str | None]
    tells_outcome: Callable[[Mapping], bool]
    in_folder: Callable[[Mapping, Path], Mapping] | None = None
