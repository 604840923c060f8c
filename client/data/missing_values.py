"""How often each feature is missing at a site, in words: an empty column looks like a mapping of the wrong one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from client.data.reading import RawRow
from client.data.shown_names import name_some
from common.plan_data import GenotypeData, RowData
from common.plural import counted

_MOST_LINES = 30


def count_missing(rows: Sequence[RawRow], data: RowData) -> dict[str, int]:
    """In how many rows each feature of the plan is missing, most often missing first; none that never is."""
    names = tuple(data.names)
    missing = Counter(name for raw in rows for name in names if raw.values.get(name) is None)
    return dict(sorted(missing.items(), key=lambda each: (-each[1], each[0])))


def about_empty_columns(rows: Sequence[RawRow], missing: Mapping[str, int]) -> Iterable[str]:
    """A sentence on features that no row tells, but for those of which the mapping says that this site lacks them.

    Args:
        rows: All rows of the source.
        missing: From `count_missing`.
    """
    told = {name for raw in rows for name in raw.values}
    empty = [name for name, count in missing.items() if count == len(rows) > 1 and name in told]
    if empty:
        yield (
            f"{counted(len(empty), 'feature is', 'features are')} missing in all {len(rows)} rows: {name_some(empty)}; "
            "see whether the mapping names the right columns and codes"
        )


def missing_in_words(missing: Mapping[str, int], data: RowData) -> Iterable[str]:
    """A few words for each feature, and for the rest together where they are so many that nobody would read them."""
    used = () if isinstance(data, GenotypeData) else data.features
    needed = {feature.name for feature in used if feature.missing == "leave-out"}
    for name, count in list(missing.items())[:_MOST_LINES]:
        yield f"{counted(count, 'value')} of {name}" + (": the plan leaves such rows out" if name in needed else "")
    rest = list(missing.values())[_MOST_LINES:]
    if rest:
        yield f"{counted(sum(rest), 'value')} of {counted(len(rest), 'other feature')}"
