"""Addresses of the coordinator in configuration files."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema

from common.errors import ConfigError

_FORM = r"^[A-Za-z0-9._-]+:[0-9]{1,5}$"
# What certificates and Flower take: ASCII names and IPv4 addresses.
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", re.ASCII)
MAX_HOST_CHARACTERS = 253
MAX_PORT = 65_535


def check_address(address: str) -> str:
    """Return `address` if it is host:port.

    Raises:
        ConfigError: If it is not: a sentence without the name of the key.
    """
    host, _, port = address.rpartition(":")
    if not host or not re.fullmatch(r"[0-9]{1,5}", port):
        raise ConfigError(f"seen '{address}'; host:port is allowed, with a port from 1 to {MAX_PORT}")
    if not 1 <= int(port) <= MAX_PORT:
        raise ConfigError(f"seen '{address}'; a port is a number from 1 to {MAX_PORT}")
    if not _HOST.fullmatch(host) or len(host) > MAX_HOST_CHARACTERS:
        raise ConfigError(
            f"seen '{address}'; the host is a name of ASCII letters, digits, dots and hyphens, or an IPv4 "
            f"address{_hint(host)}"
        )
    return address


def _hint(host: str) -> str:
    """How a name with other letters is written in certificates."""
    try:
        name = host.encode("idna").decode("ascii")
    except UnicodeError:
        return ""
    return "" if name == host else f"; write {name}"


Address = Annotated[str, AfterValidator(check_address), WithJsonSchema({"type": "string", "pattern": _FORM})]
