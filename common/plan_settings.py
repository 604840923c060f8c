"""The sections of a plan: training, privacy, encryption, cohort, metrics."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field

from common.config import Settings
from common.errors import PlanError
from common.plan_bounds import check_bounds, check_hospitals, default_threshold
from common.shamir import MOST_PARTIES

# The accountant counts so much in both modes, and what one share of the noise leaves alone.
MOST_EPSILON = 1000
Positive = Annotated[float, Field(gt=0)]
Threshold = Annotated[int, Field(ge=3, le=MOST_PARTIES)]


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

    mode: Literal["local", "distributed"] = Field(
        description="local: each hospital adds the full noise for its own epsilon; distributed: each adds a share, and "
        "the bound holds for the sum, against `cohort.assumed_colluders` hospitals and everybody outside"
    )
    unit: Literal["patient", "record"] = Field(description="patient: all images of a lesion or patient count as one")
    epsilon: float = Field(gt=0, le=MOST_EPSILON, description="budget of one unit for the whole run")
    delta: float = Field(
        gt=0, lt=1, description="probability by which the bound may fail; below 1/n for each hospital's n units"
    )
    clip: Positive = Field(description="L2 bound C on one unit's gradient")
    mean_share: float = Field(
        ge=0,
        lt=1,
        description="share of the budget, in mu^2, for a first round of kind `stat`: the private mean of all units' "
        "features, which is then taken off them; 0: no such round. For lite0-head only",
    )


class EncryptionSettings(Settings):
    """CKKS parameters and the public bound that the headroom is planned with."""

    preset: Literal["compact", "precise"] = Field(
        description="compact: about 3.7 bytes per parameter; precise: about 6.8, on a far finer grid"
    )
    update_norm_bound: Positive | Literal["auto"] = Field(
        description="L2 bound S on a hospital's update; longer ones are scaled down; auto: `fedward provision` sets it"
    )
    verification: Literal["auto", "full", "sampled"] = Field(
        description="how hospitals recompute sums. full: each all of it, from all uploads; sampled: each some chunks, "
        "every chunk by c + 1 hospitals; auto: full while the uploads of one round are at most 64 MiB together"
    )
    epoch_rounds: int = Field(
        ge=1,
        le=20_000,
        description="most rounds that one CKKS key serves; the hospitals deal themselves a new one then",
    )


class CohortSettings(Settings):
    """How many hospitals a round needs; `fedward provision` replaces `auto` by the numbers for the roster."""

    threshold: Threshold | Literal["auto"] = Field(
        description="t: how many hospitals must reveal their shares to unmask a sum; auto: floor(2n/3) + 1 of n"
    )
    min_cohort: Threshold | Literal["auto"] = Field(description="fewest contributors of a round; auto: the threshold")
    assumed_colluders: int = Field(
        ge=1,
        le=998,
        description="c: hospitals that may work together with the coordinator; 1 at least, for it takes one hospital's "
        "CKKS key to read anything",
    )
    round_timeout_s: float = Field(gt=0, le=86_400, description="a hospital that has not answered by then sits out")
    attempts: int = Field(
        ge=1,
        le=100,
        description="how often a round is asked for before the run stops; the coordinator tries a stopped run again, "
        "until it has gained no round for `patience_s` (server file)",
    )
    page_kib: int = Field(
        default=4096,
        ge=16,
        le=65_536,
        description="KiB; a long message goes in pages of this length, each a message of its own",
    )
    whole_kib: int = Field(
        default=16_384,
        ge=16,
        le=65_536,
        description="KiB; a message whose body is no longer goes whole: faster, but it takes four times its length of "
        "the coordinator's memory",
    )

    def filled(self, hospitals: int) -> Self:
        """These settings with numbers in place of `auto`, for a roster of that length.

        Raises:
            PlanError: If the numbers are unsound; see `common.plan_bounds.check_bounds`.
        """
        check_hospitals(hospitals)
        threshold = default_threshold(hospitals) if self.threshold == "auto" else self.threshold
        min_cohort = threshold if self.min_cohort == "auto" else self.min_cohort
        settings = self.model_copy(update={"threshold": threshold, "min_cohort": min_cohort})
        settings.check(hospitals)
        return settings

    def check(self, hospitals: int) -> None:
        """Refuse settings that do not go with a roster of that length.

        Raises:
            PlanError: If a number is still `auto`, or unsound; see `common.plan_bounds.check_bounds`.
        """
        if self.threshold == "auto" or self.min_cohort == "auto":
            key = "threshold" if self.threshold == "auto" else "min_cohort"
            raise PlanError(f"cohort.{key}: seen 'auto' beside a roster; `fedward provision` sets a number")
        check_bounds(
            hospitals,
            threshold=self.threshold,
            min_cohort=self.min_cohort,
            assumed_colluders=self.assumed_colluders,
        )


class MetricSettings(Settings):
    """What is counted on held-out units; travels encrypted only."""

    released: Literal["none", "confusion"] = Field(
        description="confusion: counts by true and predicted class, as a site's own policy allows; none: no counts"
    )
