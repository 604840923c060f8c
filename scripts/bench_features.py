"""The rows of `fedward bench features`: a frozen backbone as it is run here, beside plain PyTorch; the head's round."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich import box
from rich.table import Table
from torch import Tensor, nn

from client.backbone import choose_compute, read_weights
from client.data import ImageTable, decode_image, load_table
from client.dpsgd import LocalTraining, train_local
from client.features import FeatureRecipe, extract
from client.lite0 import FEATURES, STAGES, same_padding
from client.networks import linear_head

GOAL = 2.0
HEAD_GOAL_S = 1.0
_BN_EPSILON = 1e-3
_CLASSES = 9
# A plain loop over batches of one is what the product does too; larger ones are what tutorials do.
BATCHES = (1, 32)


@dataclass(frozen=True, slots=True)
class FeatureRow:
    """One way from image files to features.

    Args:
        name: `fedward`, or `eager` with the images in one batch.
        precision: Of weights and activations.
        images_per_second: With decoding, by the wall clock; the fastest of the repeats.
        largest_difference: To the eager features in batches of one, over the largest of these.
    """

    name: str
    precision: str
    images_per_second: float
    largest_difference: float


class PlainConv(nn.Module):
    """Convolution under TensorFlow's "same" padding, BatchNorm, and ReLU6, as the published network defines them."""

    def __init__(  # noqa: PLR0913 -- keyword-only
        self, channels: int, out: int, *, kernel: int, stride: int = 1, groups: int = 1, relu6: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out, eps=_BN_EPSILON)
        self.act = nn.ReLU6() if relu6 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, c_in, h, w) to (n, c_out, ceil(h / stride), ceil(w / stride))."""
        kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
        top, bottom = same_padding(x.shape[2], kernel=kernel, stride=stride)
        left, right = same_padding(x.shape[3], kernel=kernel, stride=stride)
        y: Tensor = self.act(self.norm(self.conv(nn.functional.pad(x, (left, right, top, bottom)))))
        return y


class _PlainBlock(nn.Module):
    def __init__(self, layers: list[nn.Module], *, residual: bool) -> None:
        super().__init__()
        self.layers, self.residual = nn.Sequential(*layers), residual

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


def plain_lite0() -> nn.Module:
    """Lite0 with its BatchNorms and published weights, in eval mode: what a plain PyTorch program would run."""
    layers: list[nn.Module] = [PlainConv(3, 32, kernel=3, stride=2)]
    channels = 32
    for repeats, kernel, stride, expansion, out in STAGES:
        for repeat in range(repeats):
            step, wide = stride if repeat == 0 else 1, channels * expansion
            inner: list[nn.Module] = [PlainConv(channels, wide, kernel=1)] if expansion > 1 else []
            inner.append(PlainConv(wide, wide, kernel=kernel, stride=step, groups=wide))
            inner.append(PlainConv(wide, out, kernel=1, relu6=False))
            layers.append(_PlainBlock(inner, residual=step == 1 and channels == out))
            channels = out
    layers.append(PlainConv(channels, FEATURES, kernel=1))
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    # The published file holds the same tensors in the same order, and ImageNet's classifier behind them.
    published = [tensor for name, tensor in read_weights().items() if not name.startswith("_fc")]
    own = network.state_dict()
    network.load_state_dict(dict(zip(own, published, strict=True)))
    return network.eval()


def eager_features(network: nn.Module, files: list[Path], *, side: int, batch: int) -> Tensor:
    """A plain loop: decode, batch, forward; shape (images, 1280)."""
    parts = []
    with torch.no_grad():
        for start in range(0, len(files), batch):
            pixels = np.stack([decode_image(path, side) for path in files[start : start + batch]])
            x = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - 127) / 128
            parts.append(network(x.contiguous()))
    return torch.cat(parts)


def bench_features(*, images: int, side: int, repeats: int, threads: int) -> list[FeatureRow]:
    """Measure all ways on the same drawn images, interleaved, the fastest of `repeats` each, on the CPU."""
    torch.set_num_threads(threads)
    network = plain_lite0()
    recipe = FeatureRecipe(image_size=side, views=1, compute=choose_compute("cpu"))
    with tempfile.TemporaryDirectory() as scratch:
        table = _drawn_images(Path(scratch) / "data", images, side)
        files = [table.file(record) for record in table.records]
        caches = iter(Path(scratch) / f"cache-{number}" for number in range(repeats + 1))

        def ours() -> Tensor:
            pooled = extract(
                table, recipe, cache_dir=next(caches), on_progress=lambda *_: None, on_undecodable="refuse"
            )
            return torch.from_numpy(pooled.vectors)

        def eager(batch: int) -> Callable[[], Tensor]:
            return lambda: eager_features(network, files, side=side, batch=batch)

        ways = {"fedward": ours} | {f"eager, batches of {batch}": eager(batch) for batch in BATCHES}
        seen = {name: way() for name, way in ways.items()}
        fastest = dict.fromkeys(ways, float("inf"))
        for _ in range(repeats):
            for name, way in ways.items():
                start = time.perf_counter()
                way()
                fastest[name] = min(fastest[name], time.perf_counter() - start)
    due = seen[f"eager, batches of {BATCHES[0]}"]
    return [
        FeatureRow(
            name,
            recipe.compute.precision if name == "fedward" else "float32",
            images / fastest[name],
            float((seen[name] - due).abs().max() / due.abs().max()),
        )
        for name in ways
    ]


def feature_ratio(rows: list[FeatureRow]) -> float:
    """Images per second of the product over those of the fastest plain loop."""
    ours = next(row for row in rows if row.name == "fedward")
    return ours.images_per_second / max(row.images_per_second for row in rows if row is not ours)


def head_seconds(*, units: int, features: int, steps: int, repeats: int) -> float:
    """Wall seconds of a hospital's round on cached features: DP-SGD steps of a linear head, full batch, with noise."""
    generator = torch.Generator().manual_seed(1)
    x = nn.functional.normalize(torch.randn(units, features, generator=generator))
    y = torch.randint(0, _CLASSES, (units,), generator=generator)
    settings = LocalTraining(
        steps=steps, clip=0.5, learning_rate=1.0, momentum=0.9, sampling="full", rate=1.0, declared_units=units
    )
    fastest = float("inf")
    for _ in range(repeats):
        head = linear_head(features, classes=_CLASSES).double()
        start = time.perf_counter()
        train_local(head, x, y, settings=settings, sigma=5.0, on_step=lambda _: None)
        fastest = min(fastest, time.perf_counter() - start)
    return fastest


def _drawn_images(root: Path, images: int, side: int) -> ImageTable:
    random = np.random.default_rng(1)
    for number in range(images):
        path = root / ("one", "two")[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(random.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(path, quality=90)
    return load_table(root, on_undecodable="refuse", unit="record", patient_column="auto")


def feature_table(rows: list[FeatureRow]) -> Table:
    """The rows, for people."""
    table = Table(title="files to features, by the wall clock, all rows in one run", box=box.SIMPLE_HEAD)
    for heading in ("row", "precision", "images/s", "largest difference"):
        table.add_column(heading, justify="left" if heading in ("row", "precision") else "right", no_wrap=True)
    for row in rows:
        table.add_row(row.name, row.precision, f"{row.images_per_second:,.1f}", f"{row.largest_difference:.1e}")
    return table
