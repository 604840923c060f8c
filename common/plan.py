"""The plan: what all hospitals agree to before a round runs; its digest is in every signed message."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from common.distributed import check_mode
from common.errors import PlanError
from common.page_sizes import PageSizes
from common.plan_content import PlanContent
from common.plan_models import check_model, has_features


class Plan(PlanContent):
    """All that the hospitals agree to. Without `federation` it is a template that `fedward provision` fills."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        check_model(self.model, self.data)
        if self.metrics.released == "confusion" and not self.data.classes:
            raise PlanError(
                f"metrics.released: seen 'confusion' with data of kind '{self.data.kind}'; only 'none' is allowed: "
                "there are no classes to count"
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
        if self.first_round > self.last_training_round:
            raise PlanError(
                f"federation.continues.round: seen {self.first_round - 1} of {self.last_training_round} training "
                f"rounds; at most {self.last_training_round - 1} is allowed, else there is nothing left to train"
            )
        if self.federation:
            self.cohort.check(len(self.federation.hospitals))
            PageSizes.of(self).check()
        if self.privacy.mean_share and not has_features(self.model):
            raise PlanError(
                f"privacy.mean_share: seen {self.privacy.mean_share:g} with model {self.model.kind}; only 0 is allowed "
                "there: it has no features whose mean could be taken off"
            )
        check_mode(self)
        if self.first_round > 1 and self.verification == "sampled":
            raise PlanError(
                "federation.continues: seen with encryption.verification 'sampled'; only 'full' is allowed there: the "
                "last sum of the earlier run was not recomputed by enough hospitals when it paused; begin a new run"
            )
        return self
