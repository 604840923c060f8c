"""Local training under differential privacy: Opacus' optimizer, with our own clipped sum, noise and sampling.

What Opacus does here: it says which layers can be trained (`ModuleValidator`), is the optimizer, and makes the per-unit
gradients where hooks are the fastest way (`client.clipped_sum`). What it must not do: draw noise or batches from
torch's global generator (a `manual_seed` would make them predictable), divide by its own expected batch size (it comes
from the real number of units), or let one NaN spoil the sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.validators import ModuleValidator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from client.batches import CoinSampler, Inputs, unit_batches
from client.clipped_sum import choose_clipped_sum
from client.grid_optimizer import MOST_UNITS, GridOptimizer
from client.model import compute_in_full_precision, trainable_vector
from client.noise import bernoulli, discrete_gaussian
from client.noise_grid import NoiseSampler
from common.errors import LocalProtocolError, PlanError, UnsupportedLayer


@dataclass(frozen=True, slots=True)
class LocalTraining:
    """How one hospital trains between two aggregations.

    Attributes:
        steps: DP-SGD steps, >= 1.
        clip: L2 bound C on one unit's gradient, > 0, in gradient units.
        learning_rate: Step on the mean clipped gradient, > 0.
        momentum: Of the local steps, in [0, 1); starts from zero in each call.
        sampling: `full`: every unit in every step; `poisson`: each unit with probability `rate`, independently.
        rate: 1 for `full`, in (0, 1) for `poisson`.
        declared_units: The hospital's public number of training units, >= 1; divisors are rate * declared_units.

    Raises:
        PlanError: If a value is out of its range; shuffled batches of fixed size are not offered, since no accountant
            here covers them.
    """

    steps: int
    clip: float
    learning_rate: float
    momentum: float
    sampling: Literal["full", "poisson"]
    rate: float
    declared_units: int

    def __post_init__(self) -> None:
        if self.sampling not in ("full", "poisson"):
            raise PlanError(
                f"training.sampling: seen '{self.sampling}'; 'full' and 'poisson' are allowed, "
                "because only these are what the accountant charges for; choose one of them"
            )
        if (self.rate == 1) != (self.sampling == "full") or not 0 < self.rate <= 1:
            raise PlanError(
                f"training.sampling: seen rate {self.rate:g} with '{self.sampling}'; "
                "1 with 'full' and more than 0 but less than 1 with 'poisson' is allowed; correct the rate"
            )
        positive = min(self.steps, self.declared_units, 1) >= 1 and 0 < self.clip < math.inf
        if not (positive and 0 < self.learning_rate < math.inf and 0 <= self.momentum < 1):
            raise PlanError(
                f"seen steps {self.steps}, clip {self.clip:g}, learning rate {self.learning_rate:g}, "
                f"momentum {self.momentum:g}, {self.declared_units} declared units; steps and units >= 1, "
                "clip and learning rate > 0, 0 <= momentum < 1 are allowed"
            )


@dataclass(frozen=True, slots=True)
class Randomness:
    """Where noise and batches come from; anything but the default voids the privacy guarantee.

    Attributes:
        noise: Draws (count, standard deviation in grid steps), int64.
        coins: Draws (count, probability), bool.
    """

    noise: NoiseSampler = discrete_gaussian
    coins: CoinSampler = bernoulli


CSPRNG = Randomness()


def train_local(  # noqa: PLR0913 -- keyword-only
    model: nn.Module,
    x: Inputs,
    y: Tensor,
    *,
    settings: LocalTraining,
    sigma: float,
    on_step: Callable[[int], None],
    randomness: Randomness = CSPRNG,
) -> NDArray[np.float64]:
    """Train `model` in place for `settings.steps` DP-SGD steps.

    Args:
        model: Its parameters are float64, and trained from where they are; no hook is left on it.
        x: One row per unit, shape (units, ...), on the model's device, floating. Each unit of a batch is indexed once,
            unless the model is a linear head.
        y: What is known of each unit: its class, shape (units,), int64; or event and time, see `client.survival`.
        settings: See `LocalTraining`.
        sigma: Noise standard deviation in units of the sensitivity, > 0: the one that was charged.
        on_step: Called with 1, 2, ... after each step; must not depend on data.
        randomness: See `Randomness`; the tests' oracle replaces it.

    Returns:
        Trained minus initial parameters, shape (parameters,), float64, in the order of `trainable_vector`.

    Raises:
        UnsupportedLayer: If a trained layer mixes units or keeps statistics of them.
        LocalProtocolError: If the shapes or the model's type do not fit, or sigma is not positive. Never for a value
            in `x`.

    Guarantees:
        Each step releases round(sum of clip(g_u)) + discrete Gaussian on the grid C*2^-20, and nothing else of the
        data: (epsilon, delta) as `client.accountant.epsilon_of` says for `settings.steps` steps of `sigma` at
        `settings.rate`, per unit, under add/remove. The noise is sigma times `client.noise_grid.sensitivity_steps`,
        which also pays for all rounding.
    """
    if not 0 < sigma < math.inf:
        raise LocalProtocolError(f"noise of sigma {sigma} is asked for; more than 0 is allowed")
    before = trainable_vector(model)
    optimizer = _optimizer(model, settings, sigma=sigma, noise=randomness.noise)
    totals = gradient_totals(model, x, y, settings=settings, coins=randomness.coins)
    for step, total in enumerate(totals, start=1):
        optimizer.step_on(total)
        on_step(step)
    return trainable_vector(model) - before


def gradient_totals(
    model: nn.Module, x: Inputs, y: Tensor, *, settings: LocalTraining, coins: CoinSampler
) -> Iterator[NDArray[np.int64]]:
    """Exact clipped sums over one batch after the other, at the model's parameters of that moment; nothing is noisy.

    Args:
        model: As `train_local` takes it; only put into train mode.
        x: One row per unit.
        y: What is known of each unit.
        settings: How many batches, and of which units.
        coins: Draws them.

    Yields:
        In steps of C*2^-44, shape (parameters,), int64, in the order of `trainable_vector`.

    Raises:
        UnsupportedLayer: If a trained layer mixes units or keeps statistics of them.
        LocalProtocolError: If the shapes or the model's type do not fit.
    """
    if len(x) != len(y):
        raise LocalProtocolError(f"{len(x)} inputs and {len(y)} labels are trained on; equal numbers are needed")
    if any(p.dtype != torch.float64 for p in model.parameters()) or len(y) > MOST_UNITS:
        # What the others' gradients move when a unit comes or goes is bounded for this type and this many.
        raise LocalProtocolError(f"a model in float64 and at most {MOST_UNITS} units can be trained; seen others")
    compute_in_full_precision()
    _train_mode(model)
    refuse_unsupported_layers(model)
    sums = choose_clipped_sum(model, x, y, clip=settings.clip)
    for chosen in unit_batches(len(y), steps=settings.steps, rate=settings.rate, coins=coins):
        yield sums(chosen)


def refuse_unsupported_layers(model: nn.Module) -> None:
    """Refuse layers that mix units within a batch or keep statistics of them.

    Raises:
        UnsupportedLayer: Names the layer and what to use.
    """
    for name, layer in model.named_modules():
        trained = any(p.requires_grad for p in layer.parameters(recurse=False))
        if isinstance(layer, _BatchNorm) and (trained or not layer.track_running_stats):
            raise UnsupportedLayer(f"{type(layer).__name__} at {name or 'the top'}, use GroupNorm")
        if trained and list(layer.buffers(recurse=False)):
            raise UnsupportedLayer(f"{type(layer).__name__} at {name or 'the top'} keeps buffers, use GroupNorm")
    for error in ModuleValidator.validate(model, strict=False):
        raise UnsupportedLayer(f"a trained layer is not supported by Opacus: {error}") from error


def _optimizer(model: nn.Module, settings: LocalTraining, *, sigma: float, noise: NoiseSampler) -> GridOptimizer:
    trained = [p for p in model.parameters() if p.requires_grad]
    return GridOptimizer(
        torch.optim.SGD(trained, lr=settings.learning_rate, momentum=settings.momentum),
        sigma=sigma,
        clip=settings.clip,
        rate=settings.rate,
        declared_units=settings.declared_units,
        noise=noise,
    )


def _train_mode(model: nn.Module) -> None:
    """Hooks capture in train mode only; a frozen BatchNorm must keep to its fixed statistics."""
    model.train()
    for layer in model.modules():
        if isinstance(layer, _BatchNorm):
            layer.eval()
