"""Cuts a network into a frozen part and one that is trained, between two of its blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from client.architecture import Architecture
from client.fold import scale_and_shift
from common.errors import PlanError, UnsupportedLayer

# Layers of which Opacus knows each unit's gradient by its own formula.
_TRAINABLE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.GroupNorm, nn.LayerNorm, nn.Embedding)
_RANDOM = (nn.RReLU, nn.FractionalMaxPool2d)
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def block_names(architecture: Architecture) -> tuple[str, ...]:
    """The blocks that have parameters, first to last: the network's parts, of plain lists of layers their parts."""
    graph = architecture.graph
    names: dict[str, None] = {}
    for node, block in _by_block(architecture):
        if node.op == "get_attr" or (node.op == "call_module" and _has_parameters(graph, node)):
            names[block] = None
    return tuple(names)


def cut(architecture: Architecture, *, last_blocks: int | None) -> tuple[nn.Module | None, nn.Module | None]:
    """The frozen part, and the part that is trained beside the head; None for one that is empty.

    Args:
        architecture: What is cut; its layers go over to the parts.
        last_blocks: How many blocks are trained, >= 0; None: all.

    Raises:
        PlanError: If there are not so many blocks, or more than one tensor goes from the one part to the other.
        UnsupportedLayer: If a layer that is to be trained mixes units, or has parameters that no formula is known for.

    Guarantees:
        No two units meet in a layer of either part, in train mode and in eval mode alike: BatchNorms are constants.
    """
    graph = architecture.graph
    if last_blocks == 0:
        return graph, None
    start = 0 if last_blocks is None else _start_of_last(architecture, last_blocks)
    nodes = [node for node in graph.graph.nodes if node.op not in ("placeholder", "output")]
    before, after = nodes[:start], nodes[start:]
    _make_trainable(architecture, after)
    entry = next(node for node in graph.graph.nodes if node.op == "placeholder")
    frozen = None
    if last_blocks is not None:
        crossing = {seen for node in (*after, _output(graph)) for seen in node.all_input_nodes if seen not in after}
        if len(crossing) != 1:
            raise PlanError(
                f"model.trainable: the last {last_blocks} blocks of '{architecture.name}' take {len(crossing)} tensors "
                "from the layers before them, one is allowed; train another number of blocks, or 'head' or 'all'"
            )
        frozen = _part(graph, entry, before, end=next(iter(crossing)))
        entry = next(iter(crossing))
    trained = _part(graph, entry, after, end=_output(graph).all_input_nodes[0])
    return frozen, trained.train()


def _output(graph: fx.GraphModule) -> fx.Node:
    out: fx.Node = graph.graph.output_node()
    return out


def _by_block(architecture: Architecture) -> list[tuple[fx.Node, str]]:
    """All nodes with the block that each stands in; what stands in none belongs to the block before it."""
    found, block = [], ""
    for node in architecture.graph.graph.nodes:
        if node.op in ("placeholder", "output"):
            continue
        stack = (node.meta.get("nn_module_stack") or {}).values()
        # The first that is more than a plain list of layers.
        block = next((name for name, kind in stack if kind not in _CONTAINERS), block)
        found.append((node, block))
    return found


def _start_of_last(architecture: Architecture, count: int) -> int:
    names = block_names(architecture)
    if count >= len(names):
        raise PlanError(
            f"model.trainable: seen 'last:{count}'; '{architecture.name}' has {len(names)} blocks "
            f"({', '.join(names)}), so at most 'last:{len(names) - 1}' is allowed; or 'all'"
        )
    trained = set(names[-count:])
    return next(place for place, (_, block) in enumerate(_by_block(architecture)) if block in trained)


def _has_parameters(graph: fx.GraphModule, node: fx.Node) -> bool:
    return next(graph.get_submodule(str(node.target)).parameters(), None) is not None


def _make_trainable(architecture: Architecture, nodes: Sequence[fx.Node]) -> None:
    """Turn the BatchNorms that are left into convolutions, and refuse layers whose training is not covered.

    Raises:
        UnsupportedLayer: Names the layer as the architecture does.
    """
    graph = architecture.graph
    for node in nodes:
        name = str(node.target)
        if node.op == "get_attr":
            _refuse_own_parameter(architecture, name)
        if node.op != "call_module":
            continue
        layer = graph.get_submodule(name)
        if isinstance(layer, nn.BatchNorm2d):
            graph.set_submodule(name, _as_convolution(layer))
        elif isinstance(layer, _BatchNorm):
            raise UnsupportedLayer(f"{type(layer).__name__} at {name} of {architecture.name}, use GroupNorm")
        elif isinstance(layer, _RANDOM) or (_has_parameters(graph, node) and type(layer) not in _TRAINABLE):
            raise _unsupported(architecture, layer, name)


def _refuse_own_parameter(architecture: Architecture, name: str) -> None:
    owner, _, own = name.rpartition(".")
    layer = architecture.network.get_submodule(owner)
    if isinstance(getattr(layer, own), nn.Parameter):
        raise _unsupported(architecture, layer, owner or own)


def _unsupported(architecture: Architecture, layer: nn.Module, name: str) -> UnsupportedLayer:
    kinds = ", ".join(kind.__name__ for kind in _TRAINABLE)
    return UnsupportedLayer(
        f"{type(layer).__name__} at {name} of {architecture.name} cannot be trained under differential privacy here; "
        f"torch's {kinds} can; train fewer blocks (model.trainable), or another architecture"
    )


def _as_convolution(norm: nn.BatchNorm2d) -> nn.Conv2d:
    """What a BatchNorm with fixed statistics is: a factor and a summand for each channel; exact, and trainable."""
    scale, shift = scale_and_shift(norm)
    channels = norm.num_features
    same = nn.Conv2d(channels, channels, 1, groups=channels)
    same.load_state_dict({"weight": scale.reshape(-1, 1, 1, 1), "bias": shift})
    return same


def _part(graph: fx.GraphModule, entry: fx.Node, nodes: Sequence[fx.Node], *, end: fx.Node) -> fx.GraphModule:
    """The nodes as a graph of their own, from `entry` to `end`."""
    part = fx.Graph()
    copies = {entry: part.placeholder("x")}
    for node in nodes:
        copies[node] = part.node_copy(node, lambda seen: copies[seen])
    part.output(copies[end])
    module = fx.GraphModule(graph, part)
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()
    return module


def output_shape(frozen: nn.Module, *, side: int) -> tuple[int, ...]:
    """Shape of what a frozen part makes of one image."""
    with torch.inference_mode():
        out: Tensor = frozen(torch.zeros(1, 3, side, side))
    return tuple(out.shape[1:])
