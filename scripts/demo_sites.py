"""Which hospital of a demo holds which data, and how each maps its own form to the plan's: a sites file."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import yaml
from pydantic import Field, model_validator

from client.data.source import DataPlace
from common.card import HospitalName
from common.config import Settings, load_settings
from common.errors import ConfigError
from common.printable import PrintableText
from common.site_config import AUTO_COLUMN


class DemoSite(Settings):
    """One hospital of a demo."""

    name: HospitalName = Field(description="its name in the roster")
    data: Path = Field(description="its file or folder, from the folder of --data, else from the sites file's")
    mapping: Path | None = Field(default=None, description="its mapping file, from the sites file's folder")
    patient_column: PrintableText = Field(default=AUTO_COLUMN, description="as in a site file; for images")


class DemoSites(Settings):
    """The hospitals of a demo, in roster order."""

    sites: tuple[DemoSite, ...] = Field(min_length=3, max_length=50, description="what each hospital holds")

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [site.name for site in self.sites]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ConfigError(f"sites: seen the name '{twice}' twice; every hospital stands once")
        return self


def read_sites(path: Path, data: Path | None) -> dict[str, DataPlace]:
    """What each hospital of a sites file holds, in its order.

    Args:
        path: The sites file.
        data: Folder that the files of data start from; None: the sites file's own.

    Raises:
        ConfigError: If the file is wrong, or names a file that is not there.
    """
    base, start = path.resolve().parent, (data or path.parent).resolve()
    places = {}
    for site in load_settings(path, DemoSites).sites:
        mapping = None if site.mapping is None else base / site.mapping
        place = DataPlace(
            start / site.data,
            mapping,
            site.patient_column,
            named_by=f"'data' of {site.name} in {path}",
            mapped_by=f"'mapping' of {site.name} in {path}",
        )
        for key, file in (("data", place.path), ("mapping", mapping)):
            if file is not None and not file.exists():
                raise ConfigError(
                    f"{path}: {key} of {site.name}: seen {file}, which does not exist; name an existing file or folder"
                    f"{', or another folder by --data' if key == 'data' else ''}"
                )
        places[site.name] = place
    return places


def write_sites(path: Path, places: dict[str, DataPlace]) -> None:
    """Write a sites file for data that lie below its folder."""
    base = path.resolve().parent
    sites = [
        {
            "name": name,
            "data": str(place.path.resolve().relative_to(base)),
            **({} if place.mapping is None else {"mapping": str(place.mapping.resolve().relative_to(base))}),
        }
        for name, place in places.items()
    ]
    path.write_text(yaml.safe_dump({"sites": sites}, sort_keys=False), encoding="utf-8")
