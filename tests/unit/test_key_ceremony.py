"""The key ceremony in one process: honest, with a cheating dealer, and with a cheating coordinator."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.encrypt import SecretKey
from client.hpke import box_public_hex, seal, unseal
from client.key_ceremony import KeyCeremony, epoch_key_name
from client.vault import BOX, Vault
from client.vault_lock import Unlock
from common.ckks import PRESETS
from common.config import load_settings
from common.errors import AlreadyExists, BadSignature, CeremonyError, ConfigError, MalformedMessage, WrongPlan
from common.identity import Identity
from common.key_messages import (
    MAX_DOCUMENT_BYTES,
    Confirmation,
    Confirmations,
    Deal,
    box_purpose,
    dealer_of,
    decode_document,
    encode_document,
    sign_document,
)
from common.plan import Plan
from tests.support.site_keys import site_identity, site_vault
from tests.support.small_federation import NAMES


class Table:
    """Four hospitals around a table, each with a copy of its vault that holds no CKKS key yet."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.plan = plan
        self.identities = {name: site_identity(folder / "federation" / name) for name in NAMES}
        self.vaults, self.ceremonies = {}, {}
        for name in NAMES:
            box = site_vault(folder / "federation" / name).require(BOX)
            path = folder / f"{name}.vault"
            self.vaults[name] = Vault.create(path, hospital=name, unlock=Unlock("key-file", bytes(32)), held={BOX: box})
            self.ceremonies[name] = KeyCeremony(
                plan, name, epoch=1, vault=self.vaults[name], identity=self.identities[name], min_cohort=3
            )
        self.dealer = dealer_of(plan.digest, NAMES, epoch=1)
        self.others = tuple(name for name in NAMES if name != self.dealer)

    def deal(self) -> bytes:
        """What the dealer deals."""
        return self.ceremonies[self.dealer].deal()

    def deal_of(self, keys: dict[str, bytes]) -> bytes:
        """A deal that a cheating dealer signs: for each hospital the key that it likes."""
        plan, epoch = self.plan.digest, self.plan.agreed.epoch
        boxes = {
            member.name: seal(
                keys[member.name],
                to=member.box,
                info=box_purpose(plan_digest=plan, epoch=epoch, dealer=self.dealer, to=member.name),
            ).hex()
            for member in self.plan.roster
        }
        return self.signed(Deal(plan=plan, epoch=epoch, hospital=self.dealer, boxes=boxes))

    def signed(self, deal: Deal) -> bytes:
        """Under the dealer's key."""
        return encode_document(sign_document(deal, self.identities[self.dealer].sign))

    def open(self, deal: bytes, *names: str) -> dict[str, Confirmation]:
        """The hospitals' confirmations of a deal."""
        return {name: decode_document(self.ceremonies[name].open(deal), Confirmation) for name in names or NAMES}

    def confirm(self, name: str, confirmations: dict[str, Confirmation]) -> None:
        """Show one hospital these confirmations."""
        together = Confirmations(confirmations=tuple(confirmations.values()))
        self.ceremonies[name].confirm(encode_document(together))

    def held(self, name: str) -> bytes | None:
        """The key in a hospital's vault."""
        return self.vaults[name].get(epoch_key_name(self.plan.digest, 1))


@pytest.fixture
def table(base: Path, tmp_path: Path) -> Table:
    """A new ceremony."""
    (tmp_path / "federation").symlink_to(base / "federation")
    return Table(tmp_path, load_settings(base / "federation" / "plan.yaml", Plan))


def a_key(plan: Plan) -> bytes:
    """A fresh CKKS key."""
    return SecretKey.generate(PRESETS[plan.encryption.preset]).to_bytes()


def test_an_honest_ceremony_ends_with_one_key_in_all_vaults(table: Table) -> None:
    """And none before a hospital has seen that enough others hold it."""
    confirmations = table.open(table.deal())
    assert all(table.held(name) is None for name in NAMES)
    for name in NAMES:
        table.confirm(name, confirmations)
    keys = {table.held(name) for name in NAMES}
    assert len(keys) == 1
    assert None not in keys


def test_the_same_requests_again_change_nothing(table: Table) -> None:
    """A coordinator that was restarted asks again."""
    deal = table.deal()
    confirmations = table.open(deal)
    for name in NAMES:
        table.confirm(name, confirmations)
    held = table.held(NAMES[0])
    assert table.deal() == deal
    assert table.open(deal) == confirmations
    table.confirm(NAMES[0], confirmations)
    assert table.held(NAMES[0]) == held


def test_a_dealer_that_deals_two_keys_is_caught_by_all_that_it_cheats(table: Table) -> None:
    """Each side names the others; the control is the honest ceremony."""
    one, other = a_key(table.plan), a_key(table.plan)
    victims = table.others[:2]
    deal = table.deal_of({name: other if name in victims else one for name in NAMES})
    confirmations = table.open(deal)
    for name in NAMES:
        different = sorted(n for n in NAMES if (n in victims) != (name in victims))
        with pytest.raises(CeremonyError, match=f"another CKKS key to {', '.join(different)} than to us"):
            table.confirm(name, confirmations)
        assert table.held(name) is None


def test_a_coordinator_that_hides_the_others_brings_no_key_into_force(table: Table) -> None:
    """Two deals and each side sees its own confirmations only: too few for either."""
    one, other = a_key(table.plan), a_key(table.plan)
    victims = NAMES[:2]
    confirmations = table.open(table.deal_of({name: other if name in victims else one for name in NAMES}))
    for name in NAMES:
        shown = {n: c for n, c in confirmations.items() if (n in victims) == (name in victims)}
        with pytest.raises(CeremonyError, match="2 hospitals have confirmed the key, 3 are needed"):
            table.confirm(name, shown)


def test_a_confirmation_that_the_coordinator_made_up_is_refused(table: Table) -> None:
    """It has no hospital's key."""
    confirmations = table.open(table.deal())
    forged = confirmations[NAMES[1]].model_copy(update={"key": "0" * 64})
    with pytest.raises(BadSignature):
        table.confirm(NAMES[0], confirmations | {NAMES[1]: forged})
    stranger = sign_document(forged.model_copy(update={"hospital": "stranger"}), Identity.generate().sign)
    with pytest.raises(BadSignature, match="not in the roster"):
        table.confirm(NAMES[0], confirmations | {"stranger": stranger})


def test_a_deal_that_the_dealer_did_not_sign_is_refused(table: Table) -> None:
    """The coordinator could seal a key of its own to everybody: box keys are public."""
    key = a_key(table.plan)
    deal = decode_document(table.deal_of(dict.fromkeys(NAMES, key)), Deal)
    forged = encode_document(sign_document(deal, Identity.generate().sign))
    with pytest.raises(BadSignature):
        table.open(forged, NAMES[0])
    by_another = sign_document(deal.model_copy(update={"hospital": table.others[0]}), Identity.generate().sign)
    with pytest.raises(WrongPlan, match="for another plan, epoch or dealer"):
        table.open(encode_document(by_another), NAMES[0])


def test_a_box_for_another_hospital_epoch_or_purpose_does_not_open(table: Table) -> None:
    """The control is the honest box, which does."""
    deal = decode_document(table.deal(), Deal)
    first, second = NAMES[:2]
    swapped = deal.model_copy(update={"boxes": deal.boxes | {first: deal.boxes[second]}})
    with pytest.raises(CeremonyError, match="does not open"):
        table.open(table.signed(swapped), first)
    missing = deal.model_copy(update={"boxes": {n: b for n, b in deal.boxes.items() if n != first}})
    with pytest.raises(CeremonyError, match="dealt no key to this hospital"):
        table.open(table.signed(missing), first)
    assert table.open(table.signed(deal), first)
    other_epoch = deal.model_copy(update={"epoch": 2})
    with pytest.raises(WrongPlan):
        table.open(table.signed(other_epoch), first)


def test_what_is_dealt_must_be_a_key_of_the_plan(table: Table) -> None:
    """Not just any bytes of that length."""
    with pytest.raises(CeremonyError, match="no key of this plan's parameters"):
        table.open(table.deal_of(dict.fromkeys(NAMES, bytes(500))), NAMES[0])


def test_only_the_dealer_deals(table: Table) -> None:
    """A coordinator cannot choose who makes the key."""
    with pytest.raises(WrongPlan, match=f"its dealer is {table.dealer}"):
        table.ceremonies[table.others[0]].deal()


def test_a_key_in_force_is_never_replaced(table: Table) -> None:
    """Neither by a second deal of the dealer nor by a second ceremony."""
    confirmations = table.open(table.deal())
    for name in NAMES:
        table.confirm(name, confirmations)
    again = table.deal_of(dict.fromkeys(NAMES, a_key(table.plan)))
    with pytest.raises(CeremonyError, match="another key than the one in force"):
        table.open(again, NAMES[0])
    with pytest.raises(AlreadyExists):
        table.vaults[NAMES[0]].put(epoch_key_name(table.plan.digest, 1), a_key(table.plan))


def test_confirming_before_opening_is_refused(table: Table) -> None:
    """Out of order."""
    with pytest.raises(CeremonyError, match="before one was opened"):
        table.confirm(NAMES[0], {})


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"null", b"[" * 100_000, b'{"kind":"deal"}', bytes(MAX_DOCUMENT_BYTES + 1)]
)
def test_hostile_documents_are_refused(table: Table, data: bytes) -> None:
    """Whatever the coordinator sends."""
    with pytest.raises(MalformedMessage):
        table.ceremonies[NAMES[0]].open(data)


def test_the_dealer_changes_with_the_plan() -> None:
    """Nobody can be sure to deal: over many plans each hospital's share is fair."""
    dealers = [dealer_of(f"{k:064x}", NAMES, epoch=1) for k in range(400)]
    assert all(70 < dealers.count(name) < 130 for name in NAMES)
    assert dealer_of("0" * 64, NAMES, epoch=1) == dealer_of("0" * 64, NAMES[::-1], epoch=1)


def test_a_box_key_that_is_none_is_refused() -> None:
    """The all-zero point gives a secret that everybody knows."""
    with pytest.raises(ConfigError, match="is no X25519 key"):
        seal(b"secret", to="00" * 32, info=b"x")
    own = bytes(range(32))
    assert unseal(seal(b"secret", to=box_public_hex(own), info=b"x"), box_secret=own, info=b"x") == b"secret"
