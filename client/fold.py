"""Graphs of layers without dropout, without changes in place, and with BatchNorm folded into the layer before it."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from common.errors import PlanError


def fold_graph(graph: fx.GraphModule) -> None:
    """Simplify a traced network in eval mode, in place; what it computes stays, to float rounding.

    Raises:
        PlanError: If a BatchNorm keeps no statistics.
    """
    with torch.no_grad():
        _simplify(graph)
        _fold(graph)
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.recompile()


def does_nothing(layer: nn.Module) -> bool:
    """Whether a layer passes its input on, in eval mode. Its randomness would come from torch's own generator."""
    return isinstance(layer, nn.Identity | _DropoutNd) or type(layer).__name__ in ("StochasticDepth", "DropPath")


def _simplify(graph: fx.GraphModule) -> None:
    """Take out what does nothing, part norms from activations, and let nothing change its input in place."""
    for node in list(graph.graph.nodes):
        if node.op == "call_function" and node.target is operator.iadd:
            node.target = operator.add
        if "inplace" in node.kwargs:
            node.kwargs = {**node.kwargs, "inplace": False}
        if node.op != "call_module":
            continue
        layer = graph.get_submodule(node.target)
        if does_nothing(layer):
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
        elif isinstance(layer, _BatchNorm) and hasattr(layer, "act"):
            _part_activation(graph, node, layer)
        elif getattr(layer, "inplace", False):
            layer.inplace = False  # type: ignore[assignment]


def _part_activation(graph: fx.GraphModule, node: fx.Node, layer: Any) -> None:  # noqa: ANN401 -- timm's own class
    plain = nn.BatchNorm2d(layer.num_features, eps=layer.eps, affine=layer.affine)
    plain.load_state_dict({name: t for name, t in layer.state_dict().items() if name in plain.state_dict()})
    name, layer.act.inplace = f"{node.target}_act", False
    graph.set_submodule(str(node.target), plain.eval())
    graph.add_submodule(name, layer.act)
    with graph.graph.inserting_after(node):
        act = graph.graph.call_module(name)
    act.meta = node.meta
    node.replace_all_uses_with(act)
    act.args = (node,)


def _fold(graph: fx.GraphModule) -> None:
    """Fold each BatchNorm into the layer before it, where nothing else sees that layer's output; exact."""
    called = [node.target for node in graph.graph.nodes if node.op == "call_module"]
    for node in list(graph.graph.nodes):
        if node.op != "call_module":
            continue
        norm = graph.get_submodule(node.target)
        source = node.args[0]
        if not isinstance(norm, _BatchNorm) or not isinstance(source, fx.Node) or source.op != "call_module":
            continue
        layer = graph.get_submodule(str(source.target))
        once = len(source.users) == 1 and called.count(source.target) == 1
        if once and type(layer) in (nn.Conv1d, nn.Conv2d, nn.Linear):
            graph.set_submodule(str(source.target), _folded(layer, norm))
            node.replace_all_uses_with(source)
            graph.graph.erase_node(node)


def scale_and_shift(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """What a BatchNorm in eval mode multiplies each channel by and then adds, float64, shape (channels,).

    Raises:
        PlanError: If it keeps no statistics.
    """
    if norm.running_mean is None or norm.running_var is None:
        raise PlanError("model.architecture: a BatchNorm without statistics mixes images; take another network")
    scale = 1.0 / torch.sqrt(norm.running_var.double() + norm.eps)
    shift = -norm.running_mean.double() * scale
    if norm.affine:
        return scale * norm.weight.double(), shift * norm.weight.double() + norm.bias.double()
    return scale, shift


def _folded(layer: Any, norm: _BatchNorm) -> nn.Module:  # noqa: ANN401 -- one of three classes
    """Weights w s and bias b s + t, computed in float64."""
    scale, shift = scale_and_shift(norm)
    if isinstance(layer, nn.Linear):
        new: nn.Module = nn.Linear(layer.in_features, layer.out_features)
    else:
        new = type(layer)(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
            padding_mode=layer.padding_mode,
        )
    weight = layer.weight.double() * scale.reshape(-1, *[1] * (layer.weight.dim() - 1))
    bias = shift if layer.bias is None else layer.bias.double() * scale + shift
    new.load_state_dict({"weight": weight, "bias": bias})  # rounded to the layer's own type
    return new.eval()
