"""What the doctor looks at between this site's gateway and the coordinator; needs neither vault nor data."""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path

from client.doctor_finding import Finding, Verdict, examine, failed, noted, passed
from client.doctor_machine import validity_of
from client.doctor_processes import running_gateway
from client.doctor_proxy import CONNECT_S, route_to
from client.gateway import LOOPBACK, gateway_children
from common.child import ChildEvent
from common.errors import ConfigError, DeploymentError
from common.identity import read_secret
from common.node_key import SUPEREXEC_SECRET_BYTES
from common.site_config import GatewaySettings
from common.supervise import require_free, supervise

REGISTER_S = 30.0
SAY_EXPIRY_DAYS = 30
_EXPIRED, _NOT_YET_VALID, _OTHER_HOST, _OTHER_ADDRESS = 10, 9, 62, 64  # OpenSSL's X509_V_ERR_*


def network_findings(gateway: GatewaySettings) -> Iterator[Finding]:
    """All findings of the gateway's part; what cannot be tried because an earlier one failed says so."""
    yield examine("gateway files", lambda: gateway_files(gateway))
    yield examine("runtime port", lambda: runtime_port(gateway))
    reached = examine("coordinator", lambda: coordinator_port(gateway))
    yield reached
    if reached.failed:
        trusted = Finding("certificate", noted("not looked at, since the coordinator was not reached"))
    else:
        trusted = examine("certificate", lambda: certificate(gateway, now=dt.datetime.now(dt.UTC)))
    yield trusted
    if reached.failed or trusted.failed:
        yield Finding("node key", noted("not tried, since there is no connection that it could be shown to"))
    else:
        yield examine("node key", lambda: node_key(gateway))


def gateway_files(gateway: GatewaySettings) -> Verdict:
    """Whether this user can read the gateway's own files, and nobody else its secrets."""
    read_secret(gateway.node_key)
    read_secret(gateway.superexec_secret, size_bytes=SUPEREXEC_SECRET_BYTES)
    validity_of(gateway.root_certificates)
    return passed(f"{gateway.node_key.name} and {gateway.superexec_secret.name} are this user's alone")


def runtime_port(gateway: GatewaySettings) -> Verdict:
    """Whether the SuperNode can listen."""
    running = running_gateway(gateway)
    if running is not None:
        return passed(f"{gateway.runtime_port} is held by this site's running gateway (process {running})")
    require_free(LOOPBACK, gateway.runtime_port, name="gateway.runtime_port")
    return passed(f"{gateway.runtime_port} on {LOOPBACK} is free")


def coordinator_port(gateway: GatewaySettings) -> Verdict:
    """Whether a connection to the coordinator comes about, through the HTTP proxy of the environment if there is one.

    Raises:
        DeploymentError: If the proxy is in the way.
    """
    host, port = _address(gateway)
    route = route_to(host)
    ignored = f"gRPC ignores {route.ignored}, which is not http://HOST:PORT" if route.ignored else ""
    try:
        route.connect(host, port).close()
    except socket.gaierror:
        return failed(
            f"no address is known for {host}",
            ignored or "correct 'gateway.superlink', or this network's name service",
        )
    except TimeoutError:
        return failed(
            f"{gateway.superlink} did not answer within {CONNECT_S:g} s",
            ignored or f"have the hospital's firewall let this machine connect to {host}, TCP port {port}",
        )
    except OSError as error:
        return failed(
            f"{gateway.superlink} cannot be reached ({error.strerror})",
            ignored
            or "ask the coordinator whether it is up, and the hospital's firewall whether it lets this machine out",
        )
    if ignored:
        return noted(f"{gateway.superlink} takes connections, without a proxy", ignored)
    way = f" through {route.proxy}" if route.proxy else ""
    return passed(f"{gateway.superlink} takes connections{way}")


def certificate(gateway: GatewaySettings, *, now: dt.datetime) -> Verdict:
    """Whether the coordinator proves with TLS that it is the one of the site's authority and of that host name.

    Args:
        gateway: The gateway's part of the site file.
        now: This machine's time, with a zone.

    Raises:
        ConfigError: If the site's authority cannot be read.
        DeploymentError: If the HTTP proxy is in the way.
    """
    host, port = _address(gateway)
    _, authority_until = validity_of(gateway.root_certificates)
    context = ssl.create_default_context(cafile=str(gateway.root_certificates))
    context.hostname_checks_common_name = False  # gRPC looks at the alternative names alone
    context.set_alpn_protocols(["h2"])
    try:
        with (
            route_to(host).connect(host, port) as plain,
            context.wrap_socket(plain, server_hostname=host) as secured,
        ):
            shown, protocol = secured.getpeercert() or {}, secured.version()
    except ssl.SSLCertVerificationError as error:
        return _refused(gateway, error)
    except (ssl.SSLError, ConnectionError, TimeoutError) as error:
        return failed(
            f"{gateway.superlink} does not speak TLS ({type(error).__name__})",
            "check that 'gateway.superlink' names the coordinator's Fleet port, and that nothing in between answers",
        )
    server_until = dt.datetime.fromtimestamp(ssl.cert_time_to_seconds(str(shown["notAfter"])), dt.UTC)
    until = min(server_until, authority_until)
    seen = f"{host} is signed by {gateway.root_certificates.name} and valid until {until:%Y-%m-%d} ({protocol})"
    if until - now < dt.timedelta(days=SAY_EXPIRY_DAYS):
        return noted(f"{seen}: {(until - now).days} days are left", "ask the coordinator for new certificates in time")
    return passed(seen)


def _refused(gateway: GatewaySettings, error: ssl.SSLCertVerificationError) -> Verdict:
    host, _ = _address(gateway)
    if error.verify_code == _EXPIRED:
        return failed(f"the certificate of {host} has expired", "ask the coordinator for new certificates")
    if error.verify_code == _NOT_YET_VALID:
        return failed(f"the certificate of {host} is not valid yet", "set this machine's clock right")
    if error.verify_code in (_OTHER_HOST, _OTHER_ADDRESS):
        return failed(
            f"the certificate that {gateway.superlink} shows is not for the name {host}",
            "correct the host in 'gateway.superlink', or ask the coordinator for a certificate with this name",
        )
    return failed(
        f"{gateway.superlink} shows a certificate that {gateway.root_certificates} did not sign",
        "ask the coordinator for its ca.crt, and compare its digest by telephone",
    )


def node_key(gateway: GatewaySettings) -> Verdict:
    """Whether the coordinator takes this node key: a SuperNode is started with it and stopped once it is connected."""
    running = running_gateway(gateway)
    if running is not None:
        return _connected(gateway, running)
    with tempfile.TemporaryDirectory(prefix="fedward-doctor-") as folder:
        # Files and port of its own: this must not be in the way of a gateway that starts meanwhile.
        own = gateway.model_copy(update={"folder": Path(folder), "runtime_port": _free_port()})
        supernode = gateway_children(own, Path(folder) / "none.sock", connect_timeout_s=REGISTER_S)[0][0]
        try:
            caught = asyncio.run(supervise(((supernode,),), on_event=_ignore, restart=False, work=_nothing_more))
        except DeploymentError as error:
            log = supernode.log_path.read_text(errors="replace")
            known = next((text for each in supernode.refusals if (text := each.explain(log))), "")
            if not known:
                # The log is gone with its folder, so its name would be no help.
                raise ConfigError(
                    f"{str(error).partition('; its log is')[0]}; try `fedward-client gateway`, which keeps its log"
                ) from error
            seen, _, advice = known.partition("; ")
            return failed(seen, advice)
    if caught is not None:
        raise KeyboardInterrupt
    return passed(f"{gateway.superlink} has let a SuperNode with this site's node key in")


def _connected(gateway: GatewaySettings, process: int) -> Verdict:
    log = gateway.folder / "logs" / "supernode.log"
    if says_connected(log):
        return passed(f"in use: this site's gateway (process {process}) is connected with it")
    return noted(f"not tried: this site's gateway (process {process}) is up and not connected yet", f"look into {log}")


def says_connected(log: Path) -> bool:
    """Whether a SuperNode's log tells of a connection since its last start.

    Args:
        log: The newest file; older ones have a number behind the name. A start that they have no more was long ago, and
            a SuperNode that is refused ends at once.
    """
    paths = [log, *sorted(log.parent.glob(f"{log.name}.*"), key=lambda path: int(path.suffix[1:]))]
    for path in paths:
        _, started, since = path.read_text(errors="replace").rpartition("Starting Flower SuperNode")
        if started or "SuperNode ID: " in since:
            return "SuperNode ID: " in since
    return True


def _address(gateway: GatewaySettings) -> tuple[str, int]:
    host, _, port = gateway.superlink.rpartition(":")
    return host, int(port)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _ignore(event: ChildEvent) -> None:
    """The verdict says it all."""
    del event


async def _nothing_more() -> None:
    """Being connected was all that was wanted."""
