"""A site's keys: its identity, and the epoch's CKKS key once the ceremony has brought it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from client.encrypt import SecretKey
from client.key_ceremony import KeyCeremony
from client.member import Member
from client.refused import RefusedAggregates
from client.vault import BOX, IDENTITY, Vault
from common.errors import KeyFileError, KeyMissing
from common.identity import Identity
from common.plan import Plan
from common.site_config import SiteConfig


@dataclass(frozen=True, slots=True)
class EpochKey:
    """The CKKS key in force, and what hangs on it.

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
        """Take identity and epoch key from an open vault.

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
        self.ceremony = KeyCeremony(plan, hospital, vault=vault, identity=self.identity, min_cohort=min_cohort)
        self._plan, self._state = plan, state
        self._epoch: EpochKey | None = None

    def epoch(self) -> EpochKey:
        """The key in force.

        Raises:
            KeyMissing: Before the ceremony.
            KeyFileError: If the vault's is for other parameters than the plan's.
        """
        if self._epoch is None:
            ckks = self.ceremony.key()
            if ckks is None:
                raise KeyMissing(
                    f"the CKKS key of plan '{self._plan.name}' has not been dealt to this site yet; the coordinator "
                    "holds the key ceremony when the run starts"
                )
            name = ckks.derive(b"fedward/key-name/1").hex()
            self._epoch = EpochKey(
                ckks, ckks.derive(b"fedward/state-tag/1"), RefusedAggregates(self._state, key_name=name)
            )
        return self._epoch


def open_keys(config: SiteConfig, vault: Vault, plan: Plan) -> Keys:
    """The keys of a site under its plan.

    Raises:
        KeyFileError: See `Keys`.
    """
    return Keys(vault, plan, hospital=config.hospital, state=config.state, min_cohort=config.privacy.min_cohort)
