"""The site service's socket: opaque bytes in and out, and of an error nothing but its name."""

from __future__ import annotations

import re
import signal
import socket as sockets
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from client.service import EXCHANGE
from common.frame_bounds import MAX_FRAME_BYTES
from tests.support.small_federation import NAMES, SmallFederation, provision_small, template

ROOT = Path(__file__).parents[2]

# A service whose answers are known; `serve` needs a main thread for its signals.
SERVER = """
import logging, pathlib, sys
sys.path.insert(0, sys.argv[2])
from client.service import serve
from common.errors import BudgetExceeded, TranscriptError
logging.basicConfig(level="INFO", stream=sys.stderr, format="%(message)s")

def answer(frame):
    if frame == b"refuse":
        raise TranscriptError("hospital-3 sent /data/patients/17.jpg")
    if frame == b"budget":
        raise BudgetExceeded("epsilon 2.9 spent")
    if frame == b"break":
        raise ValueError("patient Smith at /data/patients/17.jpg")
    if frame == b"memory":
        raise MemoryError
    return frame[::-1]

serve(answer, pathlib.Path(sys.argv[1]))
"""


@contextmanager
def running(command: list[str], socket: Path) -> Iterator[tuple[grpc.UnaryUnaryMultiCallable, list[str]]]:
    """A service process from its ready line to SIGTERM; yields the call, and its log once it has ended."""
    log: list[str] = []
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603 -- our own code
        assert process.stderr is not None
        try:
            for line in process.stderr:
                log.append(line)
                if "site ready on" in line:
                    break
            assert process.poll() is None, "".join(log)
            with grpc.insecure_channel(f"unix:{socket}") as channel:
                yield channel.unary_unary(EXCHANGE), log
        finally:
            process.send_signal(signal.SIGTERM)
            log += process.stderr.readlines()
            assert process.wait(timeout=30) == 0


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    """Where the service listens."""
    return tmp_path / "run" / "site.sock"


def serving(socket: Path) -> list[str]:
    """The command of the known service."""
    return [sys.executable, "-c", SERVER, str(socket), str(ROOT)]


def refusal(call: grpc.UnaryUnaryMultiCallable, frame: bytes) -> tuple[grpc.StatusCode, str]:
    """What a caller is told."""
    with pytest.raises(grpc.RpcError) as caught:
        call(frame, timeout=20)
    return caught.value.code(), caught.value.details()


def test_of_an_error_its_name_leaves_and_nothing_else(socket: Path) -> None:
    """The site's own log has the text: the control that there was something to leak."""
    with running(serving(socket), socket) as (call, log):
        assert call(b"abc", timeout=20) == b"cba"
        refused = grpc.StatusCode.FAILED_PRECONDITION
        assert refusal(call, b"refuse") == (refused, "TranscriptError")
        assert refusal(call, b"budget") == (refused, "BudgetExceeded")
        assert refusal(call, b"break") == (refused, "LocalProtocolError")
        assert refusal(call, b"memory") == (refused, "LocalProtocolError")
        # It goes on after each of them.
        assert call(b"abc", timeout=20) == b"cba"
    text = "".join(log)
    assert "refused: hospital-3 sent /data/patients/17.jpg" in text
    assert "ValueError: patient Smith at /data/patients/17.jpg" in text


def test_the_socket_is_for_owner_and_group(socket: Path) -> None:
    """Nobody else on the machine reaches the service; one left by a killed service is replaced."""
    for _ in range(2):
        with running(serving(socket), socket) as (call, _log):
            assert stat.S_ISSOCK(socket.stat().st_mode)
            assert stat.S_IMODE(socket.stat().st_mode) == 0o660
            assert call(b"ab", timeout=20) == b"ba"
        socket.parent.mkdir(exist_ok=True)
        if not socket.exists():
            leave_socket(socket)


def test_no_longer_frame_is_taken_than_there_is(socket: Path) -> None:
    """Whoever holds the gateway fills no memory of the site."""
    with running(serving(socket), socket) as (call, _log):
        assert refusal(call, bytes(MAX_FRAME_BYTES + 1))[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
        # It goes on after that.
        assert call(b"abc", timeout=20) == b"cba"


def leave_socket(path: Path) -> None:
    """What SIGKILL leaves: a socket that nobody listens on."""
    with sockets.socket(sockets.AF_UNIX) as left:
        left.bind(str(path))


def test_there_is_one_method(socket: Path) -> None:
    """And no reflection."""
    with running(serving(socket), socket), grpc.insecure_channel(f"unix:{socket}") as channel:
        for method in ("/fedward.Site/Other", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"):
            assert refusal(channel.unary_unary(method), b"")[0] == grpc.StatusCode.UNIMPLEMENTED


def test_a_path_that_is_taken_by_a_file_is_refused(socket: Path) -> None:
    """Somebody's file is never removed."""
    socket.parent.mkdir()
    socket.write_text("mine")
    done = subprocess.run(serving(socket), cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603 -- our own code
    assert done.returncode == 1
    assert "SiteStorageError" in done.stderr
    assert "the site's socket cannot be made" in done.stderr
    assert socket.read_text() == "mine"


def test_a_whole_site_answers_over_its_socket(tmp_path: Path) -> None:
    """`fedward-client service` on real files: one honest round, and refusals by name only."""
    provision_small(tmp_path, template())
    with SmallFederation.copy_of(tmp_path, tmp_path / "copy", sites=[]) as federation:
        federation.opened(1)
        site = federation.folder / "federation" / NAMES[0]
        command = [sys.executable, "-m", "client", "service", "--config", str(site / f"{NAMES[0]}.yaml")]
        ready = re.compile(r"site ready on (.*)")
        with running(command, site / "site.sock") as (call, log):
            assert ready.search(log[-1])
            federation.freshen(NAMES[0], lambda frame: call(frame, timeout=60))
            reply = call(federation.frame("train", 1, NAMES[0]), timeout=60)
            assert federation.reply(reply).manifest.role == "contribute"
            assert call(federation.frame("train", 1, NAMES[0]), timeout=60) == reply
            told = grpc.StatusCode.FAILED_PRECONDITION
            assert refusal(call, federation.frame("train", 2, NAMES[0])) == (told, "WrongRound")
            assert refusal(call, federation.frame("train", 1, NAMES[0], plan="f" * 64)) == (told, "WrongPlan")
            assert refusal(call, b"hello") == (told, "MalformedMessage")
            # The ledger is held: a second service on the same files would spend beside it.
            second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)  # noqa: S603 -- our own code
            assert second.returncode == 2
            assert "is held by another process" in second.stderr
            assert call(federation.frame("train", 1, NAMES[0]), timeout=60) == reply
