"""Sums of per-unit gradients, each clipped to L2 norm C, in whole units of C*2^-44: one interface, three ways.

* `HeadSum` (`client.head_sum`): a linear head, in closed form; exact, on inputs of 20 bits.
* `OneByOneSum`: any other model on a CPU. Each gradient is a backward pass of its own, on a batch of one: nothing that
  computes it has seen another unit, or how many there are. On a CPU this is also the fastest way for a convolutional
  network (`fedward bench dp`).
* `HookedSum`: any other model on a GPU, where passes of one unit would be slow: Opacus' `GradSampleModule`, in chunks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn

from client.batches import Inputs, rows_in_chunks
from client.head_sum import FINEST_BITS, MOST_CLASSES, MOST_INPUTS, HeadSum
from client.model import trainable_vector
from client.unit_loss import unit_loss

# What hooks hold at once, so that a chunk fits a small GPU: gradients by unit, which take about 16 bytes per parameter
# and unit as float64 and as integers; and activations, 42 MB a unit of the largest network that a plan can have.
_GRADIENT_BYTES = 1 << 28
_UNITS_TOGETHER = 64


class ClippedSum(Protocol):
    """Clipped sums at the model's current parameters, which it reads anew in each call."""

    def __call__(self, chosen: Sequence[int]) -> NDArray[np.int64]:
        """Sum over the units `chosen`, each an index of a unit and at most once; empty gives zeros.

        Returns:
            Shape (parameters,), int64, in units of C*2^-44, in the order of `client.model.trainable_vector`.

        Guarantees:
            Each unit adds its own clipped gradient of norm at most 2^44 and rounding (see `sensitivity_steps`); one
            that holds a NaN or an infinity adds zero. The model's parameters and gradients stay as they are.
        """


def choose_clipped_sum(model: nn.Module, x: Inputs, y: Tensor, *, clip: float) -> ClippedSum:
    """The way for this model and device; see `ClippedSum`.

    Args:
        model: What is trained by the loss of `client.unit_loss`, in the mode that it is trained in.
        x: Inputs by unit; a call of the result indexes each unit once, unless the model is a linear head on a tensor.
        y: What is known of each unit: its class, shape (units,), int64; or event and time, see `client.survival`.
        clip: L2 bound C, > 0.
    """
    if isinstance(x, Tensor) and isinstance(model, nn.Linear) and _is_head(model):
        return HeadSum(model, x, y, clip=clip)
    if all(p.device.type == "cpu" for p in model.parameters()):
        return OneByOneSum(model, x, y, clip=clip)
    return HookedSum(model, x, y, clip=clip)


def _is_head(model: nn.Linear) -> bool:
    # Exactly this class: what a subclass computes is not known here.
    return (
        type(model) is nn.Linear
        and 2 <= model.out_features <= MOST_CLASSES
        and model.in_features < MOST_INPUTS
        and all(p.requires_grad for p in model.parameters())
    )


class OneByOneSum:
    """Clipped sums by one backward pass for each unit; see `ClippedSum`."""

    def __init__(self, model: nn.Module, x: Inputs, y: Tensor, *, clip: float) -> None:
        self._model, self._x, self._y, self._clip = model, x, y, clip
        self._loss = unit_loss(model)

    def __call__(self, chosen: Sequence[int]) -> NDArray[np.int64]:
        """See `ClippedSum`."""
        parameters = [p for p in self._model.parameters() if p.requires_grad]
        total = [torch.zeros(p.shape, dtype=torch.int64) for p in parameters]
        for part, inputs in rows_in_chunks(self._x, chosen):
            for whole, exact in zip(total, self._exact(parameters, inputs, self._y[part]), strict=True):
                whole.add_(exact.to(torch.int64))
        return torch.cat([part.flatten() for part in total]).numpy()

    def _exact(self, parameters: Sequence[nn.Parameter], inputs: Tensor, labels: Tensor) -> list[Tensor]:
        """The sum over at most 512 units, which float64 adds exactly: whole numbers up to 2^44, by parameter."""
        exact = [torch.zeros(p.shape, dtype=torch.float64) for p in parameters]
        for place in range(len(labels)):
            # A copy: a view's address, which kernels may go by, would tell how many units stand before this one.
            unit = inputs[place : place + 1].to(parameters[0].dtype, copy=True)
            loss = self._loss(self._model(unit), labels[place : place + 1]).sum()
            parts = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
            _add_rounded_and_clipped(exact, parts, clip=self._clip)
        return exact


def _add_rounded_and_clipped(exact: Sequence[Tensor], parts: Sequence[Tensor], *, clip: float) -> None:
    """`rounded_and_clipped` of one unit, added parameter by parameter: a large network's then stay in the cache."""
    norm = torch.stack([torch.linalg.vector_norm(part, dtype=torch.float64) for part in parts]).square().sum().sqrt()
    if not math.isfinite(norm):
        return
    factor = 2.0**FINEST_BITS / max(float(norm), clip)
    for total, part in zip(exact, parts, strict=True):
        total.add_(part.double().mul_(factor).round_())


class HookedSum:
    """Clipped sums by Opacus' hooks, in chunks that bound the memory; see `ClippedSum`.

    How a library sums within a chunk may depend on the chunk's size, so a gradient may move by float64's rounding when
    another unit comes or goes; `sensitivity_steps` pays for that.
    """

    def __init__(self, model: nn.Module, x: Inputs, y: Tensor, *, clip: float) -> None:
        self._model, self._x, self._y, self._clip = model, x, y, clip
        self._loss = unit_loss(model)

    def __call__(self, chosen: Sequence[int]) -> NDArray[np.int64]:
        """See `ClippedSum`."""
        total = np.zeros(trainable_vector(self._model).size, np.int64)
        chunk = min(max(1, _GRADIENT_BYTES // (16 * len(total))), _UNITS_TOGETHER)
        if not chosen:
            return total
        before = [p.grad for p in self._model.parameters()]
        # A sum, not a mean: with a mean Opacus would scale each unit's gradient by the size of its chunk.
        module = GradSampleModule(self._model, loss_reduction="sum")
        try:
            for start in range(0, len(chosen), chunk):
                part = list(chosen[start : start + chunk])
                total += self._chunk(module, self._x[part], self._y[part])
        finally:
            module.to_standard_module()
            for p, gradient in zip(self._model.parameters(), before, strict=True):
                p.grad = gradient
        return total

    def _chunk(self, module: GradSampleModule, inputs: Tensor, labels: Tensor) -> NDArray[np.int64]:
        parameters = [p for p in module.parameters() if p.requires_grad]
        # Inputs that require gradients: else torch warns at each backward hook of a first layer.
        logits = module(inputs.to(parameters[0].dtype).detach().requires_grad_())
        loss = self._loss(logits, labels).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        rows = rounded_and_clipped([p.grad_sample.double() for p in parameters], clip=self._clip)
        module.zero_grad(set_to_none=True)
        summed: NDArray[np.int64] = rows.to(torch.int64).sum(0).cpu().numpy()
        return summed


def rounded_and_clipped(samples: Sequence[Tensor], *, clip: float) -> Tensor:
    """Clip each unit's gradient and round it to whole units of C*2^-44; one that is not finite becomes zero.

    Args:
        samples: Gradients by parameter, each of shape (units, ...), float64.
        clip: L2 bound C, > 0.

    Returns:
        Shape (units, parameters), float64, whole numbers.
    """
    rows = torch.cat([sample.flatten(1) for sample in samples], dim=1)
    norms = torch.linalg.vector_norm(rows, dim=1)
    finite = torch.isfinite(norms)
    # g/C first: the quotient's norm is at most one whatever the size of C.
    factor = 2.0**FINEST_BITS / torch.where(finite, norms, torch.ones_like(norms)).clamp(min=clip)
    rows[~finite] = 0.0
    return rows.mul_(factor[:, None]).round_()
