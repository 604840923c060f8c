"""The demo says something of whatever the coordinator does."""

from __future__ import annotations

from typing import get_args

import pytest

from common.messages import Kind
from scripts.demo_display import where
from server.progress import Phase, Progress


@pytest.mark.parametrize("phase", [*get_args(Kind), "waiting", "done"])
def test_every_phase_has_words(phase: Phase) -> None:
    """An exchange that the display does not know would end it."""
    assert where(Progress("run", "plan", rounds=3, phase=phase, round=2, attempt=1)).endswith("attempt 2")


def test_a_round_is_one_thing_whichever_exchange_is_open() -> None:
    """Else each round would be three lines of the log."""
    exchanges: tuple[Phase, ...] = ("keys", "train", "unmask")
    said = {where(Progress("run", "plan", rounds=3, phase=phase, round=2)) for phase in exchanges}
    assert said == {"round 2 of 3"}
    assert where(Progress("run", "plan", rounds=3, phase="unmask", round=4)) == "closing evaluation of the final model"
