"""Parts of the real skin lesions, as links beside an index of their own."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

SKIN9 = Path(__file__).parents[2].parent / "shared" / "data" / "skin9"


def clean_rows() -> list[dict[str, str]]:
    """The rows of index.csv whose images have one label."""
    with (SKIN9 / "index.csv").open(encoding="utf-8", newline="") as stream:
        return [row for row in csv.DictReader(stream) if row["keep_clean"] == "True"]


def part_name(row: dict[str, str]) -> str:
    """Path of a row's image in a part."""
    path = Path(row["path"])
    return f"{row['label']}/{path.parts[0]}-{path.name}"


def write_part(target: Path, rows: Sequence[dict[str, str]]) -> None:
    """Images of some rows of index.csv, as links, with an index of their own."""
    entries = []
    for row in rows:
        name = part_name(row)
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).symlink_to(SKIN9 / row["path"])
        entries.append(row | {"path": name})
    with (target / "index.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(entries[0]))
        writer.writeheader()
        writer.writerows(entries)
