"""The plan's section `model`: what is trained, and from which public start."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from common.config import Settings
from common.errors import PlanError
from common.plan_data import DataSettings, GenotypeData, ImageData, SurvivalData, TableData


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


class LinearModel(Settings):
    """Logistic regression on the rows of a table or of genotypes."""

    kind: Literal["linear"] = Field(description="logistic regression on the declared inputs")


class MlpModel(Settings):
    """A multilayer perceptron on the rows of a table or of genotypes."""

    kind: Literal["mlp"] = Field(description="layers of tanh units on the declared inputs")
    hidden: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(
        min_length=1, max_length=8, description="units of each hidden layer, first to last"
    )
    seed: int = Field(ge=0, lt=2**32, description="seed of the initial weights; public")


class CoxModel(Settings):
    """Proportional hazards with a baseline that is constant between the plan's cuts."""

    kind: Literal["cox"] = Field(description="proportional hazards, for times to an event")


ImageModel = FrozenBackboneModel | SmallCnnModel
RowModel = LinearModel | MlpModel
ModelSettings = ImageModel | RowModel | CoxModel

_KINDS: dict[type[DataSettings], tuple[type[ModelSettings], ...]] = {
    ImageData: (FrozenBackboneModel, SmallCnnModel),
    TableData: (LinearModel, MlpModel),
    GenotypeData: (LinearModel, MlpModel),
    SurvivalData: (CoxModel,),
}


def check_model(model: ModelSettings, data: DataSettings) -> None:
    """Refuse a model that cannot take the data, or has a wrong size.

    Raises:
        PlanError: See above.
    """
    allowed = _KINDS[type(data)]
    if not isinstance(model, allowed):
        kinds = ", ".join(f"'{get_args(kind.model_fields['kind'].annotation)[0]}'" for kind in allowed)
        raise PlanError(f"model.kind: seen '{model.kind}' with data of kind '{data.kind}'; allowed there: {kinds}")
    if isinstance(model, SmallCnnModel) and model.width % 4:
        raise PlanError(f"model.width: seen {model.width}; a multiple of 4 is allowed (GroupNorm has 4 groups)")
