"""The trainable parameters of a model as one flat vector."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.errors import LocalProtocolError


def compute_in_full_precision() -> None:
    """Forbid TF32 and the like in this process: float32 then means 24 bits in every product, on every GPU."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def layout(model: nn.Module) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Names and shapes of the trainable parameters, in the order of the flat vector."""
    return tuple((name, tuple(p.shape)) for name, p in _trainable(model))


def trainable_vector(model: nn.Module) -> NDArray[np.float64]:
    """A copy of the trainable parameters, shape (parameters,), float64.

    Raises:
        LocalProtocolError: If nothing is trainable.
    """
    parts = [p.detach().flatten().to("cpu", torch.float64) for _, p in _trainable(model)]
    if not parts:
        raise LocalProtocolError("the model has no trainable parameter; there is nothing to train")
    return torch.cat(parts).numpy().copy()


def load_vector(model: nn.Module, vector: NDArray[np.float64]) -> None:
    """Set the trainable parameters, rounded to their own type.

    Raises:
        LocalProtocolError: If the vector has another length.
    """
    tensors = named_tensors(model, vector)
    with torch.no_grad():
        for name, parameter in _trainable(model):
            parameter.copy_(tensors[name])


def named_tensors(model: nn.Module, vector: NDArray[np.float64]) -> dict[str, Tensor]:
    """The flat vector cut into tensors of the model's names, shapes and types, on the CPU.

    Raises:
        LocalProtocolError: If the vector has another length.
    """
    size = sum(p.numel() for _, p in _trainable(model))
    if vector.shape != (size,):
        raise LocalProtocolError(f"a vector of shape {vector.shape} is loaded into {size} trainable parameters")
    tensors: dict[str, Tensor] = {}
    start = 0
    for name, parameter in _trainable(model):
        part = torch.from_numpy(vector[start : start + parameter.numel()].copy())
        tensors[name] = part.view(parameter.shape).to(parameter.dtype)
        start += parameter.numel()
    return tensors


def _trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]
