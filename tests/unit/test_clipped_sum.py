"""Clipped sums of every kind of model against Opacus' own optimizer, and what one unit can do to them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from PIL import Image
from torch import Tensor, nn

from client.clipped_sum import ClippedSum, HookedSum, OneByOneSum, choose_clipped_sum
from client.data import load_table
from client.features import PooledFeatures
from client.grid_optimizer import GridOptimizer
from client.head_sum import HeadSum
from client.model import trainable_vector
from client.networks import small_cnn
from client.unit_features import unit_features
from common.errors import LocalProtocolError

CLASSES = 9
UNIT = 2.0**-44
Way = Callable[..., ClippedSum]


def head(inputs: int = 20, *, bias: bool = False) -> nn.Module:
    """A linear head that has trained for a while."""
    torch.manual_seed(1)
    return nn.Linear(inputs, CLASSES, bias=bias).double()


def plan_cnn() -> nn.Module:
    """The plan's network."""
    return small_cnn(4, classes=CLASSES, seed=1).double()


def residual_net() -> nn.Module:
    """Depthwise convolutions, GroupNorm, a frozen layer and a skip, as in a large backbone."""

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(
                nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.GroupNorm(2, 8), nn.ReLU6(), nn.Conv2d(8, 8, 1)
            )

        def forward(self, x: Tensor) -> Tensor:
            return x + self.inner(x)  # type: ignore[no-any-return]

    torch.manual_seed(2)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        nn.GroupNorm(4, 8),
        Residual(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, CLASSES),
    )
    for parameter in net[1].parameters():
        parameter.requires_grad = False
    return net.double()


def rows(units: int = 30, inputs: int = 20, *, bits: int = 18) -> tuple[Tensor, Tensor]:
    """Rows of very different lengths whose numbers have few bits, so that the closed form takes them as they are."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randint(-(2**bits), 2**bits, (units, inputs), generator=generator).double() * 2.0**-bits
    x *= 2.0 ** torch.arange(units).remainder(7).sub(4)[:, None]
    return x, torch.randint(0, CLASSES, (units,), generator=generator)


def pictures(units: int = 12) -> tuple[Tensor, Tensor]:
    """Random images."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(units, 3, 16, 16, generator=generator) * torch.logspace(-1, 1, units)[:, None, None, None]
    return x, torch.randint(0, CLASSES, (units,), generator=generator)


def clipped_sum(model: nn.Module, x: Tensor, y: Tensor, *, clip: float) -> NDArray[np.int64]:
    """The sum over all units, in the way for this model."""
    return choose_clipped_sum(model, x, y, clip=clip)(range(len(y)))


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, Tensor]]]] = {
    "head": (head, rows),
    "head with bias": (lambda: head(bias=True), lambda: rows(bits=16)),
    "small network": (plan_cnn, pictures),
    "residual network": (residual_net, pictures),
}


def opacus_sum(model: nn.Module, x: Tensor, y: Tensor, clip: float) -> NDArray[np.float64]:
    """What Opacus' hooks and its own `DPOptimizer` sum.

    It clips to C/(norm + 1e-6); gradients and C times a million make that constant vanish and nothing else.
    """
    module = GradSampleModule(model, loss_reduction="sum")
    loss = nn.functional.cross_entropy(module(x.double().requires_grad_()), y, reduction="sum")
    loss.backward()  # type: ignore[no-untyped-call]
    trained = [p for p in module.parameters() if p.requires_grad]
    for p in trained:
        p.grad_sample *= 2.0**20
    optimizer = DPOptimizer(
        torch.optim.SGD(trained, lr=1.0),
        noise_multiplier=0.0,
        max_grad_norm=clip * 2.0**20,
        expected_batch_size=None,
        loss_reduction="sum",
    )
    optimizer.clip_and_accumulate()
    total = torch.cat([p.summed_grad.flatten() for p in trained]).numpy() * 2.0**-20
    module.to_standard_module()
    return total


@pytest.mark.parametrize("clip", [0.02, 0.5, 1e4])
@pytest.mark.parametrize("name", MODELS)
def test_each_way_sums_what_opacus_sums(name: str, clip: float) -> None:
    """To 1e-9 of C, the closed form to half a grid step a unit, whether all units are clipped, some, or none."""
    build, data = MODELS[name]
    model, (x, y) = build(), data()
    due = opacus_sum(model, x, y, clip)
    ways: list[Way] = [OneByOneSum, HookedSum, choose_clipped_sum]
    for way in ways:
        seen = way(model, x, y, clip=clip)(range(len(y))) * (UNIT * clip)
        closed = isinstance(way(model, x, y, clip=clip), HeadSum)
        assert np.linalg.norm(seen - due) <= (len(y) * 2.0**-21 if closed else 1e-9) * clip
    assert np.linalg.norm(due) > 1e-6 * clip  # control


def test_the_way_fits_the_model() -> None:
    """The closed form where it holds: not for a subclass, nor for a head that is partly frozen."""

    class Scaled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    x, y = rows()
    frozen = nn.Linear(20, CLASSES).double()
    frozen.bias.requires_grad = False
    for model in (Scaled(20, CLASSES).double(), frozen, nn.Linear(20, 1).double(), nn.Sequential(head())):
        assert isinstance(choose_clipped_sum(model, x, y, clip=1.0), OneByOneSum)
    assert isinstance(choose_clipped_sum(head(), x, y, clip=1.0), HeadSum)


def test_inputs_are_taken_to_20_bits() -> None:
    """The closed form on inputs with more bits: what the whole sum is off by, and what each unit is, in units of C."""
    generator = torch.Generator().manual_seed(5)
    x, y = torch.randn(200, 512, generator=generator, dtype=torch.float64), torch.arange(200) % CLASSES
    x /= x.norm(dim=1, keepdim=True)
    model = head(512)
    due = opacus_sum(model, x, y, 0.5)
    seen = clipped_sum(model, x, y, clip=0.5) * (UNIT * 0.5)
    assert 1e-9 < np.linalg.norm(seen - due) / 0.5 < 200 * 2.0**-22
    model = head(512, bias=True)  # which makes the largest number of each row 1
    sums = choose_clipped_sum(model, x, y, clip=0.5)
    alone = [sums([u]) * UNIT - opacus_sum(model, x[u : u + 1], y[u : u + 1], 0.5) / 0.5 for u in range(20)]
    assert 2.0**-18 < max(np.linalg.norm(off) for off in alone) < 2.0**-16


@pytest.mark.parametrize("name", ["head", "small network", "residual network"])
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_broken_unit_adds_nothing_and_moves_nobody(name: str, poison: float) -> None:
    """To the last bit, wherever it stands; Opacus' own sum becomes NaN (control)."""
    build, data = MODELS[name]
    model, (x, y) = build(), data()
    whole = clipped_sum(model, x, y, clip=0.1)
    for place in (0, 3, len(y)):
        broken = x[:1].clone()
        broken.view(-1)[5] = poison
        more = torch.cat([x[:place], broken, x[place:]]), torch.cat([y[:place], y[:1], y[place:]])
        np.testing.assert_array_equal(clipped_sum(model, *more, clip=0.1), whole)
    assert np.isnan(opacus_sum(model, *more, clip=0.1)).any()


@pytest.mark.parametrize("name", MODELS)
def test_a_unit_adds_the_same_in_any_batch_order_and_place(name: str) -> None:
    """To the last bit, over random batches."""
    build, data = MODELS[name]
    model, (x, y) = build(), data()
    sums = choose_clipped_sum(model, x, y, clip=0.1)
    alone = np.stack([sums([unit]) for unit in range(len(y))])
    random = np.random.default_rng(7)
    for _ in range(30):
        chosen = random.permutation(len(y))[: random.integers(1, len(y) + 1)].tolist()
        seen = sums(chosen)
        np.testing.assert_array_equal(seen, sums(sorted(chosen)))
        np.testing.assert_array_equal(seen, alone[chosen].sum(axis=0))
    assert sums([]).tolist() == [0] * alone.shape[1]


def test_stepping_the_optimizer_as_opacus_does_is_refused() -> None:
    """Whoever calls `step` after hooks must not get Opacus' own sum of floats under our noise; nothing moves."""
    (x, y), model = pictures(), plan_cnn()
    module = GradSampleModule(model, loss_reduction="sum")
    optimizer = GridOptimizer(
        torch.optim.SGD(module.parameters(), lr=1.0),
        sigma=1.0,
        clip=0.1,
        rate=1.0,
        declared_units=1,
        noise=lambda count, _sd: np.zeros(count, np.int64),
    )
    nn.functional.cross_entropy(module(x.double().requires_grad_()), y, reduction="sum").backward()  # type: ignore[no-untyped-call]
    before = trainable_vector(model)
    with pytest.raises(LocalProtocolError, match="only step_on"):
        optimizer.step()
    module.to_standard_module()
    np.testing.assert_array_equal(trainable_vector(model), before)
    optimizer.step_on(HookedSum(model, x, y, clip=0.1)(range(len(y))))
    assert np.abs(trainable_vector(model) - before).max() > 0.01  # control


@pytest.mark.parametrize("name", MODELS)
def test_a_sum_leaves_the_model_as_it_is(name: str) -> None:
    """Mode `distributed` asks for a sum without a step; no gradient, hook or parameter may change."""
    build, data = MODELS[name]
    model, (x, y) = build(), data()
    before = [p.detach().clone() for p in model.parameters()]
    ways: list[Way] = [HookedSum, choose_clipped_sum]
    for way in ways:
        way(model, x, y, clip=0.1)(range(len(y)))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())
    assert not any(hasattr(p, "grad_sample") or p.grad is not None for p in model.parameters())


def test_a_head_with_much_data_prepares_it_by_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Integers: the same to the last bit."""
    (x, y), model = rows(), head()
    kept = clipped_sum(model, x, y, clip=0.1)
    monkeypatch.setattr("client.head_sum._MOST_KEPT", 0)
    monkeypatch.setattr("client.head_sum._CHUNK", 7)
    np.testing.assert_array_equal(clipped_sum(model, x, y, clip=0.1), kept)


def test_hooks_in_chunks_sum_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks bound the memory; sums are of integers."""
    (x, y), model = pictures(), plan_cnn()
    whole = HookedSum(model, x, y, clip=0.1)(range(len(y)))
    monkeypatch.setattr("client.clipped_sum._GRADIENT_BYTES", 0)
    single = HookedSum(model, x, y, clip=0.1)(range(len(y)))
    assert np.abs(whole - single).max() <= len(y)
    assert np.abs(single - OneByOneSum(model, x, y, clip=0.1)(range(len(y)))).max() <= len(y)


def test_more_units_than_a_float_can_add_are_summed_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond 512 units whole numbers up to 2^44 leave float64's 53 bits, and these are odd."""
    linear = nn.Linear(1, 2, bias=False)
    nn.init.zeros_(linear.weight)
    model, units = nn.Sequential(linear).double(), 1100
    y = torch.zeros(units, dtype=torch.int64)
    for size in range(1000):
        # Gradients of about C / sqrt(2) in each number, which none clips.
        x = torch.full((units, 1), 0.999 + size * 1e-6, dtype=torch.float64)
        one = OneByOneSum(model, x, y, clip=math.sqrt(0.5))([0])
        if int(one[0]) % 2:
            break
    assert int(one[0]) % 2
    assert units * abs(int(one[0])) > 2**53
    np.testing.assert_array_equal(OneByOneSum(model, x, y, clip=math.sqrt(0.5))(range(units)), units * one)
    monkeypatch.setattr("client.batches.UNITS_AT_ONCE", units)  # control: as many as a float cannot add
    rounded = OneByOneSum(model, x, y, clip=math.sqrt(0.5))(range(units))
    assert (rounded != units * one).any()


IMAGES = 50


@pytest.fixture
def one_patient_with_fifty_images(tmp_path: Path) -> PooledFeatures:
    """Fifty images of one patient and as many, and five, of others, with vectors as a backbone would give.

    With half of all images in one unit the folder would be refused.
    """
    generator = np.random.default_rng(6)
    lines = ["path,label,patient_id"]
    for number in range(2 * IMAGES + 5):
        name = f"mole/{number}.png" if number != IMAGES else f"wart/{number}.png"
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(tmp_path / name)
        lines.append(f"{name},{name[:4]},{'P' if number < IMAGES else f'Q{number}'}")
    (tmp_path / "index.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    table = load_table(tmp_path, on_undecodable="refuse", unit="patient", patient_column="auto")
    vectors = np.abs(generator.standard_normal((len(table.records), 1280))).astype(np.float32)
    return PooledFeatures(table=table, vectors=vectors, computed=0)


def test_a_patient_with_fifty_images_moves_the_sum_by_at_most_the_clip(
    one_patient_with_fifty_images: PooledFeatures,
) -> None:
    """The unit is the patient. The control counts images: then the same patient moves the sum by many times C."""
    pooled = one_patient_with_fifty_images
    data = unit_features(pooled, projection=64, seed=1)
    assert len(data.units) == IMAGES + 6
    x, y = torch.from_numpy(data.x), torch.from_numpy(data.y)
    model, clip = head(64), 0.1
    others = [row for row, unit in enumerate(data.units) if "P" not in unit]
    sums = choose_clipped_sum(model, x, y, clip=clip)
    moved = np.linalg.norm((sums(range(len(y))) - sums(others)) * UNIT)
    assert 0.99 <= moved <= 1 + 1e-9
    each = [unit_features_of_one(pooled, row) for row in range(IMAGES)]
    counted = clipped_sum(model, torch.stack(each), torch.zeros(IMAGES, dtype=torch.int64), clip=clip)
    assert np.linalg.norm(counted * UNIT) > 10  # control


def unit_features_of_one(pooled: PooledFeatures, row: int) -> Tensor:
    """The image's vector as a unit of its own."""
    vector = pooled.vectors[row, :64].astype(np.float64)
    return torch.from_numpy(vector / np.linalg.norm(vector))


class Recording:
    """Inputs that write down how many rows each indexing made floating."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows
        self.shape = tuple(rows.shape)
        self.asked: list[list[int]] = []

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, chosen: list[int]) -> Tensor:
        self.asked.append(list(chosen))
        return self.rows[chosen].float()


@pytest.mark.parametrize(("side", "most"), [(4, 64), (400, 34)])
def test_units_are_made_floating_by_the_chunk_and_the_sum_stays_the_same(side: int, most: int) -> None:
    """A hospital's images at once would take gigabytes; the sum is one of integers, however it is cut."""
    torch.manual_seed(5)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, CLASSES)).double()
    pixels = torch.randint(0, 256, (150, 3, side, side), dtype=torch.uint8)
    y = torch.randint(0, CLASSES, (150,))
    x = Recording(pixels)
    chosen = list(range(149, -1, -1))
    total = OneByOneSum(model, x, y, clip=0.5)(chosen)
    assert [unit for asked in x.asked for unit in asked] == chosen
    assert max(map(len, x.asked)) == most
    assert np.array_equal(total, sum(OneByOneSum(model, pixels[[n]].float(), y[[n]], clip=0.5)([0]) for n in chosen))
    assert np.abs(total).max() > 0
