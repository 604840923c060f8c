"""`fedward bench features` measures the same work both ways."""

from __future__ import annotations

import torch

from client.backbone import read_weights
from client.lite0 import fold_lite0
from scripts.bench_features import bench_features, feature_ratio, head_seconds, plain_lite0


def test_both_ways_make_the_same_features() -> None:
    """A small run: all rows, and features that differ by bfloat16's rounding at most."""
    rows = bench_features(images=4, side=64, repeats=1, threads=torch.get_num_threads())
    assert [row.name for row in rows] == ["fedward", "eager, batches of 1", "eager, batches of 32"]
    assert all(row.images_per_second > 0 for row in rows)
    assert rows[0].largest_difference < (0.15 if rows[0].precision == "bfloat16" else 1e-4)
    assert rows[2].largest_difference < 1e-4
    assert feature_ratio(rows) > 0
    assert head_seconds(units=8, features=16, steps=2, repeats=1) > 0


def test_the_plain_network_is_the_published_one() -> None:
    """With BatchNorms, which is what makes it slow; the folded one computes the same."""
    network, x = plain_lite0(), torch.randn(2, 3, 65, 65, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(network(x), fold_lite0(read_weights())(x), rtol=1e-3, atol=1e-3)
    assert sum(isinstance(layer, torch.nn.BatchNorm2d) for layer in network.modules()) == 49
