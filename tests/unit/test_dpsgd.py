"""DP-SGD: clipping, divisor, noise and sampling against hand computation and against stock Opacus."""

from __future__ import annotations

import copy
import itertools
import math
import warnings
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from opacus import PrivacyEngine
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from client.dpsgd import LocalTraining, Randomness, train_local
from client.grid_optimizer import to_noise_grid
from client.model import trainable_vector
from client.networks import linear_head, small_cnn
from client.noise import bernoulli
from client.noise_grid import sensitivity_steps
from common.errors import LocalProtocolError, PlanError, UnsupportedLayer

UNITS, FEATURES, CLASSES = 40, 12, 3
GRID = 2.0**-20


def silence(count: int, _sd: float) -> NDArray[np.int64]:
    """No noise: the oracle's seam."""
    return np.zeros(count, np.int64)


SILENT = Randomness(noise=silence)


def full(steps: int = 1, *, clip: float = 0.5, momentum: float = 0.0, declared: int = 50) -> LocalTraining:
    """Full batch, learning rate 1."""
    return LocalTraining(
        steps=steps, clip=clip, learning_rate=1.0, momentum=momentum, sampling="full", rate=1.0, declared_units=declared
    )


def poisson(rate: float, *, steps: int = 1) -> LocalTraining:
    """Poisson batches, learning rate 1."""
    return LocalTraining(
        steps=steps, clip=0.5, learning_rate=1.0, momentum=0.0, sampling="poisson", rate=rate, declared_units=50
    )


def units(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs of very different lengths, so that some gradients are clipped and some are not."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(UNITS, FEATURES, generator=generator) * torch.logspace(-2, 1, UNITS)[:, None]
    return x, torch.randint(0, CLASSES, (UNITS,), generator=generator)


def head() -> nn.Module:
    """A head in double precision, so that the grid is the only rounding."""
    return linear_head(FEATURES, classes=CLASSES).double()


def train(model: nn.Module, x: Tensor, y: Tensor, settings: LocalTraining, **randomness: Randomness) -> np.ndarray:
    """Train with sigma 1."""
    return train_local(model, x, y, settings=settings, sigma=1.0, on_step=lambda _: None, **randomness)


def clipped_gradients(vector: np.ndarray, x: Tensor, y: Tensor, clip: float) -> np.ndarray:
    """Oracle: per-unit gradients of the linear head in closed form, clipped; shape (units, parameters)."""
    logits = x.numpy() @ vector.reshape(CLASSES, FEATURES).T
    odds = np.exp(logits - logits.max(1, keepdims=True))
    error = odds / odds.sum(1, keepdims=True) - np.eye(CLASSES)[y.numpy()]
    gradients = (error[:, :, None] * x.numpy()[:, None, :]).reshape(len(x), -1)
    norms = np.linalg.norm(gradients, axis=1, keepdims=True)
    clipped: np.ndarray = gradients * np.minimum(1, clip / norms)
    return clipped


def test_without_noise_training_is_clipped_momentum_sgd_by_hand() -> None:
    """Clipping per unit, the declared divisor (50, not 40), momentum: all as computed in numpy, to the grid."""
    x, y = units()
    x = x.double()
    seen = train(head(), x, y, full(4, momentum=0.9), randomness=SILENT)
    vector, velocity = np.zeros(CLASSES * FEATURES), np.zeros(CLASSES * FEATURES)
    for _ in range(4):
        velocity = 0.9 * velocity + clipped_gradients(vector, x, y, 0.5).sum(0) / 50
        vector = vector - velocity
    assert np.abs(vector).max() > 0.01
    np.testing.assert_allclose(seen, vector, atol=40 * 0.5 * GRID)


@dataclass
class Recorder:
    """Draws no noise, and keeps the standard deviation that it was asked for."""

    sd: float = 0.0

    def __call__(self, count: int, sd: float) -> NDArray[np.int64]:
        """The seam of `train_local`."""
        self.sd = sd
        return np.zeros(count, np.int64)


def grid_sum(model: nn.Module, x: Tensor, y: Tensor, *, clip: float = 0.5) -> tuple[np.ndarray, float]:
    """The sum that noise is added to, in grid steps, and the noise's standard deviation at sigma 1."""
    recorder = Recorder()
    moved = train(copy.deepcopy(model), x, y, full(1, declared=1, clip=clip), randomness=Randomness(noise=recorder))
    return -moved / (clip * GRID), recorder.sd


def warm(kind: Literal["lite0-head", "groupnorm-cnn"], seed: int, *, size: float = 0.3) -> nn.Module:
    """A model in double precision that has trained for a while: no parameter is zero."""
    head = kind == "lite0-head"
    model = linear_head(FEATURES, classes=CLASSES) if head else small_cnn(4, classes=CLASSES, seed=seed)
    model = model.double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


@pytest.mark.parametrize("clip", [1e-3, 0.5, 1e4])
def test_one_unit_moves_the_sum_by_at_most_what_the_noise_is_scaled_to(clip: float) -> None:
    """The sensitivity that is charged: remove a unit of each place, of any size, and look at the whole sum."""
    most = 0.0
    for place, scale in itertools.product(range(UNITS), (1e-6, 1.0, 1e6, 1e18, 1e150)):
        x, y = units(place % 6)
        model = warm("lite0-head", place % 6)
        whole = x.double()
        whole[place] *= scale
        keep = torch.arange(UNITS) != place
        with_it, sd = grid_sum(model, whole, y, clip=clip)
        without, _ = grid_sum(model, whole[keep], y[keep], clip=clip)
        moved = float(np.linalg.norm(with_it - without))
        assert moved <= sd + 1e-6
        most = max(most, moved)
    assert sd == 2**20 + math.sqrt(CLASSES * FEATURES) + 1
    if clip < 1e4:
        assert most >= 2**20 - 10  # control: a unit does count, up to the bound


def test_rounding_to_the_noise_grid_is_in_the_sensitivity() -> None:
    """The worst pair: each number of the sum is just below half a step, and the unit takes each just beyond it."""
    parameters, fine = 2**14, 2**24
    whole_steps = 2**20 // math.isqrt(parameters)
    before = np.full(parameters, 7 * fine + fine // 2 - 1, np.int64)
    after = before + whole_steps * fine + 1
    assert np.linalg.norm(after - before) == pytest.approx(2.0**44, rel=1e-9)
    moved = float(np.linalg.norm(to_noise_grid(after) - to_noise_grid(before)))
    assert moved <= sensitivity_steps(parameters, 1)
    assert moved >= 2**20 + math.sqrt(parameters) - 1  # control: C alone would not do


@pytest.mark.parametrize("kind", ["lite0-head", "groupnorm-cnn"])
def test_the_other_units_do_not_move(kind: Literal["lite0-head", "groupnorm-cnn"]) -> None:
    """A unit without a gradient comes and goes: nothing moves, to the last bit."""
    for seed in range(3):
        x, y = units(seed) if kind == "lite0-head" else (torch.randn(9, 3, 16, 16), torch.arange(9) % CLASSES)
        broken = torch.full_like(x[:1], math.nan)
        model = warm(kind, seed)
        for count in (1, 2, 7, len(x)):
            alone, _ = grid_sum(model, x[:count], y[:count])
            among, _ = grid_sum(model, torch.cat([broken, x[:count]]), torch.cat([y[:1], y[:count]]))
            np.testing.assert_array_equal(alone, among)


@pytest.mark.parametrize("kind", ["lite0-head", "groupnorm-cnn"])
def test_a_gradient_does_not_depend_on_the_batch_in_float64_but_does_in_float32(
    kind: Literal["lite0-head", "groupnorm-cnn"],
) -> None:
    """The rho of `sensitivity_steps` with hooks, measured: relative to C, over batch sizes and large inputs."""
    moved: dict[torch.dtype, float] = {}
    for dtype in (torch.float32, torch.float64):
        moved[dtype] = 0.0
        for seed, scale in itertools.product(range(2), (0.1, 1.0, 100.0)):
            generator = torch.Generator().manual_seed(seed)
            shape = (FEATURES,) if kind == "lite0-head" else (3, 16, 16)
            x = (scale * torch.randn(33, *shape, generator=generator, dtype=torch.float64)).to(dtype)
            y = torch.randint(0, CLASSES, (33,), generator=generator)
            model = warm(kind, seed).to(dtype)
            alone = torch.cat([clipped_per_unit(model, x[n : n + 1], y[n : n + 1]) for n in range(3)])
            for count in (3, 8, 33):
                among = clipped_per_unit(model, x[:count], y[:count])[:3]
                moved[dtype] = max(moved[dtype], float((among - alone).norm(dim=1).max()))
    assert moved[torch.float64] < 1e-13
    if moved[torch.float32] == 0:
        pytest.skip("the control: this machine's kernels sum in one order for every batch size, even in float32")
    assert moved[torch.float32] > 1e-9  # control


def clipped_per_unit(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Per-unit gradients of Opacus, clipped to norm 1, shape (units, parameters)."""
    module = GradSampleModule(copy.deepcopy(model), loss_reduction="sum")
    logits = module(x.clone().requires_grad_())
    nn.functional.cross_entropy(logits, y, reduction="sum").backward()  # type: ignore[no-untyped-call]
    rows = torch.cat([p.grad_sample.flatten(1).double() for p in module.parameters()], dim=1)
    return cast("Tensor", rows / rows.norm(dim=1, keepdim=True).clamp(min=1))


def test_what_others_move_is_paid_for_where_there_are_very_many() -> None:
    """Up to a million parameters and some thousand units one step is enough; beyond, the noise grows with both."""
    assert sensitivity_steps(4608, 400) == 2**20 + math.sqrt(4608) + 1
    assert sensitivity_steps(10_000, 200_000) == 2**20 + 100 + 200_000 * 100 / 2**23


def test_training_forbids_tf32() -> None:
    """Whatever another library has switched on before: products of ten bits would be no float32."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    train(head(), *units(), full())
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_model_in_float32_is_refused() -> None:
    """Its gradients depend on the batch by 5e-7: a thousand units would move the sum by 500 steps unpaid."""
    with pytest.raises(LocalProtocolError, match="float64"):
        train(head().float(), *units(), full())


def test_a_batch_in_chunks_is_the_same_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks bound the memory; sums are of integers, so even the last bit agrees."""
    x, y = units()
    whole = train(head(), x.double(), y, full(3), randomness=SILENT)
    monkeypatch.setattr("client.head_sum._CHUNK", 7)
    chunked = train(head(), x.double(), y, full(3), randomness=SILENT)
    np.testing.assert_array_equal(whole, chunked)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("kind", ["lite0-head", "groupnorm-cnn"])
def test_a_unit_that_is_not_finite_counts_as_zero(kind: str, poison: float) -> None:
    """One broken image must neither spoil the update nor stop a round whose budget is spent."""
    if kind == "lite0-head":
        x, y = units()
        models = [head() for _ in range(2)]
    else:
        x, y = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 0])
        models = [small_cnn(4, classes=CLASSES, seed=1).double() for _ in range(2)]
    broken = x.clone()
    broken[1].view(-1)[0] = poison
    keep = torch.arange(len(x)) != 1
    seen = train(models[0], broken, y, full(), randomness=SILENT)
    without = train(models[1], x[keep], y[keep], full(), randomness=SILENT)
    assert np.isfinite(seen).all()
    np.testing.assert_allclose(seen, without, atol=len(x) * GRID)
    assert np.abs(seen).max() > 1e-4


def test_an_empty_poisson_batch_is_a_step_of_pure_noise() -> None:
    """Skipping the step would reveal that nobody was drawn."""
    x, y = units()
    nobody = Randomness(coins=lambda count, _rate: np.zeros(count, np.bool_))
    moved = train(head(), x, y, poisson(0.01), randomness=nobody)
    assert moved.std() == pytest.approx(0.5 / (0.01 * 50), rel=0.5)
    still = Randomness(noise=silence, coins=nobody.coins)
    assert not train(head(), x, y, poisson(0.01), randomness=still).any()


def test_poisson_batches_are_divided_by_rate_times_declared_size() -> None:
    """An expected batch size from the real number of units would leak it and break the accounting."""
    x, y = units()
    chosen = np.arange(UNITS) % 4 == 0
    fixed = Randomness(noise=silence, coins=lambda _count, _rate: chosen)
    seen = train(head(), x.double(), y, poisson(0.25), randomness=fixed)
    due = -clipped_gradients(np.zeros(CLASSES * FEATURES), x.double(), y, 0.5)[chosen].sum(0) / (0.25 * 50)
    np.testing.assert_allclose(seen, due, atol=1e-5)


def test_the_noise_has_the_charged_standard_deviation() -> None:
    """A million numbers of one step on a unit without a gradient: 0.5 % (seven standard errors), and Gaussian by KS."""
    inputs, classes = 25_000, 40
    model = linear_head(inputs, classes=classes).double()
    x, y = torch.zeros(1, inputs), torch.tensor([0])
    moved = train_local(model, x, y, settings=full(declared=10), sigma=3.0, on_step=lambda _: None)
    sd = 3.0 * 0.5 / 10 * sensitivity_steps(inputs * classes, 10) * GRID
    assert len(moved) == 1_000_000
    assert moved.std() == pytest.approx(sd, rel=0.005)
    assert sd == pytest.approx(0.15, rel=0.002)
    normal = torch.special.ndtr(torch.from_numpy(np.sort(moved) / sd)).numpy()
    ranks = np.arange(len(moved) + 1) / len(moved)
    distance = max(np.abs(normal - ranks[1:]).max(), np.abs(normal - ranks[:-1]).max())
    assert distance < 2.7 / math.sqrt(len(moved))  # a false alarm once in a million runs


def test_equal_torch_seeds_give_different_updates() -> None:
    """The control shows that stock Opacus repeats its noise under a seed; that is why the noise is our own."""
    x, y = units()
    ours, theirs = [], []
    for _ in range(2):
        torch.manual_seed(3)
        ours.append(train(head(), x, y, full()))
        torch.manual_seed(3)
        theirs.append(stock_opacus(x, y, 1.0))
    assert np.array_equal(theirs[0], theirs[1])
    assert not np.array_equal(ours[0], ours[1])
    assert np.linalg.norm(ours[0] - ours[1]) > 0.01


def stock_opacus(x: Tensor, y: Tensor, sigma: float) -> np.ndarray:
    """One full-batch step of Opacus as its manual says, learning rate 1; divides by the real 40 units."""
    model = linear_head(FEATURES, classes=CLASSES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module, optimizer, loader = PrivacyEngine(accountant="rdp").make_private(
            module=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
            data_loader=DataLoader(TensorDataset(x, y), batch_size=UNITS),
            noise_multiplier=sigma,
            max_grad_norm=0.5,
            poisson_sampling=False,
        )
        for inputs, labels in loader:
            nn.functional.cross_entropy(module(inputs), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return trainable_vector(model)


def test_updates_are_distributed_like_those_of_stock_opacus() -> None:
    """Same mean (the clipped sum), spread and shape over repeats, once both divide by the same number."""
    x, y = units()
    repeats = 60
    ours = np.stack([train(head(), x, y, full(declared=UNITS)) for _ in range(repeats)])
    theirs = np.stack([stock_opacus(x, y, 1.0) for _ in range(repeats)])
    spread = 0.5 / UNITS
    pooled = math.sqrt(2 / repeats) * spread
    assert np.abs(ours.mean(0) - theirs.mean(0)).max() < 5 * pooled
    for sample in (ours, theirs):
        assert (sample - sample.mean(0)).std() == pytest.approx(spread * math.sqrt(1 - 1 / repeats), rel=0.07)
    noise = [np.sort((sample - sample.mean(0)).ravel()) for sample in (ours, theirs)]
    both = np.concatenate(noise)
    ranks = [np.searchsorted(one, both, side="right") / one.size for one in noise]
    assert np.abs(ranks[0] - ranks[1]).max() < 2.7 * math.sqrt(2 / noise[0].size)  # a false alarm in a million runs


def test_a_network_trains_and_leaves_no_hook() -> None:
    """The model is reused in the next round: hooks would pile up and keep activations alive."""
    x, y = torch.randn(6, 3, 16, 16), torch.tensor([0, 1, 2, 0, 1, 2])
    model = small_cnn(4, classes=CLASSES, seed=1).double()
    steps: list[int] = []
    for _ in range(2):
        before = trainable_vector(model)
        moved = train_local(model, x, y, settings=full(2), sigma=1.0, on_step=steps.append)
        np.testing.assert_array_equal(trainable_vector(model) - before, moved)
    assert steps == [1, 2, 1, 2]
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())
    assert not any(hasattr(p, "grad_sample") for p in model.parameters())


class _Backbone(nn.Module):
    def __init__(self, *, frozen: bool) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(4, CLASSES)
        for parameter in self.features.parameters():
            parameter.requires_grad = not frozen

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))  # type: ignore[no-any-return]


def test_a_trained_batchnorm_is_refused_by_name() -> None:
    """Its statistics mix patients: one gradient is then no longer one patient's."""
    with pytest.raises(UnsupportedLayer, match=r"BatchNorm2d at features\.1, use GroupNorm"):
        train(_Backbone(frozen=False).double(), torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0]), full())


def test_a_frozen_batchnorm_keeps_its_statistics() -> None:
    """The control: under a trained head it is allowed, and training must not touch its running mean."""
    model = _Backbone(frozen=True).double()
    before = model.features[1].running_mean.clone()  # type: ignore[operator]
    train(model, torch.randn(4, 3, 8, 8) + 3, torch.tensor([0, 1, 2, 0]), full())
    assert torch.equal(model.features[1].running_mean, before)  # type: ignore[arg-type]


def test_a_norm_without_fixed_statistics_is_refused_even_frozen() -> None:
    """It would normalise over the batch in any mode."""
    model = nn.Sequential(
        nn.BatchNorm1d(FEATURES, affine=False, track_running_stats=False), nn.Linear(FEATURES, 3)
    ).double()
    with pytest.raises(UnsupportedLayer, match="BatchNorm1d at 0"):
        train(model, *units(), full())


@pytest.mark.parametrize(
    ("sampling", "rate"), [("shuffled", 0.1), ("full", 0.5), ("poisson", 1.0), ("poisson", 0.0), ("poisson", -1.0)]
)
def test_sampling_that_no_accountant_covers_is_refused(sampling: str, rate: float) -> None:
    """Shuffled batches of fixed size are not Poisson, whatever is often claimed."""
    with pytest.raises(PlanError, match=r"training\.sampling"):
        LocalTraining(
            steps=1,
            clip=1.0,
            learning_rate=1.0,
            momentum=0.0,
            sampling=sampling,  # type: ignore[arg-type]
            rate=rate,
            declared_units=9,
        )


@pytest.mark.parametrize("field", ["steps", "clip", "learning_rate", "momentum", "declared_units"])
def test_settings_out_of_range_are_refused(field: str) -> None:
    """Each would train without the bound that is charged."""
    values = {"steps": 1, "clip": 1.0, "learning_rate": 1.0, "momentum": 0.0, "declared_units": 9, field: -1}
    with pytest.raises(PlanError, match="are allowed"):
        LocalTraining(**values, sampling="full", rate=1.0)  # type: ignore[arg-type]


def test_inputs_without_labels_are_our_own_mistake() -> None:
    """A wrong pairing would train on other patients' labels."""
    x, y = units()
    with pytest.raises(LocalProtocolError):
        train(head(), x, y[:-1], full())


def test_real_coins_choose_different_batches_each_step() -> None:
    """Poisson sampling by the CSPRNG: of forty units never the same ones, and sizes vary as they should."""
    batches: list[bytes] = []
    sizes: list[int] = []

    def counted(count: int, rate: float) -> NDArray[np.bool_]:
        drawn = bernoulli(count, rate)
        batches.append(drawn.tobytes())
        sizes.append(int(drawn.sum()))
        return drawn

    train(head(), *units(), poisson(0.5, steps=30), randomness=Randomness(noise=silence, coins=counted))
    assert len(set(batches)) == len(batches) == 30
    assert 13 < np.mean(sizes) < 27
    assert len(set(sizes)) > 3
