"""`fedward bench dp` measures every row in one run, and its network is the one that it names."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from client.backbone import read_weights
from client.dpsgd import refuse_unsupported_layers
from scripts.bench_dp import DpRow, ratios
from scripts.bench_dp_models import CLASSES, groupnorm_lite0, pictures
from tests.support.bench_command import run_bench

FIELDS = {"model", "name", "precision", "units", "steps_per_second", "units_per_second"}


def test_the_bench_writes_every_row_and_ratio(tmp_path: Path) -> None:
    """A small run of the whole bench, Opacus' own ways included."""
    target = tmp_path / "dp.json"
    sizes = ("--units", "12", "--features", "16", "--images", "1", "--side", "32", "--repeats", "1")
    run = run_bench("dp", *sizes, "--json", str(target))
    assert run.returncode == 0, run.stderr
    assert "Warning" not in run.stderr
    result = json.loads(target.read_text())
    names = ["dp-clip", "dp", "opacus hooks", "opacus functorch", "opacus ghost"]
    assert [row["name"] for row in result["rows"] if row["model"] == "head"] == ["non-private"] * 2 + names
    network = [row["name"] for row in result["rows"] if row["model"] == "lite0-groupnorm"]
    assert network == ["non-private", "channels last", *names]
    assert all(set(row) == FIELDS and row["steps_per_second"] > 0 for row in result["rows"])
    goals = {(one["model"], one["row"], one["goal"]) for one in result["ratios"]}
    assert goals == {("head", "dp-clip", 1), ("head", "dp", 0.3), ("head", "dp", 5), ("lite0-groupnorm", "dp", 0.4)}


def test_a_file_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    """In one sentence, with status 2."""
    run = run_bench("dp", "--json", str(tmp_path / "nowhere" / "dp.json"))
    assert run.returncode == 2
    assert "Traceback" not in run.stderr
    assert "cannot be written" in run.stderr


def test_a_ratio_is_of_units_to_the_fastest_reference() -> None:
    """A slow way to do without privacy must not flatter ours."""
    rows = [
        DpRow("lite0-groupnorm", name, "float32", 1, rate, rate)
        for name, rate in (("non-private", 20.0), ("channels last", 40.0), ("dp", 10.0))
    ]
    assert [one["ratio"] for one in ratios(rows)] == [0.25]


def test_the_network_is_lite0_with_groupnorm_and_can_be_trained_privately() -> None:
    """Its convolutions hold as many weights as the published file's, and no layer mixes units."""
    network = groupnorm_lite0(seed=1)
    refuse_unsupported_layers(network)
    norms = [layer for layer in network.modules() if isinstance(layer, nn.GroupNorm)]
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    published = [tensor for tensor in read_weights().values() if tensor.dim() == 4]
    assert len(norms) == len(convolutions)
    assert [layer.weight.shape for layer in convolutions] == [tensor.shape for tensor in published]
    assert network(pictures(2, 64)[0]).shape == (2, CLASSES)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())


def test_the_networks_units_do_not_see_each_other() -> None:
    """The control: after a BatchNorm they do."""
    network = groupnorm_lite0(seed=1).double()
    x = pictures(3, 64)[0].double()
    with torch.no_grad():
        torch.testing.assert_close(network(x)[:1], network(x[:1]), rtol=1e-9, atol=1e-9)
        normed = nn.Sequential(*list(network.children())[:1], nn.BatchNorm2d(32).double())
        assert (normed(x)[:1] - normed(x[:1])).abs().max() > 1e-3
