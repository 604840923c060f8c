"""Named networks as graphs of layers: with their public weights, and BatchNorm folded into the convolutions."""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from client.fold import does_nothing, fold_graph
from client.lite0_layers import lite0_layers
from client.networks import initialise
from client.weights_file import read_weights_file
from common.errors import ConfigError, DataError, PlanError
from common.plan_models import NetworkModel


@dataclass(frozen=True, slots=True)
class Architecture:
    """A network without its classifier, in eval mode, as a graph.

    Attributes:
        name: As the plan says it.
        network: What it was traced from: its layers have their own types there.
        graph: From (n, 3, side, side) to features; each node knows the layers that it stands in.
        features: How many features the classifier took.
    """

    name: str
    network: nn.Module
    graph: fx.GraphModule
    features: int


def load_architecture(model: NetworkModel, *, weights: Path | None) -> Architecture:
    """Build a network with its initial weights, the same bits in every process, and fold its BatchNorms.

    Args:
        model: The plan's section.
        weights: The site's weights file; not read where the plan needs none.

    Raises:
        ConfigError: If the site names no weights file, or the library of the architecture is not installed.
        DataError: If the weights file is not the plan's, or holds other tensors than the architecture.
        PlanError: If there is no such architecture, or its layers cannot be told apart.
    """
    state = None if model.weights_sha256 is None else read_weights_file(weights, model.weights_sha256)
    return _assemble(model, state)


def architecture_layout(model: NetworkModel) -> Architecture:
    """The same layers with arbitrary numbers, where no weights are held.

    Raises:
        ConfigError: If the library of the architecture is not installed.
        PlanError: If there is no such architecture, or its layers cannot be told apart.
    """
    return _assemble(model, None)


def library_version(architecture: str) -> str:
    """Version of the library that holds the architecture's code; empty for lite0, whose code is fedward's own.

    Raises:
        ConfigError: If the library is not installed.
    """
    library = architecture.partition(":")[0]
    if library == "lite0":
        return ""
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError as error:
        raise _not_installed(library, "site" if library == "torchvision" else "data") from error


def _assemble(model: NetworkModel, state: dict[str, Tensor] | None) -> Architecture:
    network = _build(model).eval()
    graph = _traced(network, model.architecture)
    classifier, features = (None, 0) if model.architecture == "lite0" else _drop_classifier(graph, model.architecture)
    if state is not None:
        _load(network, state, classifier=classifier, architecture=model.architecture)
    elif model.seed is not None:
        initialise(network, model.seed)
    fold_graph(graph)
    if not features:
        features = int(_output_of(graph, model.image_size).shape[1])
    return Architecture(model.architecture, network, graph, features)


def _output_of(graph: fx.GraphModule, side: int) -> Tensor:
    with torch.inference_mode():
        out: Tensor = graph(torch.zeros(1, 3, side, side))
    return out


def _build(model: NetworkModel) -> nn.Module:
    source, _, name = model.architecture.partition(":")
    if source == "lite0":
        return lite0_layers(model.image_size)
    known, make = _torchvision() if source == "torchvision" else _timm()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{source}:{close[0]}'?" if close else "take another name"
        raise PlanError(f"model.architecture: seen '{model.architecture}', which {source} does not have; {hint}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some say that their start is slow
        return _with_torchs_own_layers(make(name))


def _with_torchs_own_layers(network: nn.Module) -> nn.Module:
    """Put torch's classes where timm's do the same: a formula for each unit's gradient is known of torch's."""
    for parent in list(network.modules()):
        for name, layer in parent.named_children():
            if type(layer).__module__.startswith("timm.layers.") and type(layer).__name__ in ("Linear", "LayerNorm"):
                if isinstance(layer, nn.Linear):
                    same: nn.Module = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
                elif isinstance(layer, nn.LayerNorm):
                    shape = layer.normalized_shape
                    same = nn.LayerNorm(shape, layer.eps, layer.elementwise_affine, layer.bias is not None)
                else:
                    continue
                same.load_state_dict(layer.state_dict())
                setattr(parent, name, same.eval())
    return network


Make = Callable[[str], nn.Module]


def _torchvision() -> tuple[list[str], Make]:
    try:
        from torchvision import models  # noqa: PLC0415 -- slow, and needed by few
    except ImportError as error:
        raise _not_installed("torchvision", "site") from error
    return models.list_models(module=models), lambda name: models.get_model(name, weights=None)


def _timm() -> tuple[list[str], Make]:
    try:
        import timm  # noqa: PLC0415 -- optional
    except ImportError as error:
        raise _not_installed("timm", "data") from error
    return timm.list_models(), lambda name: timm.create_model(name, pretrained=False)


def _not_installed(library: str, extra: str) -> ConfigError:
    return ConfigError(
        f"model.architecture: the plan's network is {library}'s, which is not installed; install fedward[{extra}]"
    )


class _Tracer(fx.Tracer):
    """Keeps BatchNorms whole, also of classes that add an activation, and what a library says has no graph."""

    def __init__(self, architecture: str) -> None:
        self._whole: tuple[type[nn.Module], ...] = (_BatchNorm,)
        functions: tuple[Callable[..., object], ...] = ()
        if architecture.startswith("timm:"):
            from timm.models import get_notrace_functions, get_notrace_modules  # noqa: PLC0415 -- optional

            self._whole = (_BatchNorm, *get_notrace_modules())  # type: ignore[no-untyped-call]
            functions = tuple(get_notrace_functions())  # type: ignore[no-untyped-call]
        super().__init__(autowrap_functions=functions)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, self._whole) or super().is_leaf_module(m, module_qualified_name)


def _traced(network: nn.Module, architecture: str) -> fx.GraphModule:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            options = list(inspect.signature(network.forward).parameters.values())[1:]
            defaults = {
                option.name: option.default for option in options if option.kind is option.POSITIONAL_OR_KEYWORD
            }
            graph = _Tracer(architecture).trace(network, concrete_args=defaults or None)
            _drop_options(graph)
            return fx.GraphModule(network, graph)
    # A network's own code runs on placeholders: whatever it raises says that it depends on its input's values.
    except Exception as error:
        raise PlanError(
            f"model.architecture: '{architecture}' cannot be taken apart into layers, since its code depends on its "
            "input's values; take a convolutional network such as torchvision:resnet18"
        ) from error


def _drop_options(graph: fx.Graph) -> None:
    """Take out the inputs beside the images: they have their defaults, and only nodes that check this are left."""
    for option in [node for node in graph.nodes if node.op == "placeholder"][1:]:
        late = [option]
        for node in late:
            late += [user for user in node.users if user not in late]
        for node in reversed(late):
            graph.erase_node(node)


def _drop_classifier(graph: fx.GraphModule, architecture: str) -> tuple[str, int]:
    """Let the graph end where its classifier began; the classifier's name and its inputs."""
    out = next(node for node in graph.graph.nodes if node.op == "output")
    last = out.args[0]
    while (
        isinstance(last, fx.Node) and last.op == "call_module" and does_nothing(graph.get_submodule(str(last.target)))
    ):
        last = last.args[0]
    layer = graph.get_submodule(str(last.target)) if isinstance(last, fx.Node) and last.op == "call_module" else None
    if not isinstance(layer, nn.Linear):
        raise PlanError(
            f"model.architecture: '{architecture}' does not end in a linear classifier, which a new head could "
            "replace; take another, such as torchvision:resnet18"
        )
    out.args = (last.args[0],)
    return str(last.target), layer.in_features


def _load(network: nn.Module, state: dict[str, Tensor], *, classifier: str | None, architecture: str) -> None:
    """Load all tensors but the classifier's, which may be one of other classes."""
    own = network.state_dict()
    aside = f"{classifier}."
    missing = [k for k in own if k not in state and not k.startswith(aside) and not k.endswith("num_batches_tracked")]
    other = [k for k in state if k not in own and not k.startswith(aside)]
    bent = [k for k in state if k in own and state[k].shape != own[k].shape and not k.startswith(aside)]
    if missing or other or bent:
        raise DataError(
            f"the weights file does not fit '{architecture}': {len(missing)} tensors are missing, {len(other)} are not "
            f"known, {len(bent)} have another shape (the first: {(missing + other + bent)[0]}); make the plan anew "
            "with another file's digest"
        )
    kept = {name: tensor for name, tensor in state.items() if not name.startswith(aside)}
    network.load_state_dict(kept, strict=False)
