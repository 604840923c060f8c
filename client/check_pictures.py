"""Pictures of a site's data for its own eyes: contact sheets of images, histograms of rows."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from client.data import ImageTable
from client.data.rows import RawRow, RowTable, Value
from common.errors import ConfigError
from common.plan_data import GenotypeData, RowData
from common.plan_features import CategoryFeature, Feature, NumberFeature

_SIDE = 96
_PER_ROW, _MOST_ROWS = 10, 3
_COLUMNS, _BINS = 4, 30
# Of a category below its bar.
_LETTERS = 14
# A figure of thousands of variants would be a wall of ink.
_MOST_HISTOGRAMS = 60


def contact_sheets(table: ImageTable) -> Iterator[tuple[str, bytes]]:
    """The first images of each class, as the model sees them: cropped and scaled.

    Yields:
        Class name and PNG; classes without images are left out.
    """
    for index, name in enumerate(table.classes):
        files = [table.file(record) for record in table.records if record.label_index == index]
        shown = files[: _PER_ROW * _MOST_ROWS]
        if not shown:
            continue
        rows = -(-len(shown) // _PER_ROW)
        sheet = np.full((rows * _SIDE, min(len(shown), _PER_ROW) * _SIDE, 3), 255, np.uint8)
        for number, file in enumerate(shown):
            top, left = number // _PER_ROW * _SIDE, number % _PER_ROW * _SIDE
            sheet[top : top + _SIDE, left : left + _SIDE] = table.decode(file, _SIDE)
        yield name, _png(Image.fromarray(sheet))


def histograms(table: RowTable, rows: Sequence[RawRow], data: RowData) -> bytes:
    """One small plot for each feature, of the values in the plan's unit and range.

    Args:
        table: What is trained on; says which rows count.
        rows: All rows as the connector found them.
        data: The plan's declaration.

    Raises:
        ConfigError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError("histograms need matplotlib; install fedward[data]") from error
    used = {record.place for record in table.records}
    kept = [row for row in rows if row.place in used]
    panels = _panels(data, kept)[:_MOST_HISTOGRAMS]
    height = -(-len(panels) // _COLUMNS)
    figure = Figure(figsize=(3.2 * _COLUMNS, 2.4 * height), layout="constrained")
    for place, (title, labels, counts) in enumerate(panels, start=1):
        axes = figure.add_subplot(height, _COLUMNS, place)
        axes.bar(range(len(counts)), counts, width=0.95, color="#35618f")
        axes.set_title(title, fontsize=8)
        ticks = range(len(labels)) if len(labels) == len(counts) else np.linspace(-0.5, len(counts) - 0.5, len(labels))
        axes.set_xticks(list(ticks), labels, fontsize=6, rotation=15 if len(labels) == len(counts) else 0)
        axes.tick_params(axis="y", labelsize=6)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    return out.getvalue()


def _panels(data: RowData, rows: Sequence[RawRow]) -> list[tuple[str, list[str], list[int]]]:
    """Title, tick labels and counts of each plot."""
    if isinstance(data, GenotypeData):
        return [_alleles(variant.id, [row.values.get(variant.id) for row in rows]) for variant in data.variants]
    return [_panel(feature, [row.values.get(feature.name) for row in rows]) for feature in data.features]


def _alleles(name: str, values: Sequence[Value]) -> tuple[str, list[str], list[int]]:
    counts = [sum(value == copies for value in values) for copies in (0, 1, 2)]
    return name, ["0", "1", "2", "missing"], [*counts, sum(value is None for value in values)]


def _panel(feature: Feature, values: Sequence[Value]) -> tuple[str, list[str], list[int]]:
    missing = sum(value is None for value in values)
    if isinstance(feature, CategoryFeature):
        words = [word if len(word) <= _LETTERS else f"{word[: _LETTERS - 1]}…" for word in feature.values]
        counts = [sum(value == word for value in values) for word in feature.values]
        return feature.name, [*words, "missing"], [*counts, missing]
    return f"{feature.name} ({feature.unit}), {missing} missing", *_bins(feature, values)


def _bins(feature: NumberFeature, values: Sequence[Value]) -> tuple[list[str], list[int]]:
    numbers = np.clip([value for value in values if isinstance(value, float | int)], feature.low, feature.high)
    counts, _ = np.histogram(numbers, bins=_BINS, range=(feature.low, feature.high))
    middle = (feature.low + feature.high) / 2
    return [f"{edge:g}" for edge in (feature.low, middle, feature.high)], counts.tolist()


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, format="PNG")
    return out.getvalue()
