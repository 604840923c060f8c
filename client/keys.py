"""A site's keys: its identity, and the CKKS key of each epoch once its ceremony has brought it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from client.encrypt import SecretKey
from client.key_ceremony import DEAL_PREFIX, KEY_PREFIX, KeyCeremony
from client.member import Member
from client.refused import RefusedAggregates
from client.vault import BOX, IDENTITY, Vault
from common.errors import KeyFileError, KeyMissing, WrongPlan
from common.identity import Identity
from common.plan import Plan
from common.site_config import SiteConfig


@dataclass(frozen=True, slots=True)
class EpochKey:
    """The CKKS key of one epoch, and what hangs on it.

    Args:
        ckks: Decrypts sums, encrypts updates.
        tag: Key of the state tags, 32 bytes.
        refused: The aggregates that it has refused.
    """

    ckks: SecretKey
    tag: bytes
    refused: RefusedAggregates


class Keys:
    """The secrets of a site under one plan."""

    def __init__(self, vault: Vault, plan: Plan, *, hospital: str, state: Path, min_cohort: int) -> None:
        """Take identity and epoch keys from an open vault.

        Raises:
            KeyFileError: If the vault has no identity or box key, or another identity than the roster.
        """
        self.identity = Identity.from_seed(vault.require(IDENTITY))
        row = plan.roster[plan.agreed.position(hospital)]
        if row.identity != self.identity.public_hex:
            raise KeyFileError(
                f"the vault holds another identity than the roster's row of {hospital}; name this site's own vault, or "
                "ask the organiser for a plan with this site's card"
            )
        self.member = Member(plan, hospital, self.identity, vault.require(BOX), max(plan.min_cohort, min_cohort))
        self._vault, self._plan, self._state, self._min_cohort = vault, plan, state, min_cohort
        self._ceremonies: dict[int, KeyCeremony] = {}
        self._epochs: dict[int, EpochKey] = {}

    def epoch(self, number: int) -> EpochKey:
        """The key of an epoch.

        Raises:
            KeyMissing: Before its ceremony.
            KeyFileError: If the vault's is for other parameters than the plan's.
            WrongPlan: If the plan never gets that far.
        """
        if number not in self._epochs:
            ckks = self.ceremony(number).key()
            if ckks is None:
                raise KeyMissing(
                    f"the CKKS key of epoch {number} of plan '{self._plan.name}' has not been dealt to this site yet; "
                    "the coordinator holds the key ceremony by itself"
                )
            name = ckks.derive(b"fedward/key-name/1").hex()
            self._epochs[number] = EpochKey(
                ckks, ckks.derive(b"fedward/state-tag/1"), RefusedAggregates(self._state, key_name=name)
            )
        return self._epochs[number]

    def ceremony(self, number: int) -> KeyCeremony:
        """This site's part of an epoch's ceremony.

        Raises:
            WrongPlan: If the plan never gets that far.
        """
        first, last = self._plan.agreed.epoch, self._plan.last_epoch
        if not first <= number <= last:
            raise WrongPlan(f"seen key epoch {number}; the plan has {first} to {last}; refuse it")
        if number not in self._ceremonies:
            self._ceremonies[number] = KeyCeremony(
                self._plan,
                self.member.hospital,
                epoch=number,
                vault=self._vault,
                identity=self.identity,
                min_cohort=self._min_cohort,
            )
        return self._ceremonies[number]

    def held(self) -> tuple[int, ...]:
        """Numbers of this plan's epochs whose keys are in the vault, in order."""
        prefix = f"{KEY_PREFIX}{self._plan.digest}/"
        return tuple(sorted(int(name.removeprefix(prefix)) for name in self._vault.names() if name.startswith(prefix)))

    def keep_only(self, plans: Collection[str]) -> None:
        """Remove the CKKS keys of all plans but this one and those named; a removed one can be dealt again.

        Args:
            plans: Digests of plans.

        Raises:
            SiteStorageError: If the disk refuses.
        """
        kept = {*plans, self._plan.digest}
        names = [name for name in self._vault.names() if name.startswith((KEY_PREFIX, DEAL_PREFIX))]
        self._vault.remove([name for name in names if name.rsplit("/", 2)[1] not in kept])


def open_keys(config: SiteConfig, vault: Vault, plan: Plan) -> Keys:
    """The keys of a site under its plan.

    Raises:
        KeyFileError: See `Keys`.
    """
    return Keys(vault, plan, hospital=config.hospital, state=config.state, min_cohort=config.privacy.min_cohort)
