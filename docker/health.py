# ruff: noqa: INP001 -- a program of the images, no part of a package
"""Health of a container: every address that is named answers.

`health.py unix:/run/fedward/site.sock get:127.0.0.1:9093/health`. Something must listen at the first kind, and say 200
at the second. Standard library only: it runs every few seconds in every container, and costs 20 ms where the project's
own commands cost a second.
"""

from __future__ import annotations

import socket
import sys

TIMEOUT_S = 3.0


def connect(path: str) -> None:
    """Connect to a Unix socket and hang up."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.connect(path)


def ask(address: str) -> None:
    """GET host:port/path, which must say 200."""
    place, _, path = address.partition("/")
    host, _, port = place.rpartition(":")
    with socket.create_connection((host, int(port)), TIMEOUT_S) as connection:
        connection.sendall(f"GET /{path} HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n\r\n".encode())
        status = connection.recv(4096).partition(b"\r\n")[0]
    if status.split(b" ")[1:2] != [b"200"]:
        raise OSError(0, status.decode(errors="replace") or "no answer")


ASK = {"unix": connect, "get": ask}


def main() -> None:
    """Arguments: addresses. Exit status 1 and one line at the first that does not answer, or is of no known kind."""
    for address in sys.argv[1:]:
        kind, _, rest = address.partition(":")
        if kind not in ASK:
            sys.exit(f"{address}: is neither unix:PATH nor get:HOST:PORT/PATH")
        try:
            ASK[kind](rest)
        except OSError as error:
            sys.exit(f"{address}: {error.strerror or error}")


main()
