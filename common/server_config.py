"""The coordinator's file: addresses, certificates, store."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from common.address import Address
from common.card import HospitalName
from common.config import Settings, load_settings
from common.process_settings import HealthHost, HealthPort, LogFiles, LogMaxMib


class NodeEntry(Settings):
    """One hospital's gateway as the SuperLink knows it."""

    name: HospitalName = Field(description="the hospital's name in the plan's roster")
    public_key: Path = Field(description="EC P-384 public key of the node, OpenSSH form")


class ServerConfig(Settings):
    """configs/server.yaml; paths are relative to the file."""

    fleet_address: Address = Field(description="host:port that hospitals connect to, port from 1 to 65535")
    runtime_port: int = Field(ge=1024, le=65535, description="loopback port of Flower's Runtime and Control API")
    certificate: Path = Field(description="TLS certificate of the coordinator, PEM; names the host of fleet_address")
    certificate_key: Path = Field(description="its private key, PEM, mode 0600")
    root_certificates: Path = Field(description="certificate authority that signed it, PEM; hospitals get a copy")
    superexec_secret: Path = Field(description="32 random bytes, mode 0600")
    identity_key: Path = Field(description="Ed25519 private key that signs requests, mode 0600")
    folder: Path = Field(description="store, Flower's database and logs")
    nodes: tuple[NodeEntry, ...] = Field(min_length=1, description="gateways that may connect, one per hospital")
    patience_s: float = Field(
        default=1800.0,
        ge=0,
        le=30 * 86_400,
        description="a run that failed is tried again by itself until it has gained no round for this long, seconds",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least severity that the ServerApp logs"
    )
    log_max_mib: LogMaxMib = 10
    log_files: LogFiles = 5
    health_host: HealthHost = "127.0.0.1"
    health_port: HealthPort = 0


def load_server(path: Path) -> ServerConfig:
    """Read a server file and make its paths absolute.

    Raises:
        ConfigError: See `common.config.load_settings`.
    """
    config, base = load_settings(path, ServerConfig), path.resolve().parent

    def resolve(value: Path) -> Path:
        return value if value.is_absolute() else base / value

    names = ("certificate", "certificate_key", "root_certificates", "superexec_secret", "identity_key", "folder")
    nodes = tuple(n.model_copy(update={"public_key": resolve(n.public_key)}) for n in config.nodes)
    return config.model_copy(update={n: resolve(getattr(config, n)) for n in names} | {"nodes": nodes})
