"""A hospital as a member of the roster: who it is, and with which secrets it takes part in masks."""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from common.identity import Identity
from common.plan import Plan


@dataclass(frozen=True, slots=True)
class Member:
    """A hospital's place in the roster of one plan.

    Args:
        plan: The plan.
        hospital: Its name in the roster.
        identity: Signs its messages.
        box: X25519 secret of its box key, 32 bytes.
        least: Fewest contributors that it accepts in a sum; the plan's or its own, whichever is larger.
    """

    plan: Plan
    hospital: str
    identity: Identity
    box: bytes = field(repr=False)
    least: int

    @property
    def position(self) -> int:
        """Its place in the roster, from 0."""
        return self.plan.agreed.position(self.hospital)

    @property
    def identities(self) -> dict[str, str]:
        """Public identity key, hex, of each hospital."""
        return {hospital.name: hospital.identity for hospital in self.plan.roster}

    @property
    def at_rest(self) -> bytes:
        """Key under which the secrets of open rounds lie on the disk, 32 bytes."""
        return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"fedward/at-rest/1").derive(self.box)
