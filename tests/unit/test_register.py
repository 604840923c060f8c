"""Hospitals' keys are registered though the SuperLink is slow to answer; without an answer the end is one sentence."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from common.errors import DeploymentError
from common.server_config import ServerConfig, load_server
from server.processes import coordinator_children, register_nodes
from tests.support.flower_federation import Federation


@pytest.fixture
def config(tmp_path: Path) -> ServerConfig:
    """A coordinator's file; nobody listens on its ports."""
    federation = Federation(tmp_path, ("hospital-1",))
    federation.write()
    settings = load_server(federation.server_file)
    settings.folder.mkdir()
    coordinator_children(settings, federation.server_file)
    return settings


def test_a_superlink_that_does_not_answer_is_asked_again_until_the_limit(config: ServerConfig) -> None:
    """Each try is a command of Flower's that takes seconds; the pauses between two alone are a second."""
    started = time.monotonic()
    with pytest.raises(DeploymentError) as caught:
        asyncio.run(register_nodes(config, give_up_s=4.0))
    assert time.monotonic() - started > 2.0
    assert str(caught.value).startswith(
        "hospital-1: its key could not be registered, since the SuperLink gives no answer; "
    )


def test_a_key_that_is_missing_is_final(config: ServerConfig) -> None:
    """Asking again cannot help; the limit here is longer than any test may take."""
    config.nodes[0].public_key.unlink()
    with pytest.raises(DeploymentError, match="no such file; ask hospital-1"):
        asyncio.run(register_nodes(config, give_up_s=3600.0))
