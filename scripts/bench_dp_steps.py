"""One step of each way to train that `fedward bench dp` compares: without privacy, as a site does, as Opacus does."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from opacus import PrivacyEngine
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from client.clipped_sum import choose_clipped_sum
from client.grid_optimizer import GridOptimizer
from client.noise_grid import NoiseSampler

CLIP = 0.5
SIGMA = 1.0
# So small that the model stays where it is: every step of every row then does the same work.
RATE = 1e-9
MOMENTUM = 0.9

Step = Callable[[], None]
OPACUS: dict[str, Literal["hooks", "functorch", "ghost"]] = {
    "opacus hooks": "hooks",
    "opacus functorch": "functorch",
    "opacus ghost": "ghost",
}


def plain_step(model: nn.Module, x: Tensor, y: Tensor) -> Step:
    """Momentum SGD without privacy."""
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def private_step(model: nn.Module, x: Tensor, y: Tensor, *, noise: NoiseSampler) -> Step:
    """A full-batch step made of what `client.dpsgd` makes it of, in the model's own precision.

    A site trains in float64 and refuses anything else: of the rows `dp-clip` and `dp` those of the head are what it
    does. Those of the network are in float32, like the ways that they are compared with.
    """
    optimizer = GridOptimizer(
        torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM),
        sigma=SIGMA,
        clip=CLIP,
        rate=1.0,
        declared_units=len(y),
        noise=noise,
    )
    sums, everybody = choose_clipped_sum(model, x, y, clip=CLIP), list(range(len(y)))

    def step() -> None:
        optimizer.step_on(sums(everybody))

    return step


def no_noise(count: int, _sd: float) -> NDArray[np.int64]:
    """Zeros: the row `dp-clip` measures clipping alone."""
    return np.zeros(count, np.int64)


def opacus_step(model: nn.Module, x: Tensor, y: Tensor, *, mode: Literal["hooks", "functorch", "ghost"]) -> Step:
    """A step of Opacus as its manual says: its own clipping, and noise from torch's generator."""
    with warnings.catch_warnings():
        # "Secure RNG turned off" and the like: this is the comparison, not the product.
        warnings.simplefilter("ignore")
        private = PrivacyEngine(accountant="rdp").make_private(
            module=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM),
            data_loader=DataLoader(TensorDataset(x, y), batch_size=len(y)),
            criterion=nn.CrossEntropyLoss(),
            noise_multiplier=SIGMA,
            max_grad_norm=CLIP,
            poisson_sampling=False,
            grad_sample_mode=mode,
        )
    module, optimizer = private[0], private[1]
    loss = private[2] if mode == "ghost" else nn.CrossEntropyLoss()

    def step() -> None:
        optimizer.zero_grad()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, on hooks of a first layer
            loss(module(x), y).backward()
        optimizer.step()

    return step
