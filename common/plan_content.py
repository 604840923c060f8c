"""What stands in a plan, and what follows from it."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from common.canonical import canonical_bytes, sha256_hex
from common.card import HOSPITAL_NAME
from common.ckks_parameters import PRESETS, SEED_BYTES
from common.config import Settings
from common.errors import PlanError
from common.plan_data import DataSettings, ImageData
from common.plan_models import FrozenBackboneModel, ModelSettings, has_features
from common.plan_settings import (
    CohortSettings,
    EncryptionSettings,
    MetricSettings,
    PrivacySettings,
    TrainingSettings,
)
from common.roster import Federation, Hospital

LARGEST_FULL_BYTES = 64 << 20
RoundKind = Literal["stat", "train", "eval"]


class PlanContent(Settings):
    """What stands in a plan, and what follows from it; `common.plan.Plan` is one that was checked."""

    name: Annotated[str, StringConstraints(pattern=HOSPITAL_NAME)] = Field(
        description="name of the plan; the results folder begins with it"
    )
    data: DataSettings = Field(discriminator="kind")
    model: ModelSettings = Field(discriminator="kind")
    training: TrainingSettings
    privacy: PrivacySettings
    encryption: EncryptionSettings
    cohort: CohortSettings
    metrics: MetricSettings
    federation: Federation | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical form, hex: the plan hash of every message."""
        return sha256_hex(b"fedward/plan/1", canonical_bytes(self.model_dump(mode="json")))

    @property
    def roster(self) -> tuple[Hospital, ...]:
        """The hospitals, in roster order.

        Raises:
            PlanError: If the plan is still a template.
        """
        return self.agreed.hospitals

    @property
    def agreed(self) -> Federation:
        """The federation.

        Raises:
            PlanError: If the plan is still a template.
        """
        if self.federation is None:
            raise PlanError(f"plan '{self.name}' names no hospitals; run `fedward provision` on it first")
        return self.federation

    @property
    def images(self) -> ImageData:
        """The declaration of images.

        Raises:
            PlanError: If the plan's data are no images.
        """
        if not isinstance(self.data, ImageData):
            raise PlanError(f"plan '{self.name}' is on data of kind '{self.data.kind}'; this needs a plan on images")
        return self.data

    @property
    def update_norm_bound(self) -> float:
        """The bound S in parameter units.

        Raises:
            PlanError: If the plan is still a template.
        """
        if self.encryption.update_norm_bound == "auto":
            raise PlanError(f"plan '{self.name}' has no update bound yet; run `fedward provision` on it first")
        return self.encryption.update_norm_bound

    @property
    def threshold(self) -> int:
        """How many hospitals must reveal their shares to unmask a sum: t.

        Raises:
            PlanError: If the plan is still a template.
        """
        return self._number(self.cohort.threshold, "threshold")

    @property
    def min_cohort(self) -> int:
        """Fewest contributors of a round.

        Raises:
            PlanError: If the plan is still a template.
        """
        return self._number(self.cohort.min_cohort, "smallest cohort")

    @property
    def needed(self) -> int:
        """Fewest contributors of a sum that is revealed: max(threshold, min_cohort), of which the second is never less.

        Raises:
            PlanError: If the plan is still a template.
        """
        return max(self.threshold, self.min_cohort)

    def _number(self, value: int | Literal["auto"], what: str) -> int:
        # Numbers of a template were not checked against a roster.
        if self.federation is None or value == "auto":
            raise PlanError(f"plan '{self.name}' has no {what} yet; run `fedward provision` on it first")
        return value

    @property
    def slot_sum_max(self) -> int:
        """Largest sum of |metric slot| over all slots and hospitals, in counts."""
        return sum(self.slot_share(h) for h in self.roster)

    def slot_share(self, hospital: Hospital) -> int:
        """Largest sum of |metric slot| of one hospital: twice its expected held-out units, and room for noise.

        A site whose counts pass it sends none.
        """
        expected_held_out = hospital.declared_units * self.data.held_out / (1 - self.data.held_out)
        return 2 * math.ceil(expected_held_out) + 64 * self.metric_slots if self.metric_slots else 0

    @property
    def upload_values(self) -> int:
        """Integers in one upload: the update, the weight slot, the metric slots."""
        return self.agreed.trainable_parameters + 1 + self.metric_slots

    @property
    def verification(self) -> Literal["full", "sampled"]:
        """How the hospitals recompute each sum; see `EncryptionSettings.verification`.

        Raises:
            PlanError: If the plan is still a template.
        """
        if self.encryption.verification != "auto":
            return self.encryption.verification
        parameters = PRESETS[self.encryption.preset]
        upload = -(-self.upload_values // parameters.values_per_chunk) * (parameters.chunk_bytes + SEED_BYTES)
        return "full" if len(self.roster) * upload <= LARGEST_FULL_BYTES else "sampled"

    @property
    def verifiers(self) -> int:
        """How many hospitals recompute each chunk of a sum where verification is sampled: c + 1.

        Of so many at least one is honest, so no alteration of a chunk passes them all.
        """
        return self.cohort.assumed_colluders + 1

    @property
    def last_round(self) -> int:
        """Number of the last round that has an aggregate: a closing `eval` round, where one is due."""
        return self.last_training_round + (1 if self.metric_slots else 0)

    @property
    def stat_rounds(self) -> int:
        """How many rounds before the first training round take statistics of the features: 1 or 0."""
        return 1 if self.privacy.mean_share else 0

    @property
    def statistics(self) -> int:
        """Length of the mean that the round of statistics tells; 0 without such a round."""
        if not self.stat_rounds:
            return 0
        if isinstance(self.model, FrozenBackboneModel):
            return self.model.projection
        # A head has one number for each class and feature.
        return self.agreed.trainable_parameters // len(self.data.classes) if has_features(self.model) else 0

    @property
    def last_training_round(self) -> int:
        """Number of the last training round; the round of statistics, if there is one, has number 1."""
        return self.stat_rounds + self.training.rounds

    def kind_of(self, round_number: int) -> RoundKind:
        """What is asked for in a round: `stat` first, if the plan has it, then `train`, and `eval` to close."""
        if round_number <= self.stat_rounds:
            return "stat"
        return "train" if round_number <= self.last_training_round else "eval"

    @property
    def first_round(self) -> int:
        """Number of the first round of a run: 1, or the one behind the run that it continues."""
        continues = self.federation.continues if self.federation else None
        return continues.round + 1 if continues else 1

    def least_epoch(self, round_number: int) -> int:
        """Least number of the CKKS key that may serve a round; for round 0, the `hello`, that of the first round.

        A run may be ahead of it, never behind: keys are also renewed on demand.
        """
        behind = max(0, round_number - self.first_round)
        return self.agreed.epoch + behind // self.encryption.epoch_rounds

    @property
    def last_epoch(self) -> int:
        """Largest key number that hospitals take: a new key each round, and as many again whose dealers were away."""
        return self.agreed.epoch + 2 * self.last_round

    @property
    def held_out_rule(self) -> str:
        """Digest of all that decides whether a unit is held out, hex."""
        data = self.data
        rule = {"salt": data.held_out_salt, "fraction": data.held_out, "unit": self.privacy.unit}
        return sha256_hex(b"fedward/held-out/1", canonical_bytes(rule))

    def budget(self, hospital: Hospital) -> tuple[float, float]:
        """Epsilon and delta that the plan gives to one hospital."""
        return hospital.epsilon or self.privacy.epsilon, hospital.delta or self.privacy.delta

    @property
    def metric_slots(self) -> int:
        """Integer slots behind the weight slot: one per cell of the confusion matrix, or none."""
        return len(self.data.classes) ** 2 if self.metrics.released == "confusion" else 0
