"""A hospital's part of the key ceremony: one deals the epoch's CKKS key, all open it, and all see that it is one key.

The key of a plan and epoch is kept in the vault once enough hospitals have confirmed it; until then it is in memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from client.encrypt import SecretKey
from client.hpke import seal, unseal
from client.vault import BOX, Vault
from common.ckks import PRESETS
from common.errors import CeremonyError, KeyFileError, WrongPlan
from common.identity import Identity
from common.key_messages import (
    Confirmation,
    Confirmations,
    Deal,
    box_purpose,
    check_document,
    dealer_of,
    decode_document,
    encode_document,
    key_digest,
    sign_document,
)
from common.plan import Plan

KEY_PREFIX, DEAL_PREFIX = "ckks/", "deal/ckks/"
"""Of names in the vault; plan digest and epoch follow."""


def epoch_key_name(plan_digest: str, epoch: int) -> str:
    """Name of a CKKS key in the vault."""
    return f"{KEY_PREFIX}{plan_digest}/{epoch}"


def deal_name(plan_digest: str, epoch: int) -> str:
    """Name under which a dealer keeps what it dealt."""
    return f"{DEAL_PREFIX}{plan_digest}/{epoch}"


@dataclass(frozen=True, slots=True)
class _Opened:
    key: SecretKey
    confirmation: Confirmation


class KeyCeremony:
    """Answers the three requests of one epoch's ceremony; the same request gets the same answer."""

    def __init__(  # noqa: PLR0913 -- a hospital, its secrets, and what it asks of the others
        self, plan: Plan, hospital: str, *, epoch: int, vault: Vault, identity: Identity, min_cohort: int
    ) -> None:
        self._plan, self._hospital, self._vault, self._identity = plan, hospital, vault, identity
        self._epoch, self._key_name = epoch, epoch_key_name(plan.digest, epoch)
        self._enough = max(plan.min_cohort, min_cohort)
        self._identities = {h.name: h.identity for h in plan.roster}
        self._dealer = dealer_of(plan.digest, tuple(self._identities), epoch=epoch)
        self._opened: _Opened | None = None

    def key(self) -> SecretKey | None:
        """The confirmed key, or None before the ceremony.

        Raises:
            KeyFileError: If the vault's is for other parameters than the plan's.
        """
        held = self._vault.get(self._key_name)
        return None if held is None else SecretKey.from_bytes(held, PRESETS[self._plan.encryption.preset])

    def deal(self) -> bytes:
        """Make the key, once, and seal it to every hospital.

        Returns:
            The deal; it is in the vault before it leaves, so that it is the same for ever.

        Raises:
            WrongPlan: If another hospital is the dealer.
            SiteStorageError: If the disk refuses.
        """
        if self._hospital != self._dealer:
            raise WrongPlan(f"asked for the key of epoch {self._epoch}; its dealer is {self._dealer}; refuse")
        name = deal_name(self._plan.digest, self._epoch)
        kept = self._vault.get(name)
        if kept is not None:
            return kept
        key = SecretKey.generate(PRESETS[self._plan.encryption.preset]).to_bytes()
        plan, epoch = self._plan.digest, self._epoch
        boxes = {
            h.name: seal(key, to=h.box, info=box_purpose(plan_digest=plan, epoch=epoch, dealer=self._dealer, to=h.name))
            for h in self._plan.roster
        }
        unsigned = Deal(
            plan=plan, epoch=epoch, hospital=self._dealer, boxes={name: box.hex() for name, box in boxes.items()}
        )
        made = encode_document(sign_document(unsigned, self._identity.sign))
        self._vault.put(name, made)
        return made

    def open(self, data: bytes) -> bytes:
        """Open this hospital's box of a deal.

        Args:
            data: The deal, as the coordinator forwarded it.

        Returns:
            This hospital's confirmation.

        Raises:
            CeremonyError: If the box does not open, holds no key, or another key than the confirmed one.
            BadSignature: If the dealer did not sign the deal.
            WrongPlan: If it is a deal of another plan, epoch or dealer.
        """
        deal = decode_document(data, Deal)
        plan, epoch = self._plan.digest, self._epoch
        if (deal.plan, deal.epoch, deal.hospital) != (plan, epoch, self._dealer):
            raise WrongPlan(f"a deal of {deal.hospital} for another plan, epoch or dealer; refuse it")
        check_document(deal, self._identities)
        box = deal.boxes.get(self._hospital)
        if box is None:
            raise CeremonyError(f"{self._dealer} dealt no key to this hospital; stop the run and call each other")
        info = box_purpose(plan_digest=plan, epoch=epoch, dealer=self._dealer, to=self._hospital)
        opened = unseal(bytes.fromhex(box), box_secret=self._vault.require(BOX), info=info)
        confirmed = self.key()
        if confirmed is not None and confirmed.to_bytes() != opened:
            raise CeremonyError(f"{self._dealer} dealt another key than the one in force; stop and call each other")
        try:
            key = SecretKey.from_bytes(opened, PRESETS[self._plan.encryption.preset])
        except KeyFileError as error:
            raise CeremonyError(f"{self._dealer} dealt no key of this plan's parameters; call each other") from error
        unsigned = Confirmation(
            plan=plan,
            epoch=epoch,
            hospital=self._hospital,
            key=key_digest(opened, plan_digest=plan, epoch=epoch),
        )
        self._opened = _Opened(key, sign_document(unsigned, self._identity.sign))
        return encode_document(self._opened.confirmation)

    def confirm(self, data: bytes) -> bytes:
        """Compare the hospitals' confirmations, and keep the key if they hold the same.

        Args:
            data: The confirmations, as the coordinator forwarded them.

        Returns:
            This hospital's own confirmation again.

        Raises:
            CeremonyError: If hospitals opened different keys, or too few have confirmed one; names them.
            BadSignature: If a confirmation was not signed by its hospital.
            WrongPlan: If one is for another plan or epoch.
            SiteStorageError: If the disk refuses.

        Guarantees:
            A key in force is kept whatever others confirm later: one hospital that lies cannot stop those who have it.
        """
        if self._opened is None:
            raise CeremonyError("asked to confirm a key before one was opened here; deal it again")
        own = self._opened.confirmation
        if self.key() is not None:
            # In force: what others say of their key now is for those who have none yet.
            return encode_document(own)
        given = decode_document(data, Confirmations).confirmations
        seen = {confirmation.hospital: confirmation for confirmation in given} | {own.hospital: own}
        for confirmation in given:
            check_document(confirmation, self._identities)
            if (confirmation.plan, confirmation.epoch) != (own.plan, own.epoch):
                raise WrongPlan(f"{confirmation.hospital} confirms a key of another plan or epoch; refuse it")
        others = sorted(name for name, confirmation in seen.items() if confirmation.key != own.key)
        if others:
            raise CeremonyError(
                f"{self._dealer} dealt another CKKS key to {', '.join(others)} than to us; stop the run, "
                "call each other, and agree on a new plan"
            )
        if len(seen) < self._enough:
            raise CeremonyError(
                f"{len(seen)} hospitals have confirmed the key, {self._enough} are needed; wait for the others"
            )
        self._vault.put(self._key_name, self._opened.key.to_bytes())
        return encode_document(own)
