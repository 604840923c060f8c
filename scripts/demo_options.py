"""What the command line of `fedward demo` says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DEFAULT_HOSPITALS = 5


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """The options; None: as the plan, or the sites file, says."""

    data: Path | None
    mapping: Path | None
    sites: Path | None
    weights: Path | None
    plan: Path
    hospitals: int | None
    rounds: int | None
    epsilon: float | None
    seed: int
    work: Path | None
    results: Path
    keep: bool
