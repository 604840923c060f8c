"""`fedward bench`, and its part `codec`: bytes, seconds, error and memory of the encryption, all in one run."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
import typer
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from common.errors import DeploymentError
from scripts.bench_codecs import ROW_NAMES, UPDATE_NORM_BOUND, Codec, make_codec
from scripts.chaos_command import chaos
from scripts.report_file import require_writable, write_json

Result = TypeVar("Result")

bench_app = typer.Typer(help="Measure fedward on this machine.", no_args_is_help=True)
bench_app.command()(chaos)

PEAK_METHOD = (
    "VmHWM of a fresh process per row that runs one round and adds each upload as it arrives, "
    "minus its VmHWM after imports and inputs"
)


@bench_app.callback()
def bench() -> None:
    """Measure fedward on this machine."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One round of one codec.

    Args:
        up_bytes: Upload of one hospital.
        down_bytes: The sum as one hospital gets it.
        client_s: Weighting, encrypting and serialising, seconds for one hospital.
        server_s: Reading, validating and adding the uploads of all hospitals and serialising the sum, seconds.
        decrypt_s: Reading and decrypting the sum, seconds for one hospital.
        relative_error: L2 distance of the mean from the float64 mean, over the L2 norm of the latter.
    """

    up_bytes: int
    down_bytes: int
    client_s: float
    server_s: float
    decrypt_s: float
    relative_error: float


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


@bench_app.command()
def codec(
    parameters: Annotated[int, typer.Option(min=1, help="Trainable parameters of the model.")] = 1_000_000,
    hospitals: Annotated[int, typer.Option(min=1, max=60, help="Hospitals whose uploads are added.")] = 5,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds per codec, interleaved; the fastest counts.")] = 3,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the rows to this file.")] = None,
) -> None:
    """Compare fedward's CKKS presets with NVFlare's CKKS default and with plain float32.

    Server seconds are for the sum of all hospitals' uploads, with reading and validating them. The hospitals' updates
    are independent and Gaussian, each as long as the plan's norm bound allows; the error is that of their mean.
    """
    if json_path is not None:
        require_writable(json_path)
    rows = bench_codecs(parameters, hospitals, repeats=repeats)
    Console().print(_table(rows, parameters, hospitals))
    if json_path is not None:
        result: dict[str, object] = {
            "parameters": parameters,
            "hospitals": hospitals,
            "repeats": repeats,
            "peak_method": PEAK_METHOD,
            "rows": [asdict(row) for row in rows],
        }
        write_json(json_path, result)


def bench_codecs(parameters: int, hospitals: int, *, repeats: int) -> list[Row]:
    """Measure every codec, peaks first, then `repeats` interleaved rounds."""
    peaks = {name: _peak_in_fresh_process(name, parameters, hospitals) for name in ROW_NAMES}
    sizes = _declared_sizes(hospitals)
    updates = _updates(parameters, hospitals)
    codecs = {name: make_codec(name, parameters, sizes) for name in ROW_NAMES}
    rounds: dict[str, list[Measurement]] = {name: [] for name in ROW_NAMES}
    for _ in range(repeats):
        for name, one in codecs.items():
            rounds[name].append(measure_round(one, updates, sizes))
    return [_row(name, rounds[name], peak_bytes=peaks[name], parameters=parameters) for name in ROW_NAMES]


def measure_round(one: Codec, updates: NDArray[np.float64], sizes: Sequence[int]) -> Measurement:
    """Run one round of hospitals with `updates` of shape (hospitals, d), timed, and compare its mean with float64's."""
    seconds, up_bytes, (download, mean) = _run_round(one, updates, sizes)
    reference = np.average(updates, axis=0, weights=sizes)
    return Measurement(
        up_bytes=up_bytes,
        down_bytes=len(download),
        client_s=seconds["client"] / len(sizes),
        server_s=seconds["server"],
        decrypt_s=seconds["decrypt"],
        relative_error=float(np.linalg.norm(mean - reference) / np.linalg.norm(reference)),
    )


def _run_round(
    one: Codec, updates: NDArray[np.float64], sizes: Sequence[int]
) -> tuple[dict[str, float], int, tuple[bytes, NDArray[np.float64]]]:
    """One round in the order of a real one: each upload is added when it arrives and then dropped.

    Returns:
        Seconds per party, bytes of one upload, and the download with the mean that a hospital reads from it.
    """
    seconds = {"client": 0.0, "server": 0.0, "decrypt": 0.0}
    up_bytes = 0
    for update, size in zip(updates, sizes, strict=True):
        upload = _timed(partial(one.encrypt, update, size), seconds, "client")
        up_bytes = max(up_bytes, len(upload))
        _timed(partial(one.add, upload), seconds, "server")
        del upload
    download = _timed(one.download, seconds, "server")
    mean = _timed(partial(one.decrypt, download), seconds, "decrypt")
    return seconds, up_bytes, (download, mean)


def _timed(step: Callable[[], Result], seconds: dict[str, float], party: str) -> Result:
    start = time.perf_counter()
    result = step()
    seconds[party] += time.perf_counter() - start
    return result


def _declared_sizes(hospitals: int) -> list[int]:
    """Unequal sizes, so that weights matter."""
    return [100 + 10 * index for index in range(hospitals)]


def _updates(parameters: int, hospitals: int) -> NDArray[np.float64]:
    """Independent Gaussian updates at the norm bound, shape (hospitals, parameters)."""
    updates = np.random.default_rng(0).standard_normal((hospitals, parameters))
    for index in range(hospitals):
        updates[index] *= UPDATE_NORM_BOUND / np.linalg.norm(updates[index])
    return updates


def _peak_in_fresh_process(name: str, parameters: int, hospitals: int) -> int:
    """Peak memory of one round of the row `name`, bytes."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_peak_bytes, name, parameters, hospitals).result()
        except BrokenProcessPool as error:
            raise DeploymentError(
                f"the process of row {name} died at {parameters} parameters, probably for lack of memory; take fewer"
            ) from error


def _peak_bytes(name: str, parameters: int, hospitals: int) -> int:
    sizes = _declared_sizes(hospitals)
    updates = _updates(parameters, hospitals)
    before = _high_water_bytes()
    _run_round(make_codec(name, parameters, sizes), updates, sizes)
    return _high_water_bytes() - before


def _high_water_bytes() -> int:
    """VmHWM of this process; not ru_maxrss, which a child inherits from its parent."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise DeploymentError("/proc/self/status has no VmHWM; the bench needs Linux")


def _row(name: str, rounds: Sequence[Measurement], *, peak_bytes: int, parameters: int) -> Row:
    millions = parameters / 1e6
    return Row(
        name=name,
        up_bytes_per_parameter=rounds[0].up_bytes / parameters,
        down_bytes_per_parameter=rounds[0].down_bytes / parameters,
        client_seconds_per_million=min(one.client_s for one in rounds) / millions,
        server_seconds_per_million=min(one.server_s for one in rounds) / millions,
        decrypt_seconds_per_million=min(one.decrypt_s for one in rounds) / millions,
        relative_error=max(one.relative_error for one in rounds),
        peak_bytes=peak_bytes,
    )


def _table(rows: Sequence[Row], parameters: int, hospitals: int) -> Table:
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
