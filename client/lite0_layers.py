"""EfficientNet-Lite0 made of torch's own layers, so that it can be cut and trained: BatchNorm is folded."""

from __future__ import annotations

from torch import Tensor, nn

from client.backbone import read_weights
from client.lite0 import InvertedResidual, SamePadConv, fold_lite0, same_padding


class Lite0Block(nn.Sequential):
    """Layers that are trained or frozen together."""


class Lite0Residual(nn.Module):
    """Layers whose input is added to their output."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        """Add the input to the layers' output of the same shape."""
        y: Tensor = x + self.layers(x)
        return y


def lite0_layers(side: int) -> nn.Sequential:
    """Lite0 with ImageNet weights for inputs (n, 3, side, side); gives (n, 1280).

    TensorFlow's "same" padding depends on the size of the input, which is why that must be known.

    Raises:
        DataError: If the weights file is not the published one.
    """
    blocks: list[nn.Module] = []
    for layer in fold_lite0(read_weights()).layers:
        convolutions = list(layer.layers) if isinstance(layer, InvertedResidual) else [layer]
        parts: list[nn.Module] = []
        for each in convolutions:
            if isinstance(each, SamePadConv):
                parts += _convolution(each, side)
                side = -(-side // each.stride)
        residual = isinstance(layer, InvertedResidual) and layer.residual
        blocks.append(Lite0Residual(nn.Sequential(*parts)) if residual else Lite0Block(*parts))
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _convolution(layer: SamePadConv, side: int) -> list[nn.Module]:
    out, group = layer.weight.shape[:2]
    convolution = nn.Conv2d(
        group * layer.groups,
        out,
        layer.kernel,
        layer.stride,
        layer.kernel // 2 if layer.stride == 1 else 0,
        groups=layer.groups,
    )
    convolution.load_state_dict({"weight": layer.weight, "bias": layer.bias})
    before, after = same_padding(side, kernel=layer.kernel, stride=layer.stride)
    padding: list[nn.Module] = [nn.ZeroPad2d((before, after, before, after))] if layer.stride > 1 else []
    return [*padding, convolution, *([nn.ReLU6()] if layer.relu6 else [])]
