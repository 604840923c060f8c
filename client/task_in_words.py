"""What a plan trains, and on what of each patient, in the words of the person who must decide."""

from __future__ import annotations

from common.plan import Plan
from common.plan_data import DataSettings, GenotypeData, ImageData, SurvivalData
from common.plan_expression import ExpressionData
from common.plan_features import NumberFeature
from common.plan_models import NetworkModel
from common.plural import counted

_MODELS = {
    "lite0-head": "a linear head on the features of a frozen EfficientNet-Lite0",
    "groupnorm-cnn": "a small convolutional network, all of it",
    "linear": "a logistic regression",
    "mlp": "a multilayer perceptron",
    "cox": "a proportional hazards model",
}


def model_in_words(plan: Plan) -> str:
    """The model, and which part of it is trained."""
    model = plan.model
    if not isinstance(model, NetworkModel):
        return _MODELS[model.kind]
    blocks = model.last_blocks
    if blocks == 0:
        return f"a linear head on the features of a frozen {model.architecture}"
    if blocks is None:
        return f"the network {model.architecture}, all of it"
    return f"a linear head and the last {counted(blocks, 'block')} of {model.architecture}"


def task_in_words(data: DataSettings) -> str:
    """What is to be foretold, and by what of each patient."""
    if isinstance(data, SurvivalData):
        return f"foresee when an event comes, by {_features(data)}"
    apart = f"tell {len(data.classes)} classes apart: {', '.join(data.classes)}"
    return apart if isinstance(data, ImageData) else f"{apart}; by {_features(data)}"


def _features(data: DataSettings) -> str:
    if isinstance(data, GenotypeData):
        return f"{counted(len(data.variants), 'variant')} of the genome ({data.assembly})"
    if isinstance(data, ExpressionData):
        return f"the expression of {counted(len(data.genes), 'gene')} ({data.scale}, {data.low:g} to {data.high:g})"
    if isinstance(data, ImageData):
        return "images"
    named = (f"{each.name} ({each.unit})" if isinstance(each, NumberFeature) else each.name for each in data.features)
    return f"{counted(len(data.features), 'declared feature')} of each patient: {', '.join(named)}"
