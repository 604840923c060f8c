"""Data and model of one site for one plan: loaded once, warm between rounds."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from client.data import held_out
from client.data.source import DataPlace, read_data
from client.data.table import SiteTable
from client.declare import site_held_out_rule
from client.dpsgd import (
    CSPRNG,
    LocalTraining,
    Randomness,
    gradient_totals,
    refuse_unsupported_layers,
    train_local,
)
from client.evaluate import confusion
from client.grid_optimizer import MOST_UNITS
from client.model import load_vector, trainable_vector
from client.network import check_trains, trained_layout, trained_part
from client.networks import linear_head, mlp, small_cnn
from client.survival import ProportionalHazards
from client.unit_data import UnitData, load_units
from client.unit_features import row_total
from client.unit_images import UnitImages
from common.errors import DataError, LocalProtocolError, PlanError
from common.plan import Plan
from common.plan_data import ImageData, SurvivalData
from common.plan_models import CoxModel, FrozenBackboneModel, LinearModel, MlpModel, NetworkModel, SmallCnnModel
from common.site_config import SiteConfig

log = logging.getLogger(__name__)


def plan_model(plan: Plan, *, weights: Path | None = None) -> nn.Module:
    """The plan's model with its initial weights, the same bits at every hospital.

    Args:
        plan: The plan, or a template.
        weights: The site's weights file, for a `network` that starts from one.

    Raises:
        ConfigError: If the plan needs a weights file and `weights` is None, or a library is not installed.
        DataError: If the weights file is not the plan's.
        PlanError: If a `network` cannot be cut as the plan says.
        UnsupportedLayer: If a layer that is to be trained cannot be.
    """
    model, data = plan.model, plan.data
    if isinstance(model, NetworkModel):
        return trained_part(model, classes=len(data.classes), weights=weights)
    if isinstance(model, FrozenBackboneModel):
        return linear_head(model.projection, classes=len(data.classes))
    if isinstance(model, SmallCnnModel):
        return small_cnn(model.width, classes=len(data.classes), seed=model.seed)
    if isinstance(data, ImageData):
        raise LocalProtocolError(f"a model of kind '{model.kind}' does not take images")
    if isinstance(model, LinearModel):
        return linear_head(data.inputs, classes=len(data.classes))
    if isinstance(model, MlpModel):
        return mlp(data.inputs, model.hidden, classes=len(data.classes), seed=model.seed)
    if isinstance(model, CoxModel) and isinstance(data, SurvivalData):
        return ProportionalHazards(data.inputs, data.cuts)
    raise LocalProtocolError(f"a model of kind '{model.kind}' does not take data of kind '{data.kind}'")


def plan_layout(plan: Plan) -> nn.Module:
    """Names and shapes of the plan's model; its numbers may be any: the organiser holds no weights file.

    Raises:
        ConfigError, PlanError, UnsupportedLayer: As `plan_model` does.
    """
    if isinstance(plan.model, NetworkModel):
        return trained_layout(plan.model, classes=len(plan.data.classes))
    return plan_model(plan)


def _ignore(_: object) -> None:
    """Nothing to show or to refuse."""


class Learner:
    """Trains and counts on this site's units; see `client.mechanism.Learning`."""

    def __init__(  # noqa: PLR0913 -- keyword-only
        self,
        plan: Plan,
        *,
        hospital: str,
        train: UnitData,
        evaluation: UnitData,
        model: nn.Module,
        held_out_rule: str,
        randomness: Randomness = CSPRNG,
    ) -> None:
        # Now, not in the first round: a refusal after the charge would waste it.
        refuse_unsupported_layers(model)
        self.initial = trainable_vector(model)
        self.training_units, self.held_out_units = len(train.units), len(evaluation.units)
        self.units = (*train.units, *evaluation.units)
        self.held_out_rule = held_out_rule
        # Training needs float64; the inputs of training stay as they are and are converted by the chunk.
        self._plan, self._model, self._train, self._evaluation = plan, model.double(), train, evaluation
        # Also where the noise of the round of statistics and the shares of mode `distributed` come from.
        self.randomness = randomness
        member = plan.roster[plan.agreed.position(hospital)]
        self._settings = LocalTraining(
            steps=plan.training.local_steps,
            clip=plan.privacy.clip,
            learning_rate=plan.training.learning_rate,
            momentum=plan.training.momentum,
            sampling=plan.training.sampling.kind,
            rate=plan.training.sample_rate,
            declared_units=member.declared_units,
        )

    def train(
        self, parameters: NDArray[np.float64], *, feature_mean: NDArray[np.float64], sigma: float
    ) -> NDArray[np.float64]:
        """One round of DP-SGD from `parameters`; the parameter difference, float64, shape (d,)."""
        load_vector(self._model, parameters)
        return train_local(
            self._model,
            self._train.to_train(feature_mean),
            self._train.y,
            settings=self._settings,
            sigma=sigma,
            on_step=_ignore,
            randomness=self.randomness,
        )

    def gradient_total(
        self, parameters: NDArray[np.float64], *, feature_mean: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """Exact sum of clipped gradients over one batch, in steps of C*2^-44, int64, shape (d,)."""
        load_vector(self._model, parameters)
        x, y = self._train.to_train(feature_mean), self._train.y
        (total,) = gradient_totals(self._model, x, y, settings=self._settings, coins=self.randomness.coins)
        return total

    def feature_total(self) -> NDArray[np.int64]:
        """Exact sum of all units' features, in steps of 2^-44, int64, shape (k,).

        Raises:
            LocalProtocolError: If the model has no features.
        """
        if isinstance(self._train.x, UnitImages):
            raise LocalProtocolError("the mean of features is asked of a model on raw images, which has none")
        return row_total(self._train.x.double().cpu().numpy())

    def confusion(self, parameters: NDArray[np.float64], *, feature_mean: NDArray[np.float64]) -> NDArray[np.int64]:
        """Counts on held-out units, true class by predicted class, shape (classes, classes)."""
        load_vector(self._model, parameters)
        x = self._evaluation.to_score(feature_mean)
        return confusion(self._model, x, self._evaluation.y, classes=len(self._plan.data.classes))


def load_learner(
    config: SiteConfig,
    plan: Plan,
    *,
    on_progress: Callable[[int, int], None],
    on_table: Callable[[SiteTable], None] = _ignore,
    randomness: Randomness = CSPRNG,
) -> tuple[Learner, str]:
    """Read this site's data for a plan and build the model.

    Args:
        config: The site.
        plan: The agreed plan.
        on_progress: Called with images done and images in all.
        on_table: Called with the images or rows before an image is decoded; may refuse them.
        randomness: See `client.dpsgd.Randomness`; anything but the default voids the guarantee.

    Returns:
        The learner, and the name of the privacy unit (`patient`, `lesion` or `image`).

    Raises:
        ConfigError: If the plan needs a weights file or a mapping that the site does not name.
        DataError: If the data folder is wrong, or leaves no unit to train on; or the weights file is not the plan's.
        PlanError: If the model's size is not the plan's, or a `network` cannot be cut as the plan says.
        UnsupportedLayer: If a trained layer cannot be trained under differential privacy.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    model = plan_model(plan, weights=config.weights)
    place = DataPlace.of_site(config)
    table = read_data(place, plan.data, unit=plan.privacy.unit)
    on_table(table)
    data, table = load_units(
        table,
        plan,
        device=config.device,
        cache=config.state / "features",
        on_progress=on_progress,
        weights=config.weights,
    )
    _give_memory_back()
    for warning in table.warnings:
        log.warning("%s", warning)
    aside = [held_out(unit, salt=plan.data.held_out_salt, fraction=plan.data.held_out) for unit in data.units]
    train, evaluation = data.where([not chosen for chosen in aside]), data.where(aside)
    if not 1 <= len(train.units) <= MOST_UNITS:
        raise DataError(
            f"{config.data}: seen {len(train.units)} {table.unit_name}(s) to train on; 1 to {MOST_UNITS} are allowed: "
            "add or remove images"
        )
    model = model.to(data.y.device)
    size = trainable_vector(model).size
    if size != plan.agreed.trainable_parameters:
        raise PlanError(
            f"the plan says {plan.agreed.trainable_parameters} trainable parameters, its model has {size}; "
            "make the plan again with this version of fedward"
        )
    learner = Learner(
        plan,
        hospital=config.hospital,
        train=train,
        evaluation=evaluation,
        model=model,
        held_out_rule=site_held_out_rule(place, plan),
        randomness=randomness,
    )
    if isinstance(plan.model, NetworkModel):
        check_trains(model, train.x, clip=plan.privacy.clip)
    return learner, table.unit_name


def _give_memory_back() -> None:
    """Return what the feature pass freed to the system: 80 MB that the heap would keep for ever."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc
        libc.malloc_trim(0)
