"""The frozen part of a plan's `network` as the feature pass runs it, in a process of its own if need be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from client.architecture import library_version
from client.backbone import Compute
from client.network import frozen_part
from common.canonical import canonical_bytes, sha256_hex
from common.errors import LocalProtocolError
from common.plan_models import NetworkModel


@dataclass(frozen=True, slots=True)
class FrozenNetwork:
    """Which layers are run on each image, and on what.

    Attributes:
        model: The plan's section.
        weights: The site's weights file, or None where the plan needs none.
        shape: What the frozen part makes of one image; `client.network.FrozenPart` says it.
    """

    model: NetworkModel
    weights: Path | None
    shape: tuple[int, ...]

    def name(self) -> str:
        """Digest of all in the plan that a vector depends on, and of the version of the library that runs it.

        A new version may compute otherwise with the same tensors; what an earlier one made must not serve then.

        Raises:
            ConfigError: If the library is not installed.
        """
        network = {"model": self.model.model_dump(mode="json"), "library": library_version(self.model.architecture)}
        return sha256_hex(b"fedward/frozen-network/2", canonical_bytes(network))

    def load(self, compute: Compute) -> nn.Module:
        """The layers, in eval mode, on their device.

        Raises:
            ConfigError, DataError: If the weights are not the plan's.
        """
        part = frozen_part(self.model, weights=self.weights)
        if part is None:
            raise LocalProtocolError("features are asked of a network that is trained whole")
        dtype = torch.bfloat16 if compute.precision == "bfloat16" else torch.float32
        return part.layers.to(compute.device, dtype).to(memory_format=torch.channels_last)

    def normalise(self, pixels: Tensor) -> Tensor:
        """See `normalised`."""
        return normalised(pixels, self.model)


def normalised(pixels: Tensor, model: NetworkModel) -> Tensor:
    """Pixels from 0 to 255, shape (n, 3, s, s), as the network takes them: channels first from 0 to 1, then the plan's.

    Returns:
        The same shape, float32.
    """
    mean, std = (torch.tensor(each, device=pixels.device)[:, None, None] for each in (model.mean, model.std))
    return (pixels.float() / 255 - mean) / std
