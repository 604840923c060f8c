"""The rows of `fedward bench dp`: what clipping and noise cost, beside no privacy and beside plain Opacus."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from rich import box
from rich.table import Table

from client.noise import discrete_gaussian
from scripts.bench_dp_models import groupnorm_lite0, linear_head, pictures, unit_rows
from scripts.bench_dp_steps import OPACUS, Step, no_noise, opacus_step, plain_step, private_step

# Where per-unit gradients of a whole network are held side by side, memory allows few.
FEW = 8

GOALS = {
    ("head", "dp-clip"): ("non-private", 1.0),
    ("head", "dp"): ("non-private", 0.3),
    ("head", "dp over Opacus' hooks"): ("opacus hooks", 5.0),
    ("lite0-groupnorm", "dp"): ("non-private", 0.4),
}
"""By model and row: the reference, and the least ratio of rates to it."""


@dataclass(frozen=True, slots=True)
class DpRow:
    """One way to train one model.

    Args:
        model: `head` or `lite0-groupnorm`.
        name: `non-private`, the same in `channels last` memory, `dp-clip` (clipped, no noise), `dp`, or one of Opacus'
            own ways.
        precision: Of parameters and gradients; a site trains in float64 only.
        units: In one step.
        steps_per_second: Of CPU time, the fastest of the repeats.
        units_per_second: The same times `units`.
    """

    model: str
    name: str
    precision: str
    units: int
    steps_per_second: float
    units_per_second: float


@dataclass(frozen=True, slots=True)
class _Way:
    model: str
    name: str
    precision: str
    units: int
    step: Step
    steps: int


def bench_dp(*, units: int, features: int, images: int, side: int, repeats: int) -> list[DpRow]:
    """Measure every row, interleaved, the fastest of `repeats` each; no images, no network.

    Seconds are of CPU time on one thread, so that what else runs on the machine counts little.
    """
    torch.set_num_threads(1)
    rows = _measure(_head_ways(units, features), repeats=repeats)
    if images:
        rows += _measure(_network_ways(images, side), repeats=repeats)
    return rows


def _measure(ways: list[_Way], *, repeats: int) -> list[DpRow]:
    fastest = dict.fromkeys(range(len(ways)), float("inf"))
    for way in ways:
        way.step()
    for _ in range(repeats):
        for index, way in enumerate(ways):
            start = time.process_time()
            for _ in range(way.steps):
                way.step()
            fastest[index] = min(fastest[index], (time.process_time() - start) / way.steps)
    return [
        DpRow(way.model, way.name, way.precision, way.units, 1 / fastest[index], way.units / fastest[index])
        for index, way in enumerate(ways)
    ]


def _head_ways(units: int, features: int) -> list[_Way]:
    x, y = unit_rows(units, features)
    ways = []
    for precision, dtype in (("float64", torch.float64), ("float32", torch.float32)):
        plain = plain_step(linear_head(features, dtype=dtype), x.to(dtype), y)
        ways.append(_Way("head", "non-private", precision, units, plain, 30))
    for name, noise in (("dp-clip", no_noise), ("dp", discrete_gaussian)):
        head = linear_head(features, dtype=torch.float64)
        ways.append(_Way("head", name, "float64", units, private_step(head, x, y, noise=noise), 30))
    for name, mode in OPACUS.items():
        theirs = opacus_step(linear_head(features, dtype=torch.float32), x, y, mode=mode)
        ways.append(_Way("head", name, "float32", units, theirs, 5))
    return ways


def _network_ways(images: int, side: int) -> list[_Way]:
    model, (x, y) = "lite0-groupnorm", pictures(images, side)
    last = torch.channels_last
    net, x_last = groupnorm_lite0(seed=1).to(memory_format=last), x.contiguous(memory_format=last)
    ways = [
        _Way(model, "non-private", "float32", images, plain_step(groupnorm_lite0(seed=1), x, y), 1),
        _Way(model, "channels last", "float32", images, plain_step(net, x_last, y), 1),
    ]
    for name, noise in (("dp-clip", no_noise), ("dp", discrete_gaussian)):
        step = private_step(groupnorm_lite0(seed=1), x, y, noise=noise)
        ways.append(_Way(model, name, "float32", images, step, 1))
    few = min(FEW, images)
    for name, mode in OPACUS.items():
        step = opacus_step(groupnorm_lite0(seed=1), x[:few], y[:few], mode=mode)
        ways.append(_Way(model, name, "float32", few, step, 1))
    return ways


def ratios(rows: list[DpRow]) -> list[dict[str, object]]:
    """Each goal's ratio of rates: to the fastest row of the reference's name in the same precision."""
    seen: list[dict[str, object]] = []
    for (model, label), (reference, goal) in GOALS.items():
        name = label.split(" over ")[0]
        ours = next((row for row in rows if (row.model, row.name) == (model, name)), None)
        if ours is None:
            continue
        names = (reference, "channels last") if reference == "non-private" else (reference,)
        others = [row for row in rows if row.model == model and row.name in names]
        for precision in sorted({row.precision for row in others}, reverse=True):
            fastest = max(row.units_per_second for row in others if row.precision == precision)
            seen.append(
                {
                    "model": model,
                    "row": name,
                    "reference": f"{reference}, {precision}",
                    "goal": goal,
                    "ratio": ours.units_per_second / fastest,
                }
            )
    return seen


def dp_tables(rows: list[DpRow]) -> list[Table]:
    """The rows, and the goals' ratios."""
    table = Table(
        title="rates per second of CPU time, one thread, all rows in one run",
        caption="a site trains in float64 only: rows in float32 are comparisons",
        box=box.SIMPLE_HEAD,
    )
    for heading in ("model", "row", "precision", "units", "steps/s", "units/s"):
        table.add_column(heading, justify="left" if heading in ("model", "row") else "right", no_wrap=True)
    for row in rows:
        rates = (f"{row.steps_per_second:,.2f}", f"{row.units_per_second:,.1f}")
        table.add_row(row.model, row.name, row.precision, str(row.units), *rates)
    goals = Table(title="ratios of units/s", box=box.SIMPLE_HEAD)
    for heading in ("model", "row", "over", "seen", "goal"):
        goals.add_column(heading, no_wrap=True)
    for one in ratios(rows):
        goals.add_row(
            str(one["model"]), str(one["row"]), str(one["reference"]), f"{one['ratio']:.2f}", f">= {one['goal']:g}"
        )
    return [table, goals]
