# ruff: noqa: INP001 -- a program of the images, no part of a package
"""Health of a container: something listens at every address that is named.

`health.py unix:/run/fedward/site.sock tcp:127.0.0.1:9091`. Standard library only: it runs every few seconds in every
container, and costs 20 ms where the project's own commands cost a second.
"""

from __future__ import annotations

import socket
import sys

TIMEOUT_S = 3.0


def connect(address: str) -> None:
    """Connect and hang up."""
    kind, _, rest = address.partition(":")
    if kind == "unix":
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(TIMEOUT_S)
            connection.connect(rest)
        return
    host, _, port = rest.rpartition(":")
    socket.create_connection((host, int(port)), TIMEOUT_S).close()


def main() -> None:
    """Arguments: addresses. Exit status 1 and one line at the first that does not answer."""
    for address in sys.argv[1:]:
        try:
            connect(address)
        except OSError as error:
            sys.exit(f"{address}: {error.strerror or error}")


main()
