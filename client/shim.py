"""Runs as `flwr-clientapp` in a gateway: hands its arguments to the fork server, or becomes the stock command.

Standard library only and started without site-packages, so that it costs milliseconds.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys

ANSWER_TIMEOUT_S = 5.0


def main() -> None:
    """Arguments: the fork server's socket, the folder of this shim, and those of `flwr-clientapp`."""
    server, own_folder, *argv = sys.argv[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(ANSWER_TIMEOUT_S)
            connection.connect(server)
            connection.sendall(json.dumps(argv).encode() + b"\n")
            taken = connection.recv(1) == b"+"
    except OSError:
        taken = False
    if not taken:
        folders = [f for f in os.environ["PATH"].split(os.pathsep) if f != own_folder]
        stock = shutil.which("flwr-clientapp", path=os.pathsep.join(folders))
        if stock is None:
            sys.exit("flwr-clientapp: not on PATH behind the fork server's folder; install flwr")
        os.execv(stock, ["flwr-clientapp", *argv])  # noqa: S606 -- no shell is wanted


main()
