"""From images to one short unit-norm vector per lesion, by public constants only.

The recipe: the backbone's averages over some views of each image -> mean over the images of a unit -> standardised by
ImageNet's statistics -> unit norm -> public random signs down to a few hundred numbers -> unit norm. No step looks at
another patient, so a unit's vector is a function of that unit alone and the training's per-unit clipping bounds it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from client.backbone import channel_statistics
from client.features import PooledFeatures
from client.lite0 import FEATURES
from client.noise_grid import FINEST_BITS
from common.errors import LocalProtocolError


@dataclass(frozen=True, slots=True)
class UnitFeatures:
    """What the head is trained on: one row per privacy unit.

    Attributes:
        x: Shape (units, features), float32, each row of L2 norm 1.
        y: Shape (units,), int64: class index.
        units: Unit ids, sorted, in the rows' order.
    """

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    units: tuple[str, ...]


def unit_features(pooled: PooledFeatures, *, projection: int, seed: int) -> UnitFeatures:
    """Condense the images of each unit into one projected vector of norm 1.

    Args:
        pooled: From `extract`.
        projection: Length of the result's rows, 1 to 1280.
        seed: The plan's public projection seed, >= 0; the same at every hospital.

    Raises:
        LocalProtocolError: If `projection` or `seed` is out of range.

    Guarantees:
        A unit's row is a function of that unit's vectors and public constants, to the last bit.
    """
    labels = pooled.table.unit_labels()
    position = {unit: row for row, unit in enumerate(labels)}
    owner = np.array([position[record.unit] for record in pooled.table.records])
    means = np.zeros((len(labels), FEATURES))
    np.add.at(means, owner, pooled.vectors)
    means /= np.bincount(owner, minlength=len(labels))[:, None]
    public = channel_statistics()
    standard = _unit_norm((means - public.mean) / public.sd)
    x = _unit_norm(project(standard, width=projection, seed=seed))
    return UnitFeatures(x.astype(np.float32), np.array(list(labels.values()), dtype=np.int64), tuple(labels))


def row_total(rows: NDArray[np.float64]) -> NDArray[np.int64]:
    """Sum rows of L2 norm 1 at most.

    Args:
        rows: Shape (n, k), float64; longer ones are scaled down to norm 1, non-finite ones count as zero.

    Returns:
        In steps of 2^-44, shape (k,), int64: the same bits in any order of the rows.
    """
    norms = np.sqrt(np.sum(rows * rows, axis=1, keepdims=True))
    finite = np.isfinite(norms)
    scale = 2.0**FINEST_BITS / np.maximum(np.where(finite, norms, 1.0), 1.0)
    total: NDArray[np.int64] = np.rint(np.where(finite, rows, 0.0) * scale).astype(np.int64).sum(axis=0)
    return total


def centred(x: Tensor, feature_mean: NDArray[np.float64]) -> Tensor:
    """Take the private mean of the features off each unit's, and bring them back to norm 1.

    Args:
        x: Shape (units, k), as `unit_features` makes them.
        feature_mean: Shape (k,), float64; empty or zeros where no round has told it.

    Returns:
        Shape (units, k), the type of `x`; a unit's row is a function of that row and the mean, which is private.
    """
    if not feature_mean.any():
        return x
    away = x.double() - torch.from_numpy(feature_mean).to(x.device)
    return nn.functional.normalize(away, dim=1, eps=1e-12).to(x.dtype)


def project(rows: NDArray[np.float64], *, width: int, seed: int) -> NDArray[np.float64]:
    """Project rows by public random signs, exactly.

    Args:
        rows: Shape (n, 1280), each of norm 1 or 0.
        width: Columns of the result, 1 to 1280.
        seed: See `random_signs`.

    Returns:
        Shape (n, width), float64: sums of +-rows, times 2^40.

    Guarantees:
        A row of the result does not depend on the other rows: on a grid of 2^-40 every partial sum is an integer below
        2^51, so no order of summation rounds. A plain matrix product may round a row by the number of rows.
    """
    projected: NDArray[np.float64] = np.rint(rows * 2.0**40) @ random_signs(width, seed)
    return projected


def random_signs(width: int, seed: int) -> NDArray[np.float64]:
    """Random signs: a projection by them keeps ratios of lengths, and angles, about as they are (Achlioptas, 2003).

    The signs are the raw bits of Philox4x64-10, whose stream is fixed by its paper (Salmon et al., 2011); numpy's
    normal variates may change between versions, and then hospitals would train in different spaces.

    Args:
        width: Columns, 1 to 1280.
        seed: Key of the generator, 0 to 2^128 - 1.

    Returns:
        Shape (1280, width), float64, each 1 or -1.

    Raises:
        LocalProtocolError: If an argument is out of range.
    """
    if not 1 <= width <= FEATURES or not 0 <= seed < 2**128:
        raise LocalProtocolError(
            f"projection {width} must be 1 to {FEATURES}, and its seed {seed} 0 to 2^128 - 1; pass the checked plan's"
        )
    count = FEATURES * width
    words = np.random.Philox(key=seed).random_raw(-(-count // 64)).astype("<u8")
    bits = np.unpackbits(words.view(np.uint8), count=count, bitorder="little")
    return np.where(bits.reshape(FEATURES, width) == 1, 1.0, -1.0)


def _unit_norm(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: NDArray[np.float64] = rows / np.maximum(norms, 1e-12)  # a zero row stays zero
    return scaled
