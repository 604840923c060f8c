"""Makes a federation's files at once, as demos and tests need it: every hospital's keys, the organiser's files, sites.

It does what hospitals and organiser do apart at real sites, in one process; so whoever runs it could read everything.
docs/threat-model.md says so.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from client.approve import Approver, take_in
from client.data.source import DataPlace
from client.declare import count_units
from client.key_ceremony import KeyCeremony
from client.keygen import GATEWAY, VAULT, VAULT_KEY, make_site
from client.site_file import SiteChoices, new_site_file
from client.vault import IDENTITY, Vault
from client.vault_lock import read_key_file
from common.config import parse_settings
from common.identity import Identity
from common.key_messages import Confirmation, Confirmations, dealer_of, decode_document, encode_document
from common.kit import read_kit
from common.plan import Plan
from common.plan_data import ImageData
from common.site_config import SiteConfig, with_absolute_paths
from scripts.organise import CoordinatorOptions, kit_path, organise
from scripts.whole_folder import make_room, whole_folder

# Somebody watches: a death is got over by then, and a mistake is told while it is remembered.
DEMO_PATIENCE_S = 300.0


@dataclass(frozen=True, slots=True)
class FederationOptions:
    """What the organiser chooses beside the plan, and what all hospitals of a demo choose alike.

    `ports` are loopback ports of Flower's own APIs: one for the coordinator, then one per hospital.
    """

    fleet_address: str
    ports: Sequence[int]
    metrics: str
    public_data: bool
    threads: int
    device: str
    patience_s: float | None = None
    weights: Path | None = None


def local_options(
    hospitals: int, *, device: str, patience_s: float = DEMO_PATIENCE_S, weights: Path | None = None
) -> FederationOptions:
    """Options of a federation on this machine with public or drawn images, of which exact held-out counts are shown.

    Args:
        hospitals: How many; each gets half of the cores, for they take turns.
        device: auto, cpu or cuda.
        patience_s: See `common.server_config.ServerConfig.patience_s`.
        weights: Weights file of a plan's `network`, which all of them hold; None where the plan needs none.
    """
    ports = free_ports(hospitals + 2)
    return FederationOptions(
        fleet_address=f"127.0.0.1:{ports[0]}",
        ports=ports[1:],
        metrics="aggregate",
        public_data=True,
        threads=max(1, (os.cpu_count() or 1) // 2),
        device=device,
        patience_s=patience_s,
        weights=weights,
    )


def provision(template: Plan, sites: Mapping[str, DataPlace], target: Path, *, options: FederationOptions) -> Plan:
    """Write a whole federation into a new folder, all of it or nothing.

    Args:
        template: A plan without `federation`.
        sites: Data of each hospital, by name, in roster order.
        target: Folder to make.
        options: See `FederationOptions`.

    Returns:
        The agreed plan, as written to `target`/plan.yaml.

    Raises:
        AlreadyExists: If `target` exists and is not empty.
        ConfigError, DataError: If a hospital's mapping or data are wrong.
        OperatorError: If the disk refuses.
        PlanError: If the plan is unsound for these hospitals.
    """
    make_room(target)
    units = {name: count_units(place, template) for name, place in sites.items()}
    with whole_folder(target, mode=0o700) as staging:
        cards = [
            make_site(staging / name, hospital=name, declared_units=count, passphrase=None).card
            for name, count in units.items()
        ]
        coordinator = CoordinatorOptions(options.fleet_address, options.ports[0], options.patience_s)
        plan = organise(template, cards, staging, options=coordinator)
        vaults = {name: _open_vault(staging / name, name) for name in units}
        for name, port in zip(units, options.ports[1:], strict=True):
            _join(staging, target, vaults[name], name=name, place=sites[name], plan=plan, options=options, port=port)
        deal_key(plan, vaults)
    return plan


def deal_key(plan: Plan, vaults: dict[str, Vault]) -> None:
    """Hold the ceremony of a plan's first key within one process.

    Args:
        plan: The agreed plan.
        vaults: Every hospital's open vault, by name.
    """
    ceremonies = {
        name: KeyCeremony(
            plan,
            name,
            epoch=plan.agreed.epoch,
            vault=vault,
            identity=Identity.from_seed(vault.require(IDENTITY)),
            min_cohort=plan.min_cohort,
        )
        for name, vault in vaults.items()
    }
    deal = ceremonies[dealer_of(plan.digest, tuple(vaults), epoch=plan.agreed.epoch)].deal()
    opened = [decode_document(ceremony.open(deal), Confirmation) for ceremony in ceremonies.values()]
    confirmations = encode_document(Confirmations(confirmations=tuple(opened)))
    for ceremony in ceremonies.values():
        ceremony.confirm(confirmations)


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


def _open_vault(folder: Path, hospital: str) -> Vault:
    return Vault.open(folder / VAULT, hospital=hospital, unlock=read_key_file(folder / VAULT_KEY))


def _join(  # noqa: PLR0913 -- one site's files from all that the federation shares
    staging: Path,
    target: Path,
    vault: Vault,
    *,
    name: str,
    place: DataPlace,
    plan: Plan,
    options: FederationOptions,
    port: int,
) -> None:
    epsilon, delta = plan.budget(plan.roster[plan.agreed.position(name)])
    choices = SiteChoices(
        data=place.path,
        source="images" if isinstance(plan.data, ImageData) else "patients",
        cap_epsilon=epsilon,
        cap_delta=delta,
        metrics=options.metrics,
        public_data=options.public_data,
        min_cohort=plan.min_cohort,
        device=options.device,
        threads=options.threads,
        runtime_port=port,
        patient_column=place.patient_column,
        mapping=place.mapping,
        weights=options.weights,
    )
    text = new_site_file(
        target / name,
        hospital=name,
        superlink=options.fleet_address,
        key_file=target / name / VAULT_KEY,
        choices=choices,
    )
    config = parse_settings(text, SiteConfig, source=f"{name}.yaml")
    approver = Approver(name, vault, staging / name / GATEWAY / "node.key")
    take_in(
        read_kit(kit_path(staging, name)),
        staging / name,
        with_absolute_paths(config, staging / name),
        approver=approver,
        site_file=(staging / name / f"{name}.yaml", text),
    )
