"""Makes a federation's files at once, as demos and tests need it: keys, certificates, plan, site and server files.

At real sites each hospital makes its own keys; here one command makes them all, so whoever runs it could read
everything. docs/threat-model.md says so.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from client.encrypt import SecretKey
from client.site import save_ckks_key
from common.ckks import PRESETS
from common.config import parse_settings
from common.identity import Identity
from common.plan import Plan
from common.site_config import SiteConfig
from common.socket_path import socket_path
from scripts.agree import Site, agree, count_units
from scripts.certificates import write_node_key, write_superexec_secret, write_tls
from scripts.whole_folder import make_room, whole_folder

CERTIFICATE_DAYS = 825


@dataclass(frozen=True, slots=True)
class FederationOptions:
    """What the organiser chooses beside the plan.

    `ports` are loopback ports of Flower's own APIs: one for the coordinator, then one per hospital.
    """

    fleet_address: str
    ports: Sequence[int]
    metrics: str
    public_data: bool
    threads: int
    device: str


def provision(template: Plan, sites_data: dict[str, Path], target: Path, *, options: FederationOptions) -> Plan:
    """Write a whole federation into a new folder, all of it or nothing.

    Args:
        template: A plan without `federation`.
        sites_data: Data folder of each hospital, by name, in roster order.
        target: Folder to make.
        options: See `FederationOptions`.

    Returns:
        The agreed plan, as written to `target`/plan.yaml.

    Raises:
        AlreadyExists: If `target` exists and is not empty.
        DataError: If a hospital's data folder is wrong.
        OperatorError: If the disk refuses.
        PlanError: If the plan is unsound for these hospitals.
    """
    make_room(target)
    sites = [Site(n, d, count_units(d, template), Identity.generate()) for n, d in sites_data.items()]
    coordinator = Identity.generate()
    plan = agree(template, sites, coordinator)
    with whole_folder(target, mode=0o700) as staging:
        _write_plan(staging / "plan.yaml", plan)
        _write_coordinator(staging / "coordinator", sites, coordinator, options=options)
        key = SecretKey.generate(PRESETS[plan.encryption.preset])
        for site, port in zip(sites, options.ports[1:], strict=True):
            _write_site(staging, target, site, plan=plan, key=key, options=options, port=port)
    return plan


def free_ports(count: int) -> tuple[int, ...]:
    """Loopback ports that nothing uses now."""
    probes = [socket.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return tuple(probe.getsockname()[1] for probe in probes)
    finally:
        for probe in probes:
            probe.close()


def _write_plan(path: Path, plan: Plan) -> None:
    head = f"# Agreed plan. digest: {plan.digest}\n"
    path.write_text(head + yaml.safe_dump(plan.model_dump(mode="json"), sort_keys=False))


def _write_coordinator(folder: Path, sites: Sequence[Site], identity: Identity, *, options: FederationOptions) -> None:
    (folder / "nodes").mkdir(parents=True)
    tls = write_tls(folder, [options.fleet_address.rsplit(":", 1)[0]], valid_days=CERTIFICATE_DAYS)
    identity.save(folder / "identity.key")
    write_superexec_secret(folder / "superexec.secret")
    _write_yaml(
        folder / "server.yaml",
        {
            "fleet_address": options.fleet_address,
            "runtime_port": options.ports[0],
            "certificate": tls.certificate.name,
            "certificate_key": tls.certificate_key.name,
            "root_certificates": tls.root_certificates.name,
            "superexec_secret": "superexec.secret",
            "identity_key": "identity.key",
            "folder": "work",
            "nodes": [{"name": s.name, "public_key": f"nodes/{s.name}.pub"} for s in sites],
        },
    )


def _write_site(  # noqa: PLR0913 -- one site's files from all that the federation shares
    staging: Path, target: Path, site: Site, *, plan: Plan, key: SecretKey, options: FederationOptions, port: int
) -> None:
    folder, coordinator = staging / site.name, staging / "coordinator"
    endpoint = socket_path(target / site.name, "site.sock")
    (folder / "gateway").mkdir(parents=True)
    site.identity.save(folder / "identity.key")
    save_ckks_key(folder / "ckks.key", key)
    shutil.copy(staging / "plan.yaml", folder / "plan.yaml")
    write_node_key(folder / "gateway" / "node.key", coordinator / "nodes" / f"{site.name}.pub")
    write_superexec_secret(folder / "gateway" / "superexec.secret")
    shutil.copy(coordinator / "ca.crt", folder / "gateway" / "ca.crt")
    epsilon, delta = plan.budget(plan.roster[plan.agreed.position(site.name)])
    content = {
        "hospital": site.name,
        "plan": "plan.yaml",
        "approved_plans": [plan.digest],
        "data": os.path.relpath(site.data.resolve(), (target / site.name).resolve()),
        "identity_key": "identity.key",
        "ckks_key": "ckks.key",
        "ledger": "ledger.sqlite",
        "state": "state",
        "results": "results",
        "socket": endpoint.name if endpoint.parent == (target / site.name).resolve() else str(endpoint),
        "device": options.device,
        "threads": options.threads,
        "privacy": {
            "source": "images",
            "cap_epsilon": epsilon,
            "cap_delta": delta,
            "metrics": options.metrics,
            "public_data": options.public_data,
            "min_cohort": plan.cohort.min_cohort,
        },
        "gateway": {
            "superlink": options.fleet_address,
            "root_certificates": "gateway/ca.crt",
            "node_key": "gateway/node.key",
            "superexec_secret": "gateway/superexec.secret",
            "runtime_port": port,
            "folder": "gateway/work",
        },
    }
    _write_yaml(folder / f"{site.name}.yaml", content)
    parse_settings(yaml.safe_dump(content), SiteConfig, source=f"{site.name}.yaml")


def _write_yaml(path: Path, content: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False))
