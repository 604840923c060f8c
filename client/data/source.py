"""Reads a site's data, in whatever form it holds them, for a plan."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from client.data.connector import Connector
from client.data.folder import find_patient_column, load_table, patients_are_tagged
from client.data.image_index import load_indexed
from client.data.image_mapping import ImageIndexMapping
from client.data.registry import load_mapping
from client.data.rows import Reading, RowTable, encode_rows
from client.data.table import ImageTable, PrivacyUnit, SiteTable
from common.canonical import canonical_bytes, sha256_hex
from common.config import Settings, load_settings
from common.errors import ConfigError, DataError
from common.plan_data import DataSettings, ImageData, RowData, SurvivalData
from common.site_config import AUTO_COLUMN, SiteConfig


@dataclass(frozen=True, slots=True)
class DataPlace:
    """Where a site's data lie.

    Attributes:
        path: Folder of images; file or folder of rows.
        mapping: File that maps this site's columns, codes and units to the plan's; None for images in class folders.
        patient_column: As in the site file; for class folders only.
    """

    path: Path
    mapping: Path | None = None
    patient_column: str = AUTO_COLUMN

    @classmethod
    def of_site(cls, config: SiteConfig) -> DataPlace:
        """What the site file says."""
        return cls(config.data, config.mapping, config.patient_column)


def read_data(place: DataPlace, data: DataSettings, *, unit: PrivacyUnit) -> SiteTable:
    """Read all records, checked and grouped into privacy units by the plan's rules; pixels are not decoded.

    Raises:
        ConfigError: If the mapping is missing, wrong, or not for this kind of data.
        DataError: If the data are missing, wrong, or leave nothing to use.
    """
    if isinstance(data, ImageData):
        return _read_images(place, data, unit=unit)
    connector, mapping = _connector(place, data)
    if not connector.tells_outcome(mapping):
        what = "time and event" if isinstance(data, SurvivalData) else "label"
        raise ConfigError(
            f"{place.mapping}: seen no {what}; a plan on data of kind '{data.kind}' learns from it: add it"
        )
    reading = read_rows(place, data)
    return encode_rows(reading, data, unit=unit, patient_column=connector.patient_of(mapping))


def read_unlabelled(place: DataPlace, data: RowData) -> RowTable:
    """All rows, each a unit of its own, whatever is known of their outcome: what a finished model is asked about.

    Returns:
        Rows in the order of the source; `place` says where each stands. Labels and times mean nothing.

    Raises:
        ConfigError, DataError: See `read_data`; a mapping needs no outcome.
    """
    reading = read_rows(place, data)
    time, label = (0.0, "") if isinstance(data, SurvivalData) else (None, data.classes[0])
    rows = [replace(row, patient=None, label=label, time=time) for row in reading.rows]
    return encode_rows(replace(reading, rows=rows), data, unit="record", patient_column=None)


def patients_by(place: DataPlace, data: DataSettings, *, unit: PrivacyUnit) -> str | None:
    """What `read_data` would know patients by, without a look at the data; None where nothing does.

    Raises:
        ConfigError, DataError: If the mapping, the folder or its index.csv is wrong.
    """
    if isinstance(data, ImageData) and place.mapping is not None:
        return load_settings(place.mapping, ImageIndexMapping).patient if unit == "patient" else None
    if isinstance(data, ImageData):
        return find_patient_column(place.path, unit=unit, patient_column=place.patient_column)
    connector, mapping = _connector(place, data)
    return connector.patient_of(mapping) if unit == "patient" else None


def naming_of_units(place: DataPlace, data: DataSettings, *, unit: PrivacyUnit) -> dict[str, str]:
    """What names units beside the column of `patients_by`, without a look at pixels or rows.

    Returns:
        Empty for rows of named patients, and for images whose units class folders and index.csv alone decide. Rows of
        nobody are named by what the plan reads of them, so there stand digests of its `data` and of the mapping.

    Raises:
        ConfigError, DataError: If the mapping, the folder or its index.csv is wrong.
        OSError: If an image cannot be read.
    """
    if isinstance(data, ImageData):
        return _naming_of_images(place, data, unit=unit)
    connector, mapping = _connector(place, data)
    if unit == "patient" and connector.patient_of(mapping) is not None:
        return {}
    # As the file says it: with absolute paths in it, the rule would change where the site's folder is moved.
    said = mapping if place.mapping is None else load_settings(place.mapping, connector.mapping)
    return {"data": _digest(data), "mapping": _digest(said)}


def _naming_of_images(place: DataPlace, data: ImageData, *, unit: PrivacyUnit) -> dict[str, str]:
    if unit == "record":  # each file is named by its bytes, however it is listed
        return {}
    if place.mapping is not None:
        return {"mapping": _digest(load_settings(place.mapping, ImageIndexMapping))}
    column = find_patient_column(place.path, unit=unit, patient_column=place.patient_column)
    if column is None and patients_are_tagged(place.path, data.classes):
        return {"patient_tag": "PatientID"}
    return {}


def _digest(settings: Settings) -> str:
    return sha256_hex(b"fedward/unit-names/1", canonical_bytes(settings.model_dump(mode="json")))


def read_rows(place: DataPlace, data: RowData) -> Reading:
    """What a connector finds, before it is encoded: for dealing rows to the hospitals of a demo.

    Raises:
        ConfigError, DataError: See `read_data`.
    """
    connector, mapping = _connector(place, data)
    try:
        return connector.read(place.path, data, mapping)
    except OSError as error:
        raise DataError(f"{place.path.name}: cannot be read ({error.strerror}); check path and permissions") from error


def _connector(place: DataPlace, data: RowData) -> tuple[Connector[Any, Any], Settings]:
    if place.mapping is None:
        raise ConfigError(
            f"mapping: seen none with a plan on data of kind '{data.kind}'; write a mapping file that says where this "
            "site's columns, codes and units lie (docs/data.md), and name it in the site file"
        )
    if not place.path.exists():
        raise DataError(f"{place.path}: there is no such file or folder; name the data in the site file ('data')")
    return load_mapping(place.mapping, data)


def _read_images(place: DataPlace, data: ImageData, *, unit: PrivacyUnit) -> ImageTable:
    if place.mapping is None:
        return load_table(
            place.path,
            data.classes,
            on_undecodable=data.unreadable_images,
            unit=unit,
            patient_column=place.patient_column,
        )
    mapping = load_settings(place.mapping, ImageIndexMapping)
    if place.patient_column != AUTO_COLUMN:
        raise ConfigError(
            f"patient_column: seen '{place.patient_column}' beside a mapping; the mapping names the column of patients "
            f"('patient'), so write '{AUTO_COLUMN}' in the site file"
        )
    return load_indexed(place.path, mapping, data, unit=unit)
