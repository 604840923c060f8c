"""What the organiser of a federation makes: plan, TLS authority, coordinator's files, a start-up kit per hospital.

It takes the hospitals' cards, which are public, and sees no private key but the coordinator's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from client.keygen import read_card
from common.card import Card
from common.config import parse_settings
from common.errors import ConfigError, OperatorError
from common.identity import Identity
from common.kit import write_kit
from common.node_key import write_superexec_secret
from common.plan import Plan
from common.server_config import ServerConfig
from scripts.agree import agree
from scripts.certificates import write_tls

CERTIFICATE_DAYS = 825
COORDINATOR, KITS, PLAN = "coordinator", "kits", "plan.yaml"


@dataclass(frozen=True, slots=True)
class CoordinatorOptions:
    """What the organiser chooses beside the plan.

    Args:
        fleet_address: host:port of the coordinator, as the hospitals reach it.
        runtime_port: Loopback port of Flower's own API.
        patience_s: See `common.server_config.ServerConfig.patience_s`; None leaves its default.
    """

    fleet_address: str
    runtime_port: int = 9091
    patience_s: float | None = None


def organise(template: Plan, cards: Sequence[Card], folder: Path, *, options: CoordinatorOptions) -> Plan:
    """Write plan.yaml, coordinator/ and kits/ into an existing folder.

    Args:
        template: A plan without `federation`.
        cards: The hospitals' cards, in roster order.
        folder: Where to write.
        options: See `CoordinatorOptions`.

    Returns:
        The agreed plan.

    Raises:
        PlanError: If the plan is unsound for these hospitals.
        ConfigError: If a card was not signed by its hospital.
    """
    identity = Identity.generate()
    plan = agree(template, cards, identity)
    _write_coordinator(folder / COORDINATOR, cards, identity, options=options)
    authority = (folder / COORDINATOR / "ca.crt").read_bytes()
    write_kits(plan, folder, superlink=options.fleet_address, root_certificates=authority, sign=identity.sign)
    return plan


def write_kits(
    plan: Plan, folder: Path, *, superlink: str, root_certificates: bytes, sign: Callable[[bytes], bytes]
) -> None:
    """Write an agreed plan and a start-up kit for each of its hospitals.

    Args:
        plan: The plan.
        folder: An existing folder; gets plan.yaml and kits/.
        superlink: host:port of the coordinator.
        root_certificates: Its authority, PEM.
        sign: Signs with its identity key.
    """
    text = f"# Agreed plan. digest: {plan.digest}\n" + yaml.safe_dump(plan.model_dump(mode="json"), sort_keys=False)
    (folder / PLAN).write_text(text, encoding="utf-8")
    (folder / KITS).mkdir()
    for hospital in plan.roster:
        write_kit(
            kit_path(folder, hospital.name),
            hospital=hospital.name,
            superlink=superlink,
            plan_text=text,
            root_certificates=root_certificates,
            sign=sign,
        )


def kit_path(folder: Path, hospital: str) -> Path:
    """Where a hospital's kit lies in an organiser's folder."""
    return folder / KITS / f"{hospital}.kit.zip"


def read_cards(folder: Path) -> tuple[Card, ...]:
    """The hospitals' cards, ordered by name and number.

    Raises:
        OperatorError: If the folder holds none.
        ConfigError: If a file is no card, was not signed by its hospital, or two are of one hospital.
    """
    paths = sorted(folder.glob("*.card.yaml"), key=lambda path: (len(path.name), path.name))
    if not paths:
        raise OperatorError(f"{folder}: holds no NAME.card.yaml; collect the cards that the hospitals' keygen wrote")
    by_name: dict[str, Path] = {}
    by_identity: dict[str, Path] = {}
    cards = []
    for path in paths:
        card = read_card(path)
        for known, key in ((by_name, card.name), (by_identity, card.identity)):
            if key in known:
                what = "name" if known is by_name else "identity"
                raise ConfigError(f"{path} and {known[key]} have one {what}; each hospital makes its own with keygen")
            known[key] = path
        cards.append(card)
    return tuple(cards)


def _write_coordinator(folder: Path, cards: Sequence[Card], identity: Identity, *, options: CoordinatorOptions) -> None:
    (folder / "nodes").mkdir(parents=True)
    for card in cards:
        (folder / "nodes" / f"{card.name}.pub").write_text(f"{card.node}\n", encoding="ascii")
    tls = write_tls(folder, [options.fleet_address.rsplit(":", 1)[0]], valid_days=CERTIFICATE_DAYS)
    identity.save(folder / "identity.key")
    write_superexec_secret(folder / "superexec.secret")
    content: dict[str, Any] = {
        "fleet_address": options.fleet_address,
        "runtime_port": options.runtime_port,
        "certificate": tls.certificate.name,
        "certificate_key": tls.certificate_key.name,
        "root_certificates": tls.root_certificates.name,
        "superexec_secret": "superexec.secret",
        "identity_key": "identity.key",
        "folder": "work",
        **({} if options.patience_s is None else {"patience_s": options.patience_s}),
        "nodes": [{"name": card.name, "public_key": f"nodes/{card.name}.pub"} for card in cards],
    }
    parse_settings(yaml.safe_dump(content), ServerConfig, source="server.yaml")
    (folder / "server.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
