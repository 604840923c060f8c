"""The rows of `fedward bench codec` on the codecs, and their table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the result; seconds are the fastest of the repeats, per million parameters."""

    name: str
    up_bytes_per_parameter: float
    down_bytes_per_parameter: float
    client_seconds_per_million: float
    server_seconds_per_million: float
    decrypt_seconds_per_million: float
    relative_error: float
    peak_bytes: int


def codec_table(rows: Sequence[Row], parameters: int, hospitals: int) -> Table:
    """The rows, and in brackets bytes over float32's and seconds and memory over tenseal-8192's."""
    by_name = {row.name: row for row in rows}
    plain, tenseal = by_name["float32"], by_name["tenseal-8192"]
    table = Table(
        title=f"{parameters:,} parameters, {hospitals} hospitals",
        caption="in brackets: bytes over float32, seconds and memory over tenseal-8192",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for heading in (
        "",
        "up\nB",
        "down\nB",
        "client\ns/M",
        "server\ns/M",
        "decrypt\ns/M",
        "rel.\nerror",
        "peak\nMB",
    ):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for row in rows:
        table.add_row(
            row.name,
            _with_ratio(row.up_bytes_per_parameter, plain.up_bytes_per_parameter),
            _with_ratio(row.down_bytes_per_parameter, plain.down_bytes_per_parameter),
            _with_ratio(row.client_seconds_per_million, tenseal.client_seconds_per_million),
            _with_ratio(row.server_seconds_per_million, tenseal.server_seconds_per_million),
            _with_ratio(row.decrypt_seconds_per_million, tenseal.decrypt_seconds_per_million),
            f"{row.relative_error:.1e}",
            _with_ratio(row.peak_bytes / 1e6, tenseal.peak_bytes / 1e6),
        )
    return table


def _with_ratio(value: float, reference: float) -> str:
    ratio = value / reference
    return f"{value:.3g}\n({ratio:.0f}x)" if ratio >= 10 else f"{value:.3g}\n({ratio:.2f}x)"
