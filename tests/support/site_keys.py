"""A provisioned site's keys, opened with its key file, for tests that act as the hospital."""

from __future__ import annotations

from pathlib import Path

import yaml

from client.approval import write_approval
from client.keygen import VAULT, VAULT_KEY
from client.vault import BOX, IDENTITY, NODE, Vault
from client.vault_lock import read_key_file
from common.card import sign_card
from common.identity import Identity
from common.plan import Plan


def site_vault(home: Path) -> Vault:
    """The vault of the hospital whose folder is `home`."""
    return Vault.open(home / VAULT, hospital=home.name, unlock=read_key_file(home / VAULT_KEY))


def site_identity(home: Path) -> Identity:
    """Its identity."""
    return Identity.from_seed(site_vault(home).require(IDENTITY))


def redeclare(home: Path, **row: object) -> Plan:
    """Give a hospital another row in its own copy of the plan, signed and approved by itself."""
    content = yaml.safe_load((home / "plan.yaml").read_text(encoding="utf-8"))
    members = content["federation"]["hospitals"]
    at = next(index for index, member in enumerate(members) if member["name"] == home.name)
    members[at] |= row
    names = ("name", "box", "node", "declared_units")
    members[at]["signature"] = sign_card(site_identity(home), **{n: members[at][n] for n in names}).signature
    plan = Plan.model_validate(content)
    (home / "plan.yaml").write_text(yaml.safe_dump(plan.model_dump(mode="json")), encoding="utf-8")
    write_approval(home / "approvals", plan, hospital=home.name, identity=site_identity(home))
    return plan


def forget_key(home: Path) -> None:
    """Make the vault of a site anew without the CKKS key, as it was before the key ceremony."""
    old = site_vault(home)
    held = {name: old.require(name) for name in (IDENTITY, BOX, NODE)}
    (home / VAULT).unlink()
    Vault.create(home / VAULT, hospital=home.name, unlock=read_key_file(home / VAULT_KEY), held=held)
