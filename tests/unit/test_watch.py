"""Following a run: who has ended it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

from common.server_config import ServerConfig
from server.store import RunState
from server.watch import STOPPED_BY_OPERATOR, Ended, follow

RUN = "6" * 32


def ended(folder: Path, *states: RunState) -> Ended | None:
    """What `follow` says where the store says these, one after the other, and the last for ever."""
    rest: Iterator[RunState] = iter(states)
    last: list[RunState] = []

    def state() -> RunState:
        last.append(next(rest, last[-1] if last else "running"))
        return last[-1]

    config = ServerConfig.model_construct(folder=folder)
    return asyncio.run(follow(config, RUN, "1", state=state))


def test_an_operators_stop_is_told_from_a_failure_also_when_the_run_is_wanted_again(tmp_path: Path) -> None:
    """The steward must not stop a run for good that was taken up again while it told Flower of the stop."""
    stopped = Ended(STOPPED_BY_OPERATOR, again=False, by_operator=True)
    assert ended(tmp_path, "running", "stopped") == stopped
    assert ended(tmp_path, "running", "stopped", "running") == stopped
    assert ended(tmp_path, "running", "finished") is None
