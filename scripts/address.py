"""The coordinator's address as an operator types it."""

from __future__ import annotations

import re

from common.errors import OperatorError

# What certificates, Flower and the YAML files all take: ASCII names and IPv4 addresses.
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", re.ASCII)
MAX_HOST = 253
MAX_PORT = 65_535


def require_address(address: str) -> None:
    """Refuse what is no host:port, before keys and certificates are made for it.

    Raises:
        OperatorError: If it is none, or its port is out of range.
    """
    host, _, port = address.rpartition(":")
    seen = f"--address: seen '{address}'"
    if not host or not re.fullmatch(r"[0-9]{1,5}", port):
        raise OperatorError(f"{seen}; host:port is allowed")
    if not 1 <= int(port) <= MAX_PORT:
        raise OperatorError(f"{seen}; a port is a number from 1 to {MAX_PORT}")
    if not _HOST.fullmatch(host) or len(host) > MAX_HOST:
        raise OperatorError(
            f"{seen}; the host is a name of ASCII letters, digits, dots and hyphens, or an IPv4 address{_hint(host)}"
        )


def _hint(host: str) -> str:
    """How a name with other letters is written in certificates."""
    try:
        name = host.encode("idna").decode("ascii")
    except UnicodeError:
        return ""
    return "" if name == host else f"; write {name}"
