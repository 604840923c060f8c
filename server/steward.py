"""Keeps wanted runs going: hands each to Flower, again after a crash, until it is finished, stopped or given up."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import Callable

from common.errors import DeploymentError, StoreError
from common.server_config import ServerConfig
from server.run_folder import read_connect_timeout, restore_run_folder
from server.store import RunState, Store
from server.watch import Ended, cancel, follow, submit

IDLE_POLL_S = 0.25
BACKOFF_S = (1.0, 2.0, 5.0, 10.0, 20.0)
LEAST_FREE_BYTES = 1 << 20


class Steward:
    """Carries the runs that the store calls running, one after the other, oldest first.

    It lives in `fedward-server start`, so a run goes on by itself when the coordinator, its SuperLink, its ServerApp or
    its machine has been restarted: at the first round without a stored aggregate.

    Args:
        config: The server file.
        store: Where runs and rounds are.
        say: Tells the operator.
    """

    def __init__(self, config: ServerConfig, store: Store, say: Callable[[str], None]) -> None:
        self._config, self._store, self._say = config, store, say

    async def serve(self) -> None:
        """Carry runs until cancelled; a store that refuses, on a full disk say, is tried again."""
        while True:
            try:
                waiting = [known.run for known in self._store.runs() if known.state == "running"]
                if waiting:
                    await self._carry(waiting[0])
            except StoreError as error:
                self._say(f"{error}; looking again in {BACKOFF_S[-1]:g} s")
                await asyncio.sleep(BACKOFF_S[-1])
            await asyncio.sleep(IDLE_POLL_S)

    async def _carry(self, run: str) -> None:
        failures, complete, moved = 0, self._store.last_complete_round(run), time.monotonic()
        while self._state(run) == "running":
            ended = await self._attempt(run)
            # A run that was stopped and taken up again while Flower was told is looked at anew, and not stopped twice.
            if ended is None or ended.by_operator or self._state(run) != "running":
                return
            reached = self._store.last_complete_round(run)
            if reached > complete:
                failures, complete, moved = 0, reached, time.monotonic()
            if not ended.again or time.monotonic() - moved >= self._config.patience_s:
                self._store.end(run, "stopped", reason=ended.reason)
                return
            pause_s = BACKOFF_S[min(failures, len(BACKOFF_S) - 1)]
            failures += 1
            self._say(f"run {run}: {ended.reason}; going on after round {reached} in {pause_s:g} s")
            await asyncio.sleep(pause_s)

    async def _attempt(self, run: str) -> Ended | None:
        """One Flower run; None once the run is finished."""
        flower_run = ""
        try:
            known = self._store.run(run)
            if known is not None:
                restore_run_folder(self._config, run, plan_json=known.plan_json)
            flower_run = await submit(self._config, run, connect_timeout_s=read_connect_timeout(self._config, run))
            ended = await follow(self._config, run, flower_run, state=lambda: self._state(run))
        except (DeploymentError, StoreError) as error:
            # A full disk is one of these: there may be room when it is tried again.
            ended = Ended(str(error), again=True)
        if ended is not None and flower_run:
            # A ServerApp that was killed still counts as running at the SuperLink; one that is not wanted does run.
            with contextlib.suppress(DeploymentError):
                await cancel(self._config, flower_run)
        return None if ended is None else self._with_cause(ended)

    def _with_cause(self, ended: Ended) -> Ended:
        """Flower's processes die of a full disk in many ways, and say it in none."""
        folder = self._config.folder
        if not ended.again or shutil.disk_usage(folder).free >= LEAST_FREE_BYTES:
            return ended
        return Ended(f"{folder}: the disk is full; free disk space ({ended.reason})", again=True)

    def _state(self, run: str) -> RunState:
        known = self._store.run(run)
        return known.state if known else "stopped"
