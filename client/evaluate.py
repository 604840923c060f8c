"""Counts of the model's decisions on held-out units, and what they say."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from client.accountant import GRID_BITS
from client.batches import Inputs, rows_in_chunks
from client.noise import discrete_gaussian
from common.errors import LocalProtocolError


def confusion(model: nn.Module, x: Inputs, y: Tensor, *, classes: int) -> NDArray[np.int64]:
    """Count units by true class (row) and predicted class (column).

    Args:
        model: Is put into eval mode.
        x: Inputs by unit, on the model's device; may be empty. Few are computed at a time, and taken in its parameters'
            type.
        y: True class of each unit, shape (units,), int64, in [0, classes).
        classes: Outputs of the model.

    Returns:
        Shape (classes, classes), int64; sums to the number of units: one unit is one cell.

    Raises:
        LocalProtocolError: If inputs and labels differ in number.
    """
    if len(x) != len(y):
        raise LocalProtocolError(f"{len(x)} inputs but {len(y)} labels are counted; equal numbers are needed")
    model.eval()
    counts = np.zeros((classes, classes), np.int64)
    with torch.inference_mode():
        for part, outputs in outputs_in_chunks(model, x):
            np.add.at(counts, (y[part].cpu().numpy(), outputs.argmax(1).cpu().numpy()), 1)
    return counts


def outputs_in_chunks(model: nn.Module, x: Inputs) -> Iterator[tuple[list[int], Tensor]]:
    """What a model in eval mode says of all units, few at a time, in the type of its parameters; with their indices."""
    of_model = next(model.parameters(), None)
    for part, rows in rows_in_chunks(x, range(len(x))):
        yield part, model(rows if of_model is None else rows.to(of_model.dtype))


def noisy_counts(counts: NDArray[np.int64], *, sigma: float) -> NDArray[np.int64]:
    """Counts with the full noise of one hospital, as the policy `final-dp` releases them.

    Args:
        counts: Any shape, int64; adding or removing one unit changes one cell by one (sensitivity 1).
        sigma: Noise standard deviation, > 0: `solve_sigma(epsilon=..., delta=..., q=1, steps=1)`.

    Returns:
        The same shape, int64; cells may be negative.

    Guarantees:
        `epsilon_of([PrivacyEvent(1.0, sigma, 1)], delta)` per unit: the noise is a discrete Gaussian on the grid 2^-20,
        which holds the counts exactly, and rounding to integers afterwards is post-processing.
    """
    steps = discrete_gaussian(counts.size, sigma * 2.0**GRID_BITS).reshape(counts.shape)
    return counts + ((steps + (1 << (GRID_BITS - 1))) >> GRID_BITS)


def accuracy(counts: NDArray[np.int64]) -> float:
    """Share of units on the diagonal; negative cells (noise) count as zero; NaN without units."""
    cells = np.maximum(counts, 0)
    total = int(cells.sum())
    return float(np.trace(cells)) / total if total else math.nan


def balanced_accuracy(counts: NDArray[np.int64]) -> float:
    """Mean over classes of the share recognised; classes without units are left out; NaN without units."""
    cells = np.maximum(counts, 0)
    units = cells.sum(axis=1)
    present = units > 0
    if not present.any():
        return math.nan
    return float(np.mean(np.diagonal(cells)[present] / units[present]))


def concordance(risk: NDArray[np.float64], event: NDArray[np.bool_], time: NDArray[np.float64]) -> float:
    """Harrell's C: of pairs where it is known who had the event first, the share in which that one's risk was higher.

    It describes single pairs of patients and carries no noise, so it is for this site's own eyes: no round releases it.

    Args:
        risk: Shape (units,): higher means sooner. Equal risks count half.
        event: Whether the event was seen, shape (units,).
        time: Until event or censoring, shape (units,), >= 0. Pairs with equal times count only if one is censored.

    Returns:
        From 0 to 1, 0.5 by chance; NaN if no pair can be compared.

    References:
        Harrell et al., 1996, Statistics in Medicine 15(4), 361-387.
    """
    pairs = right = 0.0
    for one in np.flatnonzero(event):
        later = (time > time[one]) | ((time == time[one]) & ~event)
        pairs += np.count_nonzero(later)
        right += np.count_nonzero(risk[later] < risk[one]) + 0.5 * np.count_nonzero(risk[later] == risk[one])
    return float(right / pairs) if pairs else math.nan


def hazard_concordance(model: nn.Module, x: Inputs, y: Tensor) -> float:
    """`concordance` of a model of hazards.

    Args:
        model: Is put into eval mode. Its first output ranks patients: hazards are proportional.
        x: Inputs by unit, on the model's device; may be empty.
        y: Event and time of each unit, shape (units, 2).
    """
    model.eval()
    with torch.inference_mode():
        risk = model(x[list(range(len(x)))])[:, 0].double().cpu().numpy()
    seen = y.cpu().numpy()
    return concordance(risk, seen[:, 0] > 0, seen[:, 1])
