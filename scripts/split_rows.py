"""Deal the rows of one source to several hospitals: every class in equal parts, a patient's rows always together."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from client.data.rows import RawRow, Reading
from client.data.source import DataPlace, read_rows
from common.errors import DataError
from common.plan_data import RowData
from scripts.demo_sites import write_sites
from scripts.row_files import write_rows
from scripts.whole_folder import make_room, whole_folder

SITES = "sites.yaml"


def deal_rows(rows: Sequence[RawRow], hospitals: int, *, seed: int) -> tuple[tuple[RawRow, ...], ...]:
    """Decide which hospital gets which rows.

    Args:
        rows: All rows; a row without a patient is a patient of its own. A patient counts for the label of its first
            row.
        hospitals: How many, >= 1.
        seed: Public seed of the order within a class; any integer.

    Returns:
        The rows of each hospital, in their order.

    Raises:
        DataError: If there are fewer patients than hospitals.
    """
    owners: dict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        owners[f"row {number}" if row.patient is None else f"patient {row.patient}"].append(number)
    if len(owners) < hospitals:
        raise DataError(f"{len(owners)} patients for {hospitals} hospitals: each needs one at least; name fewer")
    counts = [Counter[str]() for _ in range(hospitals)]
    dealt: list[list[int]] = [[] for _ in range(hospitals)]
    for owner in sorted(owners, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest()):
        first = rows[owners[owner][0]]
        label = f"{first.event}" if first.time is not None else first.label
        chosen = min(range(hospitals), key=lambda k: (counts[k][label], len(dealt[k]), k))
        counts[chosen][label] += 1
        dealt[chosen] += owners[owner]
    return tuple(tuple(rows[number] for number in sorted(part)) for part in dealt)


def split_rows(
    place: DataPlace, data: RowData, target: Path, *, hospitals: int, seed: int
) -> tuple[dict[str, DataPlace], Reading]:
    """Deal one source into `target`/hospital-1 and so on, in the plan's own words, and write `target`/sites.yaml.

    Args:
        place: File or folder of rows, and its mapping.
        data: The plan's declaration.
        target: Folder to make; may exist if it is empty.
        hospitals: How many parts, >= 1.
        seed: Public seed.

    Returns:
        What each hospital holds, and what was read.

    Raises:
        AlreadyExists: If `target` holds anything.
        ConfigError, DataError: If mapping or data are wrong, or there are fewer patients than hospitals.
        OperatorError: If the disk refuses; nothing is left behind.
    """
    make_room(target)
    reading = read_rows(place, data)
    parts = deal_rows(reading.rows, hospitals, seed=seed)
    return write_parts(target, parts, data), reading


def write_parts(target: Path, parts: Sequence[Sequence[RawRow]], data: RowData) -> dict[str, DataPlace]:
    """Write what each hospital holds, all of it or nothing.

    Raises:
        OperatorError: If the disk refuses.
    """
    with whole_folder(target, mode=0o755) as partial:
        made = {f"hospital-{k}": write_rows(partial / f"hospital-{k}", rows, data) for k, rows in enumerate(parts, 1)}
        write_sites(partial / SITES, made)
    return {
        name: DataPlace(target / name / place.path.name, target / name / (place.mapping or place.path).name)
        for name, place in made.items()
    }
