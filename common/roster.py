"""Who takes part in a plan: the roster, the coordinator's key, and the run that it goes on from."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from common.card import Card, PublicKeyHex
from common.config import Settings
from common.errors import PlanError
from common.plan_bounds import FEWEST_HOSPITALS, check_hospitals
from common.plan_settings import MOST_EPSILON
from common.shamir import MOST_PARTIES
from common.wire import Hex32, Hex64


class Hospital(Card):
    """One row of the roster: the hospital's own card, and its budget where it differs."""

    epsilon: float | None = Field(
        default=None, gt=0, le=MOST_EPSILON, description="this hospital's budget where it differs"
    )
    delta: float | None = Field(default=None, gt=0, lt=1, description="this hospital's delta where it differs")


class Continued(Settings):
    """Where a plan takes up the model of an earlier run, after hospitals have left or joined."""

    plan: Hex64 = Field(description="digest of the plan of that run")
    run: Hex32 = Field(description="that run's id")
    round: int = Field(ge=1, le=10_000, description="its last round that counts; this plan's first round is the next")


class Federation(Settings):
    """Who takes part; written by `fedward provision`."""

    coordinator: PublicKeyHex = Field(description="Ed25519 public key that signs requests, hex")
    epoch: int = Field(ge=1, description="number of the CKKS key that the first round is under")
    trainable_parameters: int = Field(ge=1, le=10**9, description="length of an update, without slots")
    continues: Continued | None = Field(
        default=None, description="the run whose model this plan trains on; written by `fedward revoke` and `join`"
    )
    hospitals: tuple[Hospital, ...] = Field(
        max_length=MOST_PARTIES,
        description="the roster; its order is the order of transcripts and seeds",
        json_schema_extra={"minItems": FEWEST_HOSPITALS},
    )

    @model_validator(mode="after")
    def _unique(self) -> Self:
        check_hospitals(len(self.hospitals))
        names = [h.name for h in self.hospitals]
        keys = [h.identity for h in self.hospitals]
        if len(set(names)) < len(names) or len(set(keys)) < len(keys):
            raise PlanError("two hospitals share a name or an identity key; each needs its own")
        if len({h.node for h in self.hospitals}) < len(keys) or len({h.box for h in self.hospitals}) < len(keys):
            raise PlanError("two hospitals share a node key or a box key; each makes its own with keygen")
        for hospital in self.hospitals:
            hospital.check()
        return self

    def position(self, name: str) -> int:
        """Index of a hospital in the roster; raises KeyError for a stranger."""
        for index, hospital in enumerate(self.hospitals):
            if hospital.name == name:
                return index
        raise KeyError(name)
