"""The file of public weights that a plan names by its digest; no pickle is ever run."""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from client.data.special_files import refuse_special
from common.errors import ConfigError, DataError

_MOST_BYTES = 4 << 30
# What torch.load raises for files that are none of its own, are cut off, or hold more than tensors.
_UNREADABLE = (SafetensorError, pickle.UnpicklingError, RuntimeError, ValueError, EOFError, KeyError, TypeError)


def read_weights_file(path: Path | None, sha256: str) -> dict[str, Tensor]:
    """Read tensors by name.

    Args:
        path: .safetensors, or .pth or .pt as `torch.save` writes a state dict; None where the site file names none.
        sha256: Digest that the file's bytes must have, hex. What is parsed are the bytes that had it.

    Raises:
        ConfigError: If the site file names no file, or one of another kind.
        DataError: If it cannot be read, has another digest, or holds no state dict.
    """
    if path is None:
        raise ConfigError(
            f"weights: seen none; the plan starts from the weights file with sha256 {sha256}; get that file, and name "
            "it in the site file ('weights')"
        )
    if path.suffix not in (".safetensors", ".pth", ".pt"):
        raise ConfigError(
            f"weights: seen {path}; a file .safetensors, .pth or .pt is allowed; name the file that the plan means"
        )
    refuse_special(path, str(path))
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise DataError(f"{path}: the weights file has more than 4 GiB; name the file that the plan means")
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: the weights file cannot be read ({error.strerror}); name it in the site file"
        ) from error
    seen = hashlib.sha256(content).hexdigest()
    if seen != sha256:
        raise DataError(
            f"{path}: the weights file has sha256 {seen[:16]}..., the plan's has {sha256[:16]}...; get the file that "
            "the plan means: all hospitals start from the same"
        )
    return _state(content, path)


def _state(content: bytes, path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            state: object = load_safetensors(content)
        else:
            # Only tensors and plain containers: a pickle that asks for more is refused by torch.
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise DataError(
            f"{path}: is no file of weights (its {path.suffix} cannot be parsed); save a state dict, as .safetensors"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(each, Tensor) for each in state.values()):
        raise DataError(f"{path}: holds other things than tensors by name; save a state dict, as .safetensors")
    return {str(name): tensor for name, tensor in state.items()}
