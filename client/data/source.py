"""Reads a site's data, in whatever form it holds them, for a plan: images from folders, rows by a mapping file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from client.data.folder import load_table
from client.data.registry import load_mapping
from client.data.rows import encode_rows
from client.data.table import PrivacyUnit, SiteTable
from common.errors import ConfigError, DataError
from common.plan_data import DataSettings, ImageData
from common.site_config import AUTO_COLUMN, SiteConfig


@dataclass(frozen=True, slots=True)
class DataPlace:
    """Where a site's data lie.

    Attributes:
        path: Folder of images; file or folder of rows.
        mapping: File that maps this site's columns, codes and units to the plan's; None for images.
        patient_column: As in the site file; for images only.
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
        if place.mapping is not None:
            raise ConfigError(f"mapping: seen {place.mapping} with a plan on images; mappings are for rows; remove it")
        return load_table(
            place.path,
            data.classes,
            on_undecodable=data.unreadable_images,
            unit=unit,
            patient_column=place.patient_column,
        )
    if place.mapping is None:
        raise ConfigError(
            f"mapping: seen none with a plan on data of kind '{data.kind}'; write a mapping file that says where this "
            "site's columns, codes and units lie (docs/data.md), and name it in the site file"
        )
    if not place.path.exists():
        raise DataError(f"{place.path}: there is no such file or folder; name the data in the site file ('data')")
    connector, mapping = load_mapping(place.mapping, data)
    try:
        reading = connector.read(place.path, data, mapping)
    except OSError as error:
        raise DataError(f"{place.path.name}: cannot be read ({error.strerror}); check path and permissions") from error
    return encode_rows(reading, data, unit=unit, patient_column=connector.patient_of(mapping))
