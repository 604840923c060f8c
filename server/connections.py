"""Which hospitals are connected, and waiting until enough of them can be asked."""

from __future__ import annotations

import time

from common.errors import DeploymentError
from common.plan import Plan
from server.catch_up import CatchUp
from server.one_by_one import OneByOneGrid
from server.progress import ProgressFile
from server.steps import Step

CONNECTION_POLL_S = 0.25


class Connections:
    """The hospitals of a plan that are connected.

    Args:
        plan: The plan.
        grid: Knows the nodes.
        catch_up: Brings those that are behind up to date meanwhile.
        progress: What the operator sees.
    """

    def __init__(self, plan: Plan, grid: OneByOneGrid, *, catch_up: CatchUp, progress: ProgressFile) -> None:
        self._plan, self._grid, self._catch_up, self._progress = plan, grid, catch_up, progress
        self._names = tuple(hospital.name for hospital in plan.roster)

    def now(self) -> dict[str, int]:
        """Node id per hospital that is connected."""
        return {name: node for name, node in self._grid.nodes().items() if name in self._names}

    def ready(self, step: Step) -> dict[str, int]:
        """The same without those that miss more rounds than one request carries."""
        nodes = self.now()
        behind = self._catch_up.tend(nodes, last=step.round - 1)
        return {name: node for name, node in nodes.items() if name not in behind}

    def wait_for(self, step: Step, wanted: int, *, timeout_s: float) -> dict[str, int]:
        """Node ids of the connected hospitals, once `wanted` can be asked, or at the end of the time the minimum can.

        The time is counted anew whenever a hospital catches up on a part.

        Raises:
            DeploymentError: If fewer than the plan needs can be asked by then.
        """
        started, seen = time.monotonic(), None
        self._catch_up.open_step()
        while True:
            connected = self.now()
            behind = self._catch_up.tend(connected, last=step.round - 1)
            ready = len(connected) - len(behind)
            if ready >= wanted:
                return connected
            if time.monotonic() >= max(started, self._catch_up.moved) + timeout_s:
                break
            if tuple(connected) != seen:
                seen = tuple(connected)
                self._progress.waiting(seen)
            time.sleep(CONNECTION_POLL_S)
        if ready < self._plan.needed:
            late = f"; {', '.join(sorted(behind))} did not catch up on the rounds missed" if behind else ""
            raise DeploymentError(
                f"{ready} of {len(self._names)} hospitals are connected after {timeout_s:g} s "
                f"({', '.join(n for n in connected if n not in behind) or 'none'}), "
                f"{self._plan.needed} are needed{late}; start the others"
            )
        return connected

    def wait_until_caught_up(self, step: Step) -> dict[str, int]:
        """Node ids of the connected hospitals, once no part is under way to any of them."""
        while True:
            connected = self.now()
            behind = self._catch_up.tend(connected, last=step.round - 1)
            if not any(self._catch_up.is_busy(hospital) for hospital in behind):
                return connected
            time.sleep(CONNECTION_POLL_S)
