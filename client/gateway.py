"""A hospital's gateway as processes: SuperNode, fork server, SuperExec. It owns nothing secret but its node key."""

from __future__ import annotations

import sys
from pathlib import Path

from client.forkserver import READY_LINE, write_shim
from client.supernode import GAVE_UP_LINE
from common.child import Child, Refusal
from common.child_log import Rotation
from common.flower import flower_command, flower_environment, proxy_environment
from common.identity import read_secret
from common.site_config import GatewaySettings
from common.socket_path import socket_path

SITE_SOCKET = "FEDWARD_SITE_SOCKET"
LOOPBACK = "127.0.0.1"


def gateway_children(
    settings: GatewaySettings,
    site_socket: Path,
    *,
    connect_timeout_s: float,
    log_rotation: Rotation = Rotation(),  # noqa: B008 -- frozen
) -> tuple[tuple[Child, ...], ...]:
    """The gateway's processes, in stages for `common.supervise`; the site service belongs in front of them.

    Args:
        settings: The gateway's part of the site file, with absolute paths.
        site_socket: Where the site service listens.
        connect_timeout_s: How long to try for a connection to the coordinator, seconds. One that still counts an
            earlier gateway of this hospital as connected refuses for up to 70 s.
        log_rotation: How much of each process's log is kept.

    Raises:
        KeyFileError: If the node key or the SuperExec secret is missing or readable by others.
    """
    for secret in (settings.node_key, settings.superexec_secret):
        read_secret(secret)
    folder = settings.folder
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    fork_socket = fork_server_socket(settings)
    fork_socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    shim = write_shim(folder / "bin", fork_socket)
    environment = flower_environment(folder, first_on_path=shim.parent) | {SITE_SOCKET: str(site_socket)}

    def child(name: str, argv: tuple[str, ...], *, ready: str | None, timeout_s: float = 60.0) -> Child:
        return Child(
            name=name,
            argv=argv,
            # The one process that leaves the machine.
            env=environment | (proxy_environment() if name == "supernode" else {}),
            cwd=folder,
            log_path=folder / "logs" / f"{name}.log",
            ready_pattern=ready,
            ready_timeout_s=timeout_s,
            ports=((LOOPBACK, settings.runtime_port),) if name == "supernode" else (),
            refusals=_refusals(settings) if name == "supernode" else (),
            give_up_s=connect_timeout_s if name == "supernode" else None,
            rotation=log_rotation,
        )

    supernode = child("supernode", _supernode(settings), ready=r"SuperNode ID: ", timeout_s=connect_timeout_s)
    forker = (sys.executable, "-m", "client.forkserver", str(fork_socket))
    return (
        (supernode, child("forkserver", forker, ready=READY_LINE)),
        (child("superexec", _superexec(settings), ready=None),),
    )


def fork_server_socket(settings: GatewaySettings) -> Path:
    """Where the gateway's fork server listens."""
    return socket_path(settings.folder, "fork.sock")


def _supernode(settings: GatewaySettings) -> tuple[str, ...]:
    return (
        *(sys.executable, "-m", "client.supernode", flower_command("flower-supernode")),
        *("--superlink", settings.superlink),
        *("--root-certificates", str(settings.root_certificates)),
        *("--auth-supernode-private-key", str(settings.node_key)),
        *("--isolation", "process"),
        *("--superexec-auth-secret-file", str(settings.superexec_secret)),
        *("--host", LOOPBACK, "--port", str(settings.runtime_port)),
    )


def _superexec(settings: GatewaySettings) -> tuple[str, ...]:
    return (
        flower_command("flower-superexec"),
        "--insecure",  # loopback, and every call carries an HMAC under the secret
        *("--runtime-api-address", f"{LOOPBACK}:{settings.runtime_port}"),
        *("--superexec-auth-secret-file", str(settings.superexec_secret)),
    )


def _refusals(settings: GatewaySettings) -> tuple[Refusal, ...]:
    return (
        Refusal(
            "certificate (is not yet valid|has expired)",
            f"the certificate of {settings.superlink} is not valid at this machine's time; set the clock (by NTP), or "
            "ask the coordinator for a new certificate and its ca.crt",
            final=True,
        ),
        Refusal(
            "CERTIFICATE_VERIFY_FAILED",
            f"{settings.superlink} shows a certificate that {settings.root_certificates} did not sign; "
            "ask the coordinator for its ca.crt, or check the host name in 'superlink'",
            final=True,
        ),
        Refusal(
            # Flower's SuperNode ends itself without a word where its signed time is refused.
            r"(?s)Starting Flower SuperNode(?!.*SuperNode ID: ).*SuperNode terminated gracefully",
            f"the clocks of this machine and of {settings.superlink} differ: this one may be 5 s ahead or 5 minutes "
            "behind; set the clock of this machine (by NTP), or tell the coordinator that its own is wrong",
            final=False,
        ),
        Refusal(
            r"(?s)SuperNode ID: .*SuperNode terminated gracefully",
            f"{settings.superlink} does not know this connection any more: the coordinator was restarted, or a clock "
            "was set; the gateway connects again by itself",
            final=False,
        ),
        Refusal(
            rf"(?m)^{GAVE_UP_LINE}: ",
            f"{settings.superlink} answered with an error, of which its own log says more, or counts this gateway as "
            "gone; the gateway connects again by itself",
            final=False,
        ),
        Refusal(
            r"\[code: 2004\]",
            f"{settings.superlink} refuses this gateway's node key; ask the coordinator to list its public key under "
            "'nodes' in server.yaml; after a crash of this gateway wait 70 s, until its old connection has expired",
            final=False,
        ),
    )
