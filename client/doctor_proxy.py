"""How the doctor gets to the coordinator: directly, or through the HTTP proxy that gRPC would take from here."""

from __future__ import annotations

import base64
import ipaddress
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self
from urllib.parse import unquote, urlsplit

from common.errors import DeploymentError
from common.flower import NO_PROXY, PROXIES, proxy_environment

CONNECT_S = 10.0
# gRPC's, where a proxy is named without one.
DEFAULT_PORT = 443
MOST_ANSWER_BYTES = 1 << 14
CREDENTIALS_WANTED = 407


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy that opens tunnels.

    Args:
        variable: The environment variable that names it.
        host: Where it is.
        port: Where it is.
        credentials: `user:password`, or empty; never shown.
    """

    variable: str
    host: str
    port: int
    credentials: str

    @classmethod
    def parse(cls, variable: str, value: str) -> Self | None:
        """Read a variable's value; None for what gRPC ignores, which is all but `http://HOST:PORT`."""
        try:
            url = urlsplit(value)
            host, port = url.hostname, url.port or DEFAULT_PORT
        except ValueError:
            return None
        if url.scheme != "http" or not host:
            return None
        return cls(variable, host, port, unquote(url.netloc.rpartition("@")[0]))

    def __str__(self) -> str:
        """Without the credentials."""
        return f"the proxy {self.host}:{self.port} ({self.variable})"


@dataclass(frozen=True, slots=True)
class Route:
    """The way to one host.

    Args:
        proxy: What it leads through; None: nothing.
        ignored: A variable that names a proxy which gRPC does not take.
    """

    proxy: Proxy | None
    ignored: str = ""

    def connect(self, host: str, port: int) -> socket.socket:
        """A connection to the host, through the proxy if there is one.

        Args:
            host: The coordinator.
            port: Its Fleet port.

        Raises:
            OSError: If the host itself cannot be reached.
            DeploymentError: If the proxy cannot be reached, or opens no tunnel.
        """
        if self.proxy is None:
            return socket.create_connection((host, port), timeout=CONNECT_S)
        try:
            connection = socket.create_connection((self.proxy.host, self.proxy.port), timeout=CONNECT_S)
        except OSError as error:
            raise DeploymentError(
                f"{self.proxy} cannot be reached ({error.strerror or 'no answer'}); correct {self.proxy.variable} in "
                "the gateway's environment, or ask whoever runs the proxy"
            ) from error
        try:
            _open_tunnel(connection, self.proxy, f"{host}:{port}")
        except BaseException:
            connection.close()
            raise
        return connection


def route_to(host: str) -> Route:
    """The way that gRPC takes to a host from this process's environment, as the gateway hands it to the SuperNode."""
    environment = proxy_environment()
    variable = next((name for name in PROXIES if name in environment), None)
    if variable is None or excepted(host, environment):
        return Route(None)
    proxy = Proxy.parse(variable, environment[variable])
    return Route(proxy, ignored="" if proxy else variable)


def excepted(host: str, environment: Mapping[str, str]) -> bool:
    """Whether gRPC takes no proxy to a host: it ends like an entry of `no_proxy`, or lies in one's network."""
    entries = next((environment[name] for name in NO_PROXY if name in environment), "")
    return any(
        host.lower().endswith(entry.lower()) or _in_network(host, entry)
        for entry in map(str.strip, entries.split(","))
        if entry
    )


def _in_network(host: str, entry: str) -> bool:
    try:
        return "/" in entry and ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False


def _open_tunnel(connection: socket.socket, proxy: Proxy, target: str) -> None:
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.credentials:
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(proxy.credentials.encode()).decode()}")
    try:
        connection.sendall("\r\n".join((*lines, "", "")).encode())
        status = _status(connection)
    except OSError as error:
        raise DeploymentError(
            f"{proxy} hung up or did not answer within {CONNECT_S:g} s; check that it is an HTTP proxy"
        ) from error
    if status is None:
        raise DeploymentError(f"{proxy} does not answer like an HTTP proxy; correct {proxy.variable}")
    if status == CREDENTIALS_WANTED:
        raise DeploymentError(
            f"{proxy} wants a name and a password ({status}); have it let this machine through without, or write "
            f"{proxy.variable} as http://NAME:PASSWORD@HOST:PORT"
        )
    if status // 100 != 2:
        raise DeploymentError(
            f"{proxy} opens no tunnel to {target} ({status}); have it allow CONNECT to this name and port, and ask the "
            "coordinator whether it is up"
        )


def _status(connection: socket.socket) -> int | None:
    """Status of the proxy's answer, whose head is read to its end and not a byte further; None if it is no answer."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte or len(head) >= MOST_ANSWER_BYTES:
            break
        head += byte
    found = re.match(rb"HTTP/1\.[01] (\d{3})\b", head)
    return int(found[1]) if found else None
