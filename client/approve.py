"""Takes a start-up kit or a plan into a site's folder, once its hospital has approved it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from pydantic import ValidationError

from client.approval import write_approval
from client.durable import write_durably
from client.hpke import box_public_hex
from client.vault import BOX, IDENTITY, NODE, Vault
from common.canonical import canonical_bytes
from common.errors import ConfigError, KeyFileError
from common.identity import Identity, read_secret
from common.kit import Kit, KitManifest
from common.plan import Plan
from common.roster import Hospital
from common.site_config import SiteConfig

KIT_FILE = "kit.json"


@dataclass(frozen=True, slots=True)
class Approver:
    """Who approves: a hospital with its keys.

    Args:
        hospital: Its name in the roster.
        vault: Its open vault.
        node_key: The private key of its gateway.
    """

    hospital: str
    vault: Vault
    node_key: Path

    @property
    def identity(self) -> Identity:
        """The key that signs."""
        return Identity.from_seed(self.vault.require(IDENTITY))

    def row(self, plan: Plan) -> Hospital:
        """This hospital's row of the roster.

        Raises:
            ConfigError: If the roster does not name it, or names other keys than its own.
        """
        row = next((member for member in plan.roster if member.name == self.hospital), None)
        if row is None:
            names = ", ".join(member.name for member in plan.roster)
            raise ConfigError(f"plan '{plan.name}': the roster names {names}, not {self.hospital}; ask the organiser")
        own = (self.identity.public_hex, box_public_hex(self.vault.require(BOX)), self._public_node_key())
        if (row.identity, row.box, row.node) != own:
            raise ConfigError(
                f"plan '{plan.name}': the row of {self.hospital} holds other keys than this site's; send the organiser "
                f"the card that keygen wrote here"
            )
        return row

    def _public_node_key(self) -> str:
        try:
            content = read_secret(self.node_key)
        except KeyFileError:
            # It may belong to the gateway's own user; the vault has had a copy since keygen.
            held = self.vault.get(NODE)
            if held is None:
                raise
            content = held
        try:
            key = serialization.load_ssh_private_key(content, password=None)
        except ValueError as error:
            raise KeyFileError(
                f"{self.node_key}: is no node key in OpenSSH form; restore it from the vault's backup"
            ) from error
        public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        return public.decode("ascii")


def check_kit(kit: Kit, *, hospital: str, folder: Path, superlink: str | None) -> None:
    """Check that a kit is this hospital's, not older than the one that was taken in before, and of its coordinator.

    Args:
        kit: An opened kit.
        hospital: This hospital.
        folder: The site's folder.
        superlink: The coordinator's address in the site file; None before there is one.

    Raises:
        ConfigError: If it is another hospital's, or older, or names another address than the site file and the last
            kit (a site file may name a way of its own, such as a relay's, to the address that all its kits name).
    """
    manifest = kit.manifest
    if manifest.hospital != hospital:
        raise ConfigError(f"the kit is for {manifest.hospital}, this site is {hospital}; ask the organiser for yours")
    taken = _taken(folder / KIT_FILE)
    if superlink is not None and manifest.superlink not in (superlink, taken.superlink if taken else superlink):
        raise ConfigError(
            f"the kit names the coordinator at {manifest.superlink}, the site file names {superlink}; if the organiser "
            "confirms that it moved, set gateway.superlink in the site file, then approve again"
        )
    if taken is not None and manifest.created < taken.created:
        raise ConfigError(
            f"the kit was made at {manifest.created}, this site already has the one of {taken.created}; "
            "ask the organiser for the newest"
        )


def _taken(path: Path) -> KitManifest | None:
    """The kit that was taken in last."""
    if not path.exists():
        return None
    try:
        return KitManifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ConfigError(f"{path}: is damaged; remove it, and approve the newest kit") from error


def take_in(
    kit: Kit, folder: Path, config: SiteConfig, *, approver: Approver, site_file: tuple[Path, str] | None
) -> None:
    """Approve a kit's plan and write what the site needs to run it.

    The approval is written last: a site that was interrupted before is as it was, or asks for approval.

    Args:
        kit: A kit that was checked and shown.
        folder: The site's folder.
        config: What the site file says, with absolute paths: it names where plan, certificate and approvals lie.
        approver: This hospital.
        site_file: Path and text of a new site file; None keeps the one that is there.

    Raises:
        SiteStorageError: If the disk refuses.
    """
    write_durably(config.plan, kit.plan_text.encode(), mode=0o600)
    write_durably(config.gateway.root_certificates, kit.root_certificates, mode=0o644)
    if site_file is not None:
        path, text = site_file
        write_durably(path, text.encode(), mode=0o644)
    write_durably(folder / KIT_FILE, canonical_bytes(kit.manifest.model_dump(mode="json")), mode=0o600)
    write_approval(config.approvals, kit.plan, hospital=approver.hospital, identity=approver.identity)


def take_plan(text: str, plan: Plan, config: SiteConfig, *, approver: Approver) -> None:
    """Approve an agreed plan that came without a kit, and make it the plan of a site that has a site file.

    Raises:
        SiteStorageError: If the disk refuses.
    """
    write_durably(config.plan, text.encode(), mode=0o600)
    write_approval(config.approvals, plan, hospital=approver.hospital, identity=approver.identity)
