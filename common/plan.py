"""The plan: what all hospitals agree to before a round runs; its digest is in every signed message."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from common.canonical import canonical_bytes, sha256_hex
from common.config import Settings
from common.errors import PlanError

HOSPITAL_NAME = r"^[a-z0-9][a-z0-9-]{0,62}$"
HospitalName = Annotated[str, StringConstraints(pattern=HOSPITAL_NAME)]
PublicKeyHex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Positive = Annotated[float, Field(gt=0)]


class DataSettings(Settings):
    """What the hospitals' data is."""

    kind: Literal["image-folder"] = Field(description="image-folder: one folder of images per class")
    classes: tuple[Annotated[str, StringConstraints(min_length=1, max_length=100)], ...] = Field(
        min_length=2, max_length=1000, description="class names in the order of the model's outputs"
    )
    held_out: float = Field(ge=0, lt=0.9, description="share of units kept out of training, chosen by HMAC of the unit")
    held_out_salt: str = Field(min_length=1, max_length=100, description="key of that HMAC; public")
    unreadable_images: Literal["skip", "refuse"] = Field(description="what a site does with an image it cannot decode")

    @model_validator(mode="after")
    def _distinct_classes(self) -> Self:
        if len(set(self.classes)) < len(self.classes):
            twice = next(name for name in self.classes if self.classes.count(name) > 1)
            raise PlanError(f"classes: seen '{twice}' twice; every class stands once; remove one")
        return self


class FrozenBackboneModel(Settings):
    """EfficientNet-Lite0 with ImageNet weights, frozen; a linear head is trained."""

    kind: Literal["lite0-head"] = Field(description="frozen EfficientNet-Lite0, a linear head is trained")
    image_size: int = Field(ge=64, le=320, description="side of the square input in pixels")
    views: int = Field(ge=1, le=8, description="dihedral views averaged per image")
    projection: int = Field(ge=8, le=1280, description="features after the public random projection")
    seed: int = Field(ge=0, lt=2**32, description="seed of the projection; public")


class SmallCnnModel(Settings):
    """A small convolutional network with GroupNorm, trained whole."""

    kind: Literal["groupnorm-cnn"] = Field(description="four convolution blocks with GroupNorm, trained whole")
    image_size: int = Field(ge=16, le=128, description="side of the square input in pixels")
    width: int = Field(ge=4, le=64, description="channels of the first block; a multiple of 4")
    seed: int = Field(ge=0, lt=2**32, description="seed of the initial weights; public")


class FullSampling(Settings):
    """Every unit in every step."""

    kind: Literal["full"] = Field(description="every unit in every step")


class PoissonSampling(Settings):
    """Each unit in a step with probability `rate`, independently."""

    kind: Literal["poisson"] = Field(description="each unit with probability `rate`, independently")
    rate: float = Field(gt=0, lt=1, description="probability that a unit takes part in a step")


class FedAvg(Settings):
    """The model moves by the weighted mean of the updates."""

    kind: Literal["fedavg"] = Field(description="the model moves by the weighted mean of the updates")


class FedAvgM(Settings):
    """FedAvg with momentum over rounds, applied by each hospital after decryption."""

    kind: Literal["fedavgm"] = Field(description="the same with momentum over rounds")
    momentum: float = Field(ge=0, lt=1, description="share of the last round's movement that goes on")
    learning_rate: Positive = Field(description="factor on each round's movement; 1 takes it whole")


class TrainingSettings(Settings):
    """How each hospital trains between two aggregations."""

    rounds: int = Field(ge=1, le=10_000, description="training rounds; a closing round that only counts comes on top")
    local_steps: int = Field(ge=1, le=10_000, description="DP-SGD steps per round at each hospital")
    sampling: FullSampling | PoissonSampling = Field(discriminator="kind")
    learning_rate: Positive = Field(description="step size on the mean clipped gradient")
    momentum: float = Field(ge=0, lt=1, description="of the local steps; starts from zero each round")
    server_optimiser: FedAvg | FedAvgM = Field(discriminator="kind")

    @property
    def sample_rate(self) -> float:
        """Probability q that a unit takes part in a step."""
        return self.sampling.rate if isinstance(self.sampling, PoissonSampling) else 1.0


class PrivacySettings(Settings):
    """Differential privacy of a unit; a hospital's own file may only be stricter."""

    mode: Literal["local"] = Field(description="local: each hospital adds the full noise for its own epsilon")
    unit: Literal["patient", "record"] = Field(description="patient: all images of a lesion or patient count as one")
    epsilon: float = Field(gt=0, le=1000, description="budget of one unit for the whole run")
    delta: float = Field(
        gt=0, lt=1, description="probability by which the bound may fail; below 1/n for each hospital's n units"
    )
    clip: Positive = Field(description="L2 bound C on one unit's gradient")


class EncryptionSettings(Settings):
    """CKKS parameters and the public bound that the headroom is planned with."""

    preset: Literal["compact", "precise"] = Field(
        description="compact: about 3.7 bytes per parameter; precise: about 6.8, on a far finer grid"
    )
    update_norm_bound: Positive | Literal["auto"] = Field(
        description="L2 bound S on a hospital's update; longer ones are scaled down; auto: `fedward provision` sets it"
    )


class CohortSettings(Settings):
    """How many hospitals a round needs."""

    min_cohort: int = Field(ge=3, le=1000, description="fewest contributors of a round")
    round_timeout_s: float = Field(gt=0, le=86_400, description="a hospital that has not answered by then sits out")
    attempts: int = Field(ge=1, le=100, description="how often a round is asked for before the run stops")


class MetricSettings(Settings):
    """What is counted on held-out units; travels encrypted only."""

    released: Literal["none", "confusion"] = Field(
        description="confusion: counts by true and predicted class, as a site's own policy allows; none: no counts"
    )


class Hospital(Settings):
    """One row of the roster."""

    name: HospitalName = Field(description="the hospital's name in messages, tables and logs")
    identity: PublicKeyHex = Field(description="Ed25519 public key, hex")
    declared_units: int = Field(ge=1, le=10**9, description="training units that the hospital declares; its weight")
    epsilon: float | None = Field(default=None, gt=0, description="this hospital's budget where it differs")
    delta: float | None = Field(default=None, gt=0, lt=1, description="this hospital's delta where it differs")


class Federation(Settings):
    """Who takes part; written by `fedward provision`."""

    coordinator: PublicKeyHex = Field(description="Ed25519 public key that signs requests, hex")
    epoch: int = Field(ge=1, description="number of the CKKS key that is in force")
    trainable_parameters: int = Field(ge=1, le=10**9, description="length of an update, without slots")
    hospitals: tuple[Hospital, ...] = Field(
        min_length=3, max_length=1000, description="the roster; its order is the order of transcripts and seeds"
    )

    @model_validator(mode="after")
    def _unique(self) -> Self:
        names = [h.name for h in self.hospitals]
        keys = [h.identity for h in self.hospitals]
        if len(set(names)) < len(names) or len(set(keys)) < len(keys):
            raise PlanError("two hospitals share a name or an identity key; each needs its own")
        return self

    def position(self, name: str) -> int:
        """Index of a hospital in the roster; raises KeyError for a stranger."""
        for index, hospital in enumerate(self.hospitals):
            if hospital.name == name:
                return index
        raise KeyError(name)


class Plan(Settings):
    """All that the hospitals agree to. Without `federation` it is a template that `fedward provision` fills."""

    name: Annotated[str, StringConstraints(pattern=HOSPITAL_NAME)] = Field(
        description="name of the plan; the results folder begins with it"
    )
    data: DataSettings
    model: FrozenBackboneModel | SmallCnnModel = Field(discriminator="kind")
    training: TrainingSettings
    privacy: PrivacySettings
    encryption: EncryptionSettings
    cohort: CohortSettings
    metrics: MetricSettings
    federation: Federation | None = None

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if isinstance(self.model, SmallCnnModel) and self.model.width % 4:
            raise PlanError(
                f"model.width: seen {self.model.width}; a multiple of 4 is allowed (GroupNorm has 4 groups)"
            )
        for hospital in self.federation.hospitals if self.federation else ():
            _, delta = self.budget(hospital)
            if delta >= 1 / hospital.declared_units:
                raise PlanError(
                    f"privacy.delta: seen {delta:g} for {hospital.name} with {hospital.declared_units} units; "
                    f"less than 1/n = {1 / hospital.declared_units:.3g} is allowed; lower delta"
                )
        if self.federation and self.encryption.update_norm_bound == "auto":
            raise PlanError(
                "encryption.update_norm_bound: seen 'auto' beside a roster; `fedward provision` sets a number"
            )
        if self.federation and self.cohort.min_cohort > len(self.federation.hospitals):
            raise PlanError(
                f"cohort.min_cohort: seen {self.cohort.min_cohort} with {len(self.federation.hospitals)} hospitals; "
                "at most as many as hospitals is allowed"
            )
        return self

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
    def update_norm_bound(self) -> float:
        """The bound S in parameter units.

        Raises:
            PlanError: If the plan is still a template.
        """
        if self.encryption.update_norm_bound == "auto":
            raise PlanError(f"plan '{self.name}' has no update bound yet; run `fedward provision` on it first")
        return self.encryption.update_norm_bound

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
    def last_round(self) -> int:
        """Number of the last round that has an aggregate: R, or R + 1 where a closing `eval` round is due."""
        return self.training.rounds + (1 if self.metric_slots else 0)

    def budget(self, hospital: Hospital) -> tuple[float, float]:
        """Epsilon and delta that the plan gives to one hospital."""
        return hospital.epsilon or self.privacy.epsilon, hospital.delta or self.privacy.delta

    @property
    def metric_slots(self) -> int:
        """Integer slots behind the weight slot: one per cell of the confusion matrix, or none."""
        return len(self.data.classes) ** 2 if self.metrics.released == "confusion" else 0
