"""Which forms of data a site can read. A connector for another form is one file, and one line here (docs/data.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from client.data import (
    class_folders,
    csv_rows,
    expression_csv,
    fhir,
    genotype_csv,
    image_index,
    loose_images,
    vcf_rows,
)
from client.data.connector import Connector
from common.config import Settings, load_settings, read_yaml
from common.errors import ConfigError
from common.plan_data import DataSettings

CONNECTORS: tuple[Connector[Any, Any], ...] = (
    class_folders.CONNECTOR,
    image_index.CONNECTOR,
    loose_images.CONNECTOR,
    csv_rows.CONNECTOR,
    expression_csv.CONNECTOR,
    fhir.CONNECTOR,
    genotype_csv.CONNECTOR,
    vcf_rows.CONNECTOR,
)


def load_mapping(path: Path, data: DataSettings) -> tuple[Connector[Any, Any], Settings]:
    """Read a mapping file with the settings of the connector that its key `form` names.

    Raises:
        ConfigError: If the file is missing or wrong, names no known form, or its form is not for this kind of data.
    """
    content = read_yaml(path)
    form = content.get("form") if isinstance(content, dict) else None
    fitting = [connector for connector in CONNECTORS if isinstance(data, connector.kinds)]
    chosen = next((connector for connector in fitting if connector.form == form), None)
    if chosen is None:
        forms = ", ".join(f"'{connector.form}'" for connector in fitting)
        raise ConfigError(
            f"{path}: form: seen {form!r}; allowed for data of kind '{data.kind}' are {forms}; name the form of this "
            "site's data"
        )
    mapping = load_settings(path, chosen.mapping)
    return chosen, mapping if chosen.in_folder is None else chosen.in_folder(mapping, path.resolve().parent)


def mapping_of_none(
    data: DataSettings, patient_column: str, *, labelled: bool
) -> tuple[Connector[Any, Any], Settings] | None:
    """The connector that reads this kind of data where a site names no mapping file; None if a form must be named.

    Args:
        data: The plan's declaration.
        patient_column: The site's.
        labelled: Whether classes must be known.
    """
    for connector in CONNECTORS:
        if isinstance(data, connector.kinds) and connector.unmapped is not None:
            mapping = connector.unmapped(patient_column)
            if connector.tells_outcome(mapping) == labelled:
                return connector, mapping
    return None
