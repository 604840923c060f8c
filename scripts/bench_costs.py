"""What a masked round of the bench costs: CPU seconds, bytes, and the memory of each step."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import fmean
from typing import TypeVar

Result = TypeVar("Result")


@dataclass(slots=True)
class RoundCosts:
    """What one round took.

    Args:
        hospital_s: Per step, CPU seconds of each hospital that did it.
        server_s: Per step, CPU seconds for all hospitals together.
        message_bytes: Per kind, for one hospital.
        peak_bytes: Per step, the most that it held beside what was there before; empty unless memory is traced.
        relative_error: Of the mean of the updates that arrived: L2 distance from float64's, over the latter's norm.
    """

    hospital_s: dict[str, list[float]] = field(default_factory=dict)
    server_s: dict[str, float] = field(default_factory=dict)
    message_bytes: dict[str, int] = field(default_factory=dict)
    peak_bytes: dict[str, int] = field(default_factory=dict)
    relative_error: float = 0.0

    def hospital(self, *steps: str) -> float:
        """Mean CPU seconds of one hospital, these steps together."""
        return sum(fmean(self.hospital_s[step]) for step in steps)

    def work(self, step: str, do: Callable[[], Result]) -> Result:
        """Do one hospital's part of a step."""
        result, seconds = self._timed(step, do)
        self.hospital_s.setdefault(step, []).append(seconds)
        return result

    def serve(self, step: str, do: Callable[[], Result]) -> Result:
        """Do a part of a step of the coordinator."""
        result, seconds = self._timed(step, do)
        self.server_s[step] = self.server_s.get(step, 0.0) + seconds
        return result

    def _timed(self, step: str, do: Callable[[], Result]) -> tuple[Result, float]:
        """CPU seconds of this process, whatever else the machine does; a step within another resets its peak."""
        if not tracemalloc.is_tracing():
            start = time.process_time()
            result = do()
            return result, time.process_time() - start
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        result = do()
        _, highest = tracemalloc.get_traced_memory()
        self.peak_bytes[step] = max(highest - before, self.peak_bytes.get(step, 0))
        return result, 0.0
