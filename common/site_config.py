"""The site file: what only this hospital decides. Its cap and policy win over the plan."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from common.address import Address
from common.card import HospitalName
from common.config import Settings, load_settings
from common.errors import ConfigError
from common.plan_settings import MOST_EPSILON
from common.printable import PrintableText
from common.process_settings import HealthHost, HealthPort, LogFiles, LogMaxMib
from common.socket_path import MAX_SOCKET_BYTES

# Of `patient_column`: patient_id where index.csv has that column, else what it knows of lesions.
AUTO_COLUMN = "auto"


class SitePrivacy(Settings):
    """What this hospital allows, whatever the plan asks."""

    source: PrintableText = Field(
        min_length=1, max_length=100, description="name of the data source; one ledger per source"
    )
    cap_epsilon: float = Field(gt=0, le=MOST_EPSILON, description="epsilon that no unit of this source may ever pass")
    cap_delta: float = Field(gt=0, lt=1, description="delta at which that epsilon is counted")
    metrics: Literal["none", "final-dp", "aggregate"] = Field(
        description="none: no counts leave; final-dp: noisy, of the final model; aggregate: exact, each round"
    )
    metrics_epsilon: float = Field(
        default=0.5, ge=1.0e-3, le=MOST_EPSILON, description="charged for the noisy counts of final-dp"
    )
    public_data: bool = Field(default=False, description="the held-out data is public, so exact counts may leave")
    min_cohort: int = Field(ge=3, description="fewest hospitals this site will be added up with")

    @model_validator(mode="after")
    def _exact_counts_need_public_data(self) -> Self:
        if self.metrics == "aggregate" and not self.public_data:
            raise ConfigError(
                "metrics: seen 'aggregate' without 'public_data: true'; exact counts carry no privacy guarantee, "
                "so they are allowed for public data only; use 'final-dp' or 'none'"
            )
        return self


class GatewaySettings(Settings):
    """The part of the site that talks to the coordinator and owns nothing."""

    superlink: Address = Field(description="host:port of the coordinator's Fleet API, port from 1 to 65535")
    root_certificates: Path = Field(description="the coordinator's certificate authority, PEM")
    node_key: Path = Field(description="EC P-384 private key of this node, OpenSSH form")
    superexec_secret: Path = Field(description="32 random bytes, mode 0600")
    runtime_port: int = Field(ge=1024, le=65535, description="loopback port of the SuperNode's own API")
    folder: Path = Field(description="working folder of the gateway's processes")


class SiteConfig(Settings):
    """configs/site.yaml; paths are relative to the file."""

    hospital: HospitalName = Field(description="this hospital's name in the plan's roster")
    plan: Path = Field(description="the agreed plan, YAML")
    approvals: Path = Field(description="folder with this hospital's signatures under the plans that it approved")
    data: Path = Field(description="folder of images with one folder per class; or a file or folder of rows")
    mapping: Path | None = Field(
        default=None,
        description="file that maps this site's columns, codes and units to the plan's; none for class folders",
    )
    patient_column: PrintableText = Field(
        default=AUTO_COLUMN,
        min_length=1,
        max_length=100,
        description="column of index.csv that says whose an image is; auto: patient_id if it is there, else lesion_id",
    )
    weights: Path | None = Field(
        default=None, description="weights file of a plan's `network`, .safetensors or .pth, with the plan's digest"
    )
    vault: Path = Field(description="this hospital's sealed secrets, made by `fedward-client keygen`, mode 0600")
    vault_key: Path | None = Field(
        default=None, description="key file that opens the vault, mode 0600; without it a passphrase is asked for"
    )
    ledger: Path = Field(description="privacy ledger of the data source, SQLite; made at the first start")
    state: Path = Field(description="folder for model state, replies and caches")
    results: Path = Field(description="folder where the finished model and metrics are written")
    socket: Path = Field(description="Unix socket between site service and gateway")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto: CUDA where present, else the CPU")
    threads: int = Field(default=0, ge=0, le=1024, description="torch threads; 0: all cores")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least severity that the site service logs"
    )
    log_max_mib: LogMaxMib = 10
    log_files: LogFiles = 5
    health_host: HealthHost = "127.0.0.1"
    health_port: HealthPort = 0
    privacy: SitePrivacy
    gateway: GatewaySettings


def load_site(path: Path) -> SiteConfig:
    """Read a site file and make its paths absolute.

    Raises:
        ConfigError: See `common.config.load_settings`.
    """
    config = with_absolute_paths(load_settings(path, SiteConfig), path.resolve().parent)
    size_bytes = len(str(config.socket).encode())
    if size_bytes > MAX_SOCKET_BYTES:
        raise ConfigError(
            f"{path}: socket: seen a path of {size_bytes} bytes ({config.socket}); a Unix socket's path has at most "
            f"{MAX_SOCKET_BYTES} bytes; use a shorter folder"
        )
    return config


def with_absolute_paths(config: SiteConfig, base: Path) -> SiteConfig:
    """The same site file with the paths that it means, where it lies in the folder `base`."""

    def resolve(value: Path) -> Path:
        return value if value.is_absolute() else base / value

    names = ("plan", "approvals", "data", "vault", "ledger", "state", "results", "socket")
    gateway_names = ("root_certificates", "node_key", "superexec_secret", "folder")
    gateway = config.gateway.model_copy(update={n: resolve(getattr(config.gateway, n)) for n in gateway_names})
    vault_key = None if config.vault_key is None else resolve(config.vault_key)
    paths = {n: resolve(getattr(config, n)) for n in names}
    mapping = None if config.mapping is None else resolve(config.mapping)
    weights = None if config.weights is None else resolve(config.weights)
    others = {"mapping": mapping, "weights": weights, "vault_key": vault_key, "gateway": gateway}
    return config.model_copy(update=paths | others)
