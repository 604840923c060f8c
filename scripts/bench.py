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
from rich.console import Console

from common.errors import DeploymentError
from common.plan_bounds import FEWEST_HOSPITALS
from common.printable import printable
from scripts.bench_codec_table import Row, codec_table
from scripts.bench_codecs import ROW_NAMES, Codec, declared_sizes, gaussian_updates, make_codec
from scripts.bench_masked_rows import GOALS, masked_rows, masked_tables
from scripts.chaos_command import chaos
from scripts.dp_command import dp
from scripts.features_command import features
from scripts.report_file import require_writable, write_json

Result = TypeVar("Result")

bench_app = typer.Typer(help="Measure fedward on this machine.", no_args_is_help=True)
bench_app.command()(chaos)
bench_app.command()(dp)
bench_app.command()(features)

PEAK_METHOD = (
    "VmHWM of a fresh process per row that runs one round and adds each upload as it arrives, "
    "minus its VmHWM after imports and inputs"
)

MASKED_PEAK_METHOD = "peak of tracemalloc, which sees numpy, in a round of its own"
GROWTH = "5,10,20,50"
# Enough that bytes and seconds per parameter are those of a large model, and little enough for fifty hospitals.
GROWTH_PARAMETERS = 100_000
MOST_HOSPITALS = 60


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


@bench_app.command()
def codec(
    parameters: Annotated[int, typer.Option(min=1, help="Trainable parameters of the model.")] = 1_000_000,
    hospitals: Annotated[int, typer.Option(min=1, max=MOST_HOSPITALS, help="Hospitals whose uploads are added.")] = 5,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds per codec, interleaved; the fastest counts.")] = 3,
    growth: Annotated[
        str, typer.Option(help="Also mask rounds of so many hospitals and at most 100,000 parameters, or 'none'.")
    ] = GROWTH,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the rows to this file.")] = None,
) -> None:
    """Compare fedward's CKKS presets with NVFlare's CKKS default and plain float32; then mask, unmask and verify.

    Server seconds are for the sum of all hospitals' uploads, with reading and validating them. The hospitals' updates
    are independent and Gaussian, each as long as the plan's norm bound allows; the error is that of their mean. Masked
    rounds run with all hospitals, and with as many gone after the opening as may be; their seconds are CPU seconds.
    """
    require_writable(json_path)
    counts = _growth_counts(growth)
    rows = bench_codecs(parameters, hospitals, repeats=repeats)
    masked = masked_rows(hospitals, parameters, repeats=repeats)
    for count in counts:
        masked += masked_rows(count, min(parameters, GROWTH_PARAMETERS), repeats=1)
    console = Console()
    for table in (codec_table(rows, parameters, hospitals), *masked_tables(masked)):
        console.print(table)
    result: dict[str, object] = {
        "parameters": parameters,
        "hospitals": hospitals,
        "repeats": repeats,
        "peak_method": PEAK_METHOD,
        "rows": [asdict(row) for row in rows],
        "masked_peak_method": MASKED_PEAK_METHOD,
        "goals": GOALS,
        "masked": [asdict(row) for row in masked],
    }
    write_json(json_path, result)


def _growth_counts(text: str) -> list[int]:
    """The counts of `--growth`, each from 3 to 60."""
    if text == "none":
        return []
    counts = [int(one) if one.strip().isdecimal() else 0 for one in text.split(",")]
    if not all(FEWEST_HOSPITALS <= one <= MOST_HOSPITALS for one in counts):
        raise typer.BadParameter(
            f"seen '{printable(text)}'; counts from {FEWEST_HOSPITALS} to {MOST_HOSPITALS} with commas between them, "
            "or 'none'",
            param_hint="--growth",
        )
    return counts


def bench_codecs(parameters: int, hospitals: int, *, repeats: int) -> list[Row]:
    """Measure every codec, peaks first, then `repeats` interleaved rounds."""
    peaks = {name: _peak_in_fresh_process(name, parameters, hospitals) for name in ROW_NAMES}
    sizes = declared_sizes(hospitals)
    updates = gaussian_updates(parameters, hospitals)
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
    sizes = declared_sizes(hospitals)
    updates = gaussian_updates(parameters, hospitals)
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
