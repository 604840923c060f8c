"""What the doctor looks at, one thing after the other."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

from client.doctor_finding import Finding, Part, Verdict, examine, passed
from client.doctor_machine import GIB, clock, disk, kernel_clock, memory, validity_of, versions
from client.doctor_network import network_findings
from client.doctor_processes import running_gateway, running_service
from common.errors import ConfigError
from common.site_config import SiteConfig, load_site

# Resident memory of the demo's site service at its highest, and of a gateway's three processes.
SITE_MEMORY, GATEWAY_MEMORY = GIB, GIB // 2
# Three runs that are kept, cached features and results of an EfficientNet head; logs and bundles of a gateway.
SITE_DISK, GATEWAY_DISK = GIB // 2, GIB // 16


def findings(config_file: Path, part: Part, *, passphrase_file: Path | None) -> Iterator[Finding]:
    """Look at one thing after the other.

    Args:
        config_file: The site file.
        part: Whose things.
        passphrase_file: A file with the vault's passphrase, if it has one.
    """
    found: list[SiteConfig] = []

    def read_site_file() -> Verdict:
        found.append(load_site(config_file))
        return passed(f"{config_file}, of {found[0].hospital}")

    yield examine("site file", read_site_file)
    yield examine("versions", lambda: versions(site=part != "gateway"))
    if not found:
        return
    config = found[0]
    yield examine("clock", lambda: clock(kernel_clock(), dt.datetime.now(dt.UTC), _validity(config, part)))
    yield examine("memory", lambda: memory(_needed_memory(config, config_file, part)))
    yield examine("disk", lambda: disk(_needed_disk(config, part)))
    if part != "site":
        yield from network_findings(config.gateway)
    if part != "gateway":
        # A gateway's image has none of what the site's checks import.
        from client.doctor_site import SiteDoctor  # noqa: PLC0415

        yield from SiteDoctor(config, config_file, passphrase_file=passphrase_file).findings()


def _validity(config: SiteConfig, part: Part) -> tuple[dt.datetime, dt.datetime] | None:
    """The authority's; where it cannot be read, that is the finding of 'gateway files'."""
    if part == "site":
        return None
    try:
        return validity_of(config.gateway.root_certificates)
    except ConfigError:
        return None


def _needed_memory(config: SiteConfig, config_file: Path, part: Part) -> int:
    """Of what does not run yet; what runs has its memory."""
    site = part != "gateway" and running_service(config_file) is None
    gateway = part != "site" and running_gateway(config.gateway) is None
    return site * SITE_MEMORY + gateway * GATEWAY_MEMORY


def _needed_disk(config: SiteConfig, part: Part) -> dict[Path, int]:
    site = {config.state: SITE_DISK, config.results: SITE_DISK}
    gateway = {config.gateway.folder: GATEWAY_DISK}
    return {**(site if part != "gateway" else {}), **(gateway if part != "site" else {})}
