"""The plan's section `model`: what is trained, and from which public start."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, StringConstraints

from common.config import Settings
from common.errors import PlanError
from common.plan_data import DataSettings, GenotypeData, ImageData, SurvivalData, TableData
from common.plan_expression import ExpressionData

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]


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


class NetworkModel(Settings):
    """A network of images by name, with public weights: frozen up to a block, trained behind it."""

    kind: Literal["network"] = Field(description="a named network; its head, last blocks or all of it are trained")
    architecture: Annotated[
        str, StringConstraints(pattern=r"^(lite0|torchvision:[a-z0-9_]{1,60}|timm:[a-z0-9_]{1,60})$")
    ] = Field(description="lite0, torchvision:NAME or timm:NAME")
    weights_sha256: Sha256 | None = Field(
        description="digest of the weights file that each site names in its site file; null: those that lite0's "
        "package brings, or a start from `seed`"
    )
    seed: int | None = Field(
        default=None, ge=0, lt=2**32, description="start from random weights of this seed, trained whole; public"
    )
    trainable: Annotated[str, StringConstraints(pattern=r"^(head|all|last:[1-9][0-9]{0,2})$")] = Field(
        description="head: a linear layer on frozen features; last:N: it and the last N blocks; all: every layer"
    )
    image_size: int = Field(ge=32, le=1024, description="side of the square input in pixels")
    views: int = Field(
        ge=1, le=8, description="dihedral views averaged per image; 1 where more than the head is trained"
    )
    mean: tuple[Share, Share, Share] = Field(description="taken off red, green and blue, which go from 0 to 1")
    std: tuple[PositiveShare, PositiveShare, PositiveShare] = Field(description="what they are then divided by")

    @property
    def last_blocks(self) -> int | None:
        """How many blocks are trained beside the head; None: all."""
        if self.trainable == "all":
            return None
        return int(self.trainable.removeprefix("last:")) if self.trainable != "head" else 0


class LinearModel(Settings):
    """Logistic regression on the rows of a table, of genotypes or of gene expression."""

    kind: Literal["linear"] = Field(description="logistic regression on the declared inputs")


class MlpModel(Settings):
    """A multilayer perceptron on the rows of a table, of genotypes or of gene expression."""

    kind: Literal["mlp"] = Field(description="layers of tanh units on the declared inputs")
    hidden: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(
        min_length=1, max_length=8, description="units of each hidden layer, first to last"
    )
    seed: int = Field(ge=0, lt=2**32, description="seed of the initial weights; public")


class CoxModel(Settings):
    """Proportional hazards with a baseline that is constant between the plan's cuts."""

    kind: Literal["cox"] = Field(description="proportional hazards, for times to an event")


ImageModel = FrozenBackboneModel | SmallCnnModel | NetworkModel
RowModel = LinearModel | MlpModel
ModelSettings = ImageModel | RowModel | CoxModel

_KINDS: dict[type[DataSettings], tuple[type[ModelSettings], ...]] = {
    ImageData: (FrozenBackboneModel, SmallCnnModel, NetworkModel),
    TableData: (LinearModel, MlpModel),
    GenotypeData: (LinearModel, MlpModel),
    ExpressionData: (LinearModel, MlpModel),
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
    if isinstance(model, NetworkModel):
        _check_network(model)


def has_features(model: ModelSettings) -> bool:
    """Whether a linear head alone is trained, on features of each unit whose mean can be told first."""
    return isinstance(model, FrozenBackboneModel) or (isinstance(model, NetworkModel) and model.trainable == "head")


def _check_network(model: NetworkModel) -> None:
    if model.views > 1 and model.trainable != "head":
        raise PlanError(
            f"model.views: seen {model.views} with trainable '{model.trainable}'; only 1 is allowed there: views are "
            "averaged where the head alone is trained"
        )
    if model.architecture == "lite0":
        if model.weights_sha256 is not None or model.seed is not None:
            raise PlanError(
                "model.weights_sha256: seen a digest or a seed with architecture 'lite0'; only null without a seed is "
                "allowed there: its weights come with its package"
            )
        return
    if (model.weights_sha256 is None) == (model.seed is None):
        raise PlanError(
            f"model.weights_sha256: architecture '{model.architecture}' brings no weights; give the digest of the "
            "weights file that all sites hold, or else a public seed to start from, and not both"
        )
    if model.seed is not None and model.trainable != "all":
        raise PlanError(
            f"model.trainable: seen '{model.trainable}' with a random start; only 'all' is allowed there: frozen "
            "layers of random numbers see nothing; name a weights file by its digest"
        )
