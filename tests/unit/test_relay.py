"""The relay passes bytes and codes, and never a text."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client.relay import SITE_SOCKET, relay
from common.records import REPLY, REQUEST, frame_to_record, record_to_frame
from tests.support.flower_federation import environment, wait_until

ECHO = "lambda frame: frame[::-1]"
SERVICE = """
import os, sys
from pathlib import Path
from client.service import serve
from common.errors import BudgetExceeded

def refuse(frame):
    raise BudgetExceeded('patient 17 has spent 3.1')

def fail(frame):
    raise RuntimeError('patient 17 is in /data/records')

def die_once(frame):
    marker = Path(sys.argv[1] + '.died')
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), 9)
    return frame

print('up', flush=True)
serve({answer}, Path(sys.argv[1]))
"""
CONTEXT = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
Start = Callable[[str], None]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts a site service with a given way to answer."""
    socket = tmp_path / "site.sock"
    monkeypatch.setenv(SITE_SOCKET, str(socket))
    # Flower sets these in each ClientApp's process; a message cannot be made without.
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    started: list[subprocess.Popen[bytes]] = []

    def run(answer: str) -> None:
        argv = [sys.executable, "-c", SERVICE.replace("{answer}", answer), str(socket)]
        started.append(subprocess.Popen(argv, env=environment()))  # noqa: S603

    yield run
    for process in started:
        process.kill()
        process.wait()


def message(ttl: float = 20.0, content: RecordDict | None = None) -> Message:
    """A request as the coordinator sends it."""
    return Message(content or frame_to_record(b"abc", REQUEST), dst_node_id=1, message_type="train", ttl=ttl)


def test_bytes_go_to_the_site_and_back(start: Start) -> None:
    """Without a look into them."""
    start(ECHO)
    assert record_to_frame(relay(message(), CONTEXT).content, REPLY) == b"cba"


@pytest.mark.parametrize(("answer", "code"), [("refuse", "BudgetExceeded"), ("fail", "LocalProtocolError")])
def test_a_refusal_arrives_as_a_code_without_its_text(start: Start, answer: str, code: str) -> None:
    """Texts may name patients and paths."""
    start(answer)
    error = relay(message(), CONTEXT).error
    assert (error.code, error.reason) == (102, f"site:{code}")


def test_a_site_that_dies_at_work_is_asked_again(tmp_path: Path, start: Start) -> None:
    """Its supervisor starts it again meanwhile."""
    start("die_once")
    replies: list[bytes] = []

    worker = threading.Thread(target=lambda: replies.append(record_to_frame(relay(message(), CONTEXT).content, REPLY)))
    worker.start()
    wait_until((tmp_path / "site.sock.died").exists, "death", timeout_s=20.0)
    start("die_once")
    worker.join(timeout=20.0)
    assert replies == [b"abc"]


def test_a_site_that_stays_away_is_given_up_in_time(start: Start, tmp_path: Path) -> None:
    """The coordinator's time to live bounds the wait."""
    del start
    assert not (tmp_path / "site.sock").exists()
    error = relay(message(ttl=0.5), CONTEXT).error
    assert (error.code, error.reason) == (102, "site:DeadlineExceeded")


def test_a_malformed_message_is_refused_by_the_relay(start: Start) -> None:
    """Nothing but one frame reaches the site."""
    start(ECHO)
    error = relay(message(content=frame_to_record(b"abc", REPLY)), CONTEXT).error
    assert error.reason == "site:MalformedMessage"
