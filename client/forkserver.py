"""Keeps one process with Flower and the relay imported, and forks it per message.

A cold `flwr-clientapp` costs about 1.2 CPU seconds and 2 s of latency; a fork 0.06. SuperExec finds `flwr-clientapp`
through PATH, so a folder with a shim of that name in front of PATH is all that it takes. This relies on the command's
name and arguments in Flower 1.39, which a test pins; without the server the shim runs the stock command.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shlex
import signal
import socket
import sys
import threading
from pathlib import Path

from common.errors import DeploymentError
from common.launch import die_with_parent

COMMAND = "flwr-clientapp"
READY_LINE = "fork server ready"
MAX_ARGV_BYTES = 1 << 16
READ_TIMEOUT_S = 5.0
# What a cold ClientApp imports; each is imported by the parent, once.
PRELOADED = ("flwr.supernode.cli", "flwr.supernode.runtime.run_clientapp", "flwr.clientapp", "client.relay")


def write_shim(folder: Path, server: Path) -> Path:
    """Write `flwr-clientapp` into `folder`, which only a gateway's supervisor puts on PATH.

    Args:
        folder: Folder for the shim; made if missing.
        server: Unix socket of the fork server.

    Returns:
        The shim's path.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    shim = folder / COMMAND
    code = Path(__file__).with_name("shim.py")
    words = [sys.executable, "-IS", str(code), str(server), str(folder)]
    # A shell line, because a #! line breaks at blanks and at 255 bytes.
    shim.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n', encoding="utf-8")
    shim.chmod(0o700)
    return shim


def serve(path: Path) -> None:
    """Fork a ClientApp for each argument list that arrives on the socket; runs until it is killed.

    Raises:
        DeploymentError: If importing started a thread: a fork would copy its locks in whatever state they are.
    """
    for name in PRELOADED:
        importlib.import_module(name)
    if threading.active_count() > 1:
        raise DeploymentError("the fork server has a second thread before its first fork; pin flwr and grpcio")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen()
        print(READY_LINE, flush=True)  # noqa: T201 -- the supervisor waits for this line
        while True:
            connection, _ = listener.accept()
            with connection:
                argv = _read_argv(connection)
                if argv is None:
                    continue
                if os.fork() == 0:
                    listener.close()
                    connection.close()
                    _become_client_app(argv)
                with contextlib.suppress(OSError):
                    connection.sendall(b"+")


def _read_argv(connection: socket.socket) -> list[str] | None:
    """The argument list, or None: then the shim gets no answer and runs the stock command."""
    connection.settimeout(READ_TIMEOUT_S)
    data = b""
    try:
        while not data.endswith(b"\n") and len(data) < MAX_ARGV_BYTES:
            piece = connection.recv(MAX_ARGV_BYTES)
            if not piece:
                return None
            data += piece
        argv = json.loads(data)
    except (OSError, ValueError):
        return None
    return argv if isinstance(argv, list) and all(isinstance(word, str) for word in argv) else None


def _become_client_app(argv: list[str]) -> None:
    """Run the stock entry point in this fork and never return."""
    status = 1
    try:
        die_with_parent(os.getppid())
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        sys.argv = [COMMAND, *argv]
        importlib.import_module("flwr.supernode.cli").flwr_clientapp()
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # _exit: the parent's exit handlers are not this process's.
        os._exit(status)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
