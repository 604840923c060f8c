"""A small federation that goes on under a successor plan, by the files and commands of organiser and hospitals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from client.approve import Approver, take_in
from client.data.source import DataPlace
from client.declare import count_units
from client.keygen import GATEWAY, VAULT_KEY, make_site
from client.site_file import SiteChoices, new_site_file
from common.card import Card
from common.config import parse_settings
from common.kit import read_kit
from common.plan import Plan
from common.site_config import SiteConfig, load_site, with_absolute_paths
from scripts.organise import kit_path
from scripts.succeed import succeed, write_succession
from tests.support.in_process import Coordinator
from tests.support.site_keys import site_vault
from tests.support.small_federation import SmallFederation, write_images


def newcomer(federation: SmallFederation, name: str) -> Card:
    """Images and keys of a hospital that is in no plan yet."""
    data = federation.folder / "shards" / name
    write_images(data, per_class=8, seed=77)
    units = count_units(DataPlace(data), federation.plan)
    return make_site(federation.folder / "federation" / name, hospital=name, declared_units=units, passphrase=None).card


def succession(
    federation: SmallFederation,
    folder: Path,
    *,
    last_round: int,
    leaving: Sequence[str] = (),
    joining: Sequence[Card] = (),
) -> SmallFederation:
    """Close the federation and open its hospitals under the plan that follows; each has approved its kit."""
    before, coordinator = federation.plan, federation.coordinator
    root = federation.folder / "federation"
    plan = succeed(before, run=coordinator.run, last_round=last_round, leaving=leaving, joining=joining)
    folder.mkdir()
    write_succession(plan, root / "coordinator" / "server.yaml", folder)
    for name in tuple(federation.sites):
        federation.close(name)
    for hospital in plan.roster:
        _approve(federation.folder, kit_path(folder, hospital.name), name=hospital.name, plan=plan)
    after = SmallFederation(federation.folder, plan, Coordinator(plan, coordinator.identity))
    after.sites = {hospital.name: after.open(hospital.name) for hospital in plan.roster}
    return after


def _approve(folder: Path, kit: Path, *, name: str, plan: Plan) -> None:
    home = folder / "federation" / name
    site_file = home / f"{name}.yaml"
    written = None
    if not site_file.exists():
        epsilon, delta = plan.budget(plan.roster[plan.agreed.position(name)])
        choices = SiteChoices(
            data=folder / "shards" / name,
            source="images",
            cap_epsilon=epsilon,
            cap_delta=delta,
            metrics="aggregate",
            public_data=True,
            min_cohort=3,
            device="cpu",
            threads=1,
            runtime_port=20_099,
        )
        text = new_site_file(
            home, hospital=name, superlink="127.0.0.1:9092", key_file=home / VAULT_KEY, choices=choices
        )
        written = (site_file, text)
        config = with_absolute_paths(parse_settings(text, SiteConfig, source="site.yaml"), home)
    else:
        config = load_site(site_file)
    approver = Approver(name, site_vault(home), home / GATEWAY / "node.key")
    take_in(read_kit(kit), home, config, approver=approver, site_file=written)
