"""Reads a site's data, in whatever form it holds them, for a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from client.data.connector import Connector, UnitNaming
from client.data.image_table import image_table, unlabelled_images
from client.data.reading import ImageReading, Reading
from client.data.registry import load_mapping, mapping_of_none
from client.data.rows import encode_rows
from client.data.table import PrivacyUnit, SiteTable
from common.canonical import canonical_bytes, sha256_hex
from common.config import Settings, load_settings
from common.errors import ConfigError, DataError, LocalProtocolError
from common.plan_data import DataSettings, ImageData, RowData, SurvivalData
from common.site_config import AUTO_COLUMN, SiteConfig


@dataclass(frozen=True, slots=True)
class DataPlace:
    """Where a site's data lie.

    Attributes:
        path: Folder of images; file or folder of rows.
        mapping: File that maps this site's columns, codes and units to the plan's; None for images in class folders.
        patient_column: As in the site file; for class folders only.
        named_by: What `path` was given by, for messages.
        mapped_by: What `mapping` is given by, for messages.
    """

    path: Path
    mapping: Path | None = None
    patient_column: str = AUTO_COLUMN
    named_by: str = field(default="--data", compare=False)
    mapped_by: str = field(default="--mapping", compare=False)

    @classmethod
    def of_site(cls, config: SiteConfig) -> DataPlace:
        """What the site file says."""
        return cls(
            config.data,
            config.mapping,
            config.patient_column,
            named_by="'data' in the site file",
            mapped_by="'mapping' in the site file",
        )


def read_data(place: DataPlace, data: DataSettings, *, unit: PrivacyUnit) -> SiteTable:
    """Read all records, checked and grouped into privacy units by the plan's rules; pixels are not decoded.

    Raises:
        ConfigError: If the mapping is missing, wrong, or not for this kind of data.
        DataError: If the data are missing, wrong, or leave nothing to use.
    """
    connector, mapping = _connector(place, data, labelled=True)
    if not connector.tells_outcome(mapping):
        what = "time and event" if isinstance(data, SurvivalData) else "label"
        raise ConfigError(
            f"{place.mapping}: seen no {what}; a plan on data of kind '{data.kind}' learns from it: add it"
        )
    reading = _read(place, data, connector, mapping)
    patients = connector.patient_of(mapping)
    if isinstance(reading, ImageReading) and isinstance(data, ImageData):
        return image_table(
            reading,
            data.classes,
            on_undecodable=data.unreadable_images,
            unit=unit,
            patient_column=reading.patient_column or patients,
            decode=connector.decode,
        )
    return encode_rows(*_rows(reading, data), unit=unit, patient_column=patients)


def read_unlabelled(place: DataPlace, data: DataSettings) -> tuple[SiteTable, Sequence[tuple[str, str]]]:
    """All records, each a unit of its own, whatever is known of their outcome: what a finished model is asked about.

    Returns:
        The records; labels and times mean nothing. And for each, in the order of the source, where it stands and its
        unit: of equal images there is one unit.

    Raises:
        ConfigError, DataError: See `read_data`; a mapping needs no outcome.
    """
    connector, mapping = _connector(place, data, labelled=False)
    reading = _read(place, data, connector, mapping)
    if isinstance(reading, ImageReading):
        return unlabelled_images(reading, data.classes, decode=connector.decode)
    found, declared = _rows(reading, data)
    time, label = (0.0, "") if isinstance(declared, SurvivalData) else (None, declared.classes[0])
    rows = [replace(row, patient=None, label=label, time=time) for row in found.rows]
    table = encode_rows(replace(found, rows=rows), declared, unit="record", patient_column=None)
    return table, [(record.place, record.unit) for record in table.records]


def unit_naming(place: DataPlace, data: DataSettings, *, unit: PrivacyUnit) -> UnitNaming:
    """What names the units of `read_data`, without a look at pixels or rows.

    Returns:
        Nothing for images that are units by their bytes, however they are listed. Rows of nobody are named by what the
        plan reads of them, so there stand digests of its `data` and of the mapping; an image's patient is found by the
        mapping.

    Raises:
        ConfigError, DataError: If the mapping, the folder or its index.csv is wrong.
        OSError: If an image cannot be read.
    """
    connector, mapping = _connector(place, data, labelled=True)
    images = isinstance(data, ImageData)
    if images and unit == "record":
        return UnitNaming(None, {})
    if unit == "patient" and connector.naming is not None:
        return connector.naming(place.path, data, mapping)
    column = connector.patient_of(mapping) if unit == "patient" else None
    if column is not None and not images:
        return UnitNaming(column, {})
    # As the file says it: with absolute paths in it, the rule would change where the site's folder is moved.
    said = mapping if place.mapping is None else load_settings(place.mapping, connector.mapping)
    return UnitNaming(
        column, {"mapping": _digest(said)} if images else {"data": _digest(data), "mapping": _digest(said)}
    )


def _digest(settings: Settings) -> str:
    return sha256_hex(b"fedward/unit-names/1", canonical_bytes(settings.model_dump(mode="json")))


def read_rows(place: DataPlace, data: RowData) -> Reading:
    """What a connector finds, before it is encoded: for dealing rows to the hospitals of a demo.

    Raises:
        ConfigError, DataError: See `read_data`.
    """
    connector, mapping = _connector(place, data, labelled=True)
    return _rows(_read(place, data, connector, mapping), data)[0]


def _connector(place: DataPlace, data: DataSettings, *, labelled: bool) -> tuple[Connector[Any, Any], Settings]:
    """What reads the data, and the site's mapping, or that of a site that needs none."""
    if place.mapping is None:
        found = mapping_of_none(data, place.patient_column, labelled=labelled)
        if found is None:
            raise ConfigError(
                f"mapping: seen none with a plan on data of kind '{data.kind}'; write a mapping file that says where "
                f"this site's columns, codes and units lie (docs/data.md), and name it by {place.mapped_by}"
            )
    elif place.patient_column != AUTO_COLUMN:
        raise ConfigError(
            f"patient_column: seen '{place.patient_column}' beside a mapping; the mapping says who is a patient, so "
            f"leave it out, or write '{AUTO_COLUMN}'"
        )
    else:
        found = load_mapping(place.mapping, data)
    if not place.path.exists():
        raise DataError(f"{place.path}: there is no such file or folder; correct {place.named_by}")
    return found


def _read(
    place: DataPlace, data: DataSettings, connector: Connector[Any, Any], mapping: Settings
) -> Reading | ImageReading:
    try:
        return connector.read(place.path, data, mapping)
    except OSError as error:
        raise DataError(f"{place.path.name}: cannot be read ({error.strerror}); check path and permissions") from error


def _rows(reading: Reading | ImageReading, data: DataSettings) -> tuple[Reading, RowData]:
    if isinstance(reading, ImageReading) or isinstance(data, ImageData):
        raise LocalProtocolError(f"a {type(reading).__name__} was read for data of kind '{data.kind}'")
    return reading, data
