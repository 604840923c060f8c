"""Units of several images under a model on raw pixels: one row each, its image drawn anew, by no seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from client.batches import unit_batches
from client.data import ImageRecord
from client.dpsgd import LocalTraining, Randomness, train_local
from client.evaluate import confusion
from client.networks import small_cnn
from client.noise import bernoulli
from client.unit_data import UnitData
from client.unit_images import ImageDraw, UnitImages, draw_below
from common.errors import LocalProtocolError

SIDE = 16
QUIET = Randomness(noise=lambda count, _sd: np.zeros(count, np.int64))


def images(owners: Sequence[str], *, seed: int = 0) -> tuple[UnitImages, list[ImageRecord], Tensor]:
    """One image for each owner named, all different; units in sorted order."""
    pixels = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (len(owners), 3, SIDE, SIDE), np.uint8))
    # Digests that are in no order of paths.
    records = [ImageRecord(f"{n:03}.png", 0, owner, f"{(n * 7919 + 13) % 9973:064x}") for n, owner in enumerate(owners)]
    return UnitImages.of_units(pixels, records, sorted(set(owners))), records, pixels


def scaled(pixels: Tensor) -> Tensor:
    """What the model is fed."""
    return (pixels.float() - 127) / 128


def seeded(seed: int) -> ImageDraw:
    """A stub that repeats itself: the control of every test of the CSPRNG."""
    generator = np.random.default_rng(seed)
    return lambda counts: generator.integers(0, counts)


def always(number: int) -> ImageDraw:
    """A draw that takes the image of this number, counted round and round."""
    return lambda counts: number % counts


def test_a_unit_with_fifty_images_is_one_row_and_each_of_them_serves() -> None:
    """One row per unit whatever it holds, and over draws no image is left out."""
    x, records, pixels = images(["A"] * 50 + ["B", "C", "C"])
    assert len(x) == 3
    own = {unit: [scaled(p) for p, r in zip(pixels, records, strict=True) if r.unit == unit] for unit in "ABC"}
    served = set()
    for _ in range(1500):
        batch = x[[0, 1, 2]]
        assert batch.shape == (3, 3, SIDE, SIDE)
        assert batch.dtype == torch.float32
        for row, unit in zip(batch, "ABC", strict=True):
            (which,) = [n for n, image in enumerate(own[unit]) if torch.equal(row, image)]
            served.add((unit, which))
    assert len(served) == 53


def test_each_step_draws_anew_and_no_seed_reaches_it() -> None:
    """Two runs under the same seeds of torch, numpy and random differ; with a seeded stub they are equal."""
    x, _, _ = images([f"{n % 40:02}" for n in range(320)])
    assert len(x) == 40

    def batches(source: UnitImages) -> list[Tensor]:
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002 -- the global generator is what must not matter
        random.seed(0)
        return [source[chosen] for chosen in unit_batches(40, steps=3, rate=1, coins=bernoulli)]

    first, second = batches(x), batches(x)
    assert not torch.equal(first[0], first[1])
    assert not any(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    repeated, again = (batches(replace(x, draw=seeded(1))) for _ in range(2))
    assert not torch.equal(repeated[0], repeated[1])
    assert all(torch.equal(a, b) for a, b in zip(repeated, again, strict=True))


def test_an_empty_poisson_batch_holds_no_image() -> None:
    """It is a step like any other, of pure noise."""
    x, _, _ = images(["A", "A", "B"])
    assert x[[]].shape == (0, 3, SIDE, SIDE)


def test_draws_are_uniform_below_each_count() -> None:
    """A hundred thousand draws below 1, 2, 7 and 50 pass chi-square; it fails once in 10^9 tests."""
    # The quantiles of chi-square with count - 1 degrees of freedom at 10^-9.
    for count, most in ((1, 0.0), (2, 37.3), (7, 53.3), (50, 133.3)):
        drawn = np.bincount(draw_below(np.full(100_000, count)), minlength=count)
        assert drawn.sum() == 100_000
        assert len(drawn) == count
        statistic = float(((drawn - 100_000 / count) ** 2).sum() * count / 100_000)
        assert statistic <= most


@pytest.mark.parametrize("kind", ["full", "poisson"])
def test_a_unit_is_drawn_once_per_batch_that_it_enters(kind: str) -> None:
    """By training itself: as many draws as steps, one image for each unit whose coin fell."""
    x, _, _ = images([f"{n % 12:02}" for n in range(30)])
    drawn: list[int] = []
    chosen: list[int] = []

    def draw(counts: np.ndarray) -> np.ndarray:
        drawn.append(len(counts))
        return draw_below(counts)

    def coins(count: int, rate: float) -> np.ndarray:
        fallen = bernoulli(count, rate)
        chosen.append(int(fallen.sum()))
        return fallen

    settings = training(steps=5) if kind == "full" else replace(training(steps=5), sampling="poisson", rate=0.5)
    quiet = replace(QUIET, coins=coins)
    train(replace(x, draw=draw), settings, quiet)
    # An empty batch asks for no image, or for an empty list of them.
    assert [n for n in drawn if n] == [n for n in chosen if n]
    assert len(chosen) == 5
    if kind == "full":
        assert drawn == [12] * 5


def training(*, steps: int = 1) -> LocalTraining:
    """Full batches; one unit's clipped gradient moves a parameter vector by at most 1."""
    return LocalTraining(
        steps=steps,
        clip=0.5,
        learning_rate=2.0,
        momentum=0.0,
        sampling="full",
        rate=1.0,
        declared_units=1,
    )


def network() -> nn.Module:
    """The plan's network, small."""
    return small_cnn(4, classes=2, seed=0).double()


def train(x: UnitImages | Tensor, settings: LocalTraining, randomness: Randomness = QUIET) -> np.ndarray:
    """Training without noise; all of one class, so that gradients point one way."""
    labels = torch.zeros(len(x), dtype=torch.int64)
    return train_local(
        network(), x, labels, settings=settings, sigma=1.0, on_step=lambda _: None, randomness=randomness
    )


def test_a_patient_with_fifty_images_moves_the_sum_by_at_most_the_clip() -> None:
    """The sum before noise, with and without the patient; the control counts images and moves by far more."""
    with_patient, records, pixels = images(["0"] + [str(n) for n in range(1, 6)] + ["zz"] * 50)
    without = with_patient.where(np.array([True] * 6 + [False]))
    assert (len(with_patient), len(without)) == (7, 6)
    moved = np.linalg.norm(train(with_patient, training()) - train(without, training()))
    assert 0.9 < moved <= 1.0 + 1e-6
    by_image = np.linalg.norm(train(scaled(pixels), training()) - train(scaled(pixels[:6]), training()))
    assert by_image > 5
    assert sum(record.unit == "zz" for record in records) == 50


def test_scoring_makes_no_more_than_a_chunk_floating() -> None:
    """A hospital's held-out images at once would take gigabytes; counts and outputs are those of all at once."""
    x, _, _ = images([f"{n:03}" for n in range(150)])
    asked: list[int] = []

    def recorded(rows: Tensor) -> Tensor:
        asked.append(len(rows))
        return scaled(rows)

    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 4)).double()
    y = torch.arange(150) % 4
    counts = confusion(model, replace(x, prepare=recorded).firsts(), y, classes=4)
    assert asked == [64, 64, 22]
    whole = x.firsts()[range(len(x))].double()
    predicted = model(whole).argmax(1)
    assert counts.tolist() == [[int(((y == t) & (predicted == p)).sum()) for p in range(4)] for t in range(4)]


def test_scoring_takes_one_image_of_a_unit_and_always_the_same() -> None:
    """That with the smallest SHA-256, whatever is drawn, wherever the unit stands and whoever else is there."""
    owners = [f"{n % 9}" for n in range(40)]
    x, records, pixels = images(owners)
    smallest = [min((r.sha256, n) for n, r in enumerate(records) if r.unit == unit)[1] for unit in sorted(set(owners))]
    data = UnitData(x, torch.zeros(9, dtype=torch.int64), tuple(sorted(set(owners))))
    scored = data.to_score(np.zeros(0))
    assert all(torch.equal(scored[list(range(9))], scaled(pixels[smallest])) for _ in range(5))
    some = data.where([unit in "258" for unit in data.units]).to_score(np.zeros(0))
    assert torch.equal(some[[0, 1, 2]], scaled(pixels[[smallest[2], smallest[5], smallest[8]]]))
    assert all(torch.equal(scored[[n]], scaled(pixels[[smallest[n]]])) for n in (8, 3, 3))
    # The control: what training is given varies.
    assert not all(torch.equal(x[range(9)], x[range(9)]) for _ in range(5))


def test_what_stands_of_a_unit_does_not_depend_on_other_units() -> None:
    """Each unit's images, with and without each other unit, by the same draws of that unit."""
    owners = ["A", "B", "A", "C", "C", "A", "D"]
    x, records, pixels = images(owners)
    for gone in sorted(set(owners)):
        kept = [n for n, record in enumerate(records) if record.unit != gone]
        left = sorted(set(owners) - {gone})
        less = UnitImages.of_units(pixels[kept], [records[n] for n in kept], left)
        for turn in range(3):
            fixed = [replace(each, draw=always(turn)) for each in (x, less)]
            for row, unit in enumerate(left):
                whole = fixed[0][[sorted(set(owners)).index(unit)]]
                assert torch.equal(whole, fixed[1][[row]])
    # The control: a rule that looks at how many others there are would be seen.
    turned = [replace(each, draw=always(len(each))) for each in (x, less)]
    assert not torch.equal(turned[0][[0]], turned[1][[0]])


def test_pixels_are_kept_as_bytes_and_shared_by_training_and_held_out_units() -> None:
    """All images of all units lie in memory once: a batch alone becomes floating."""
    x, _, pixels = images([f"{n % 5}" for n in range(20)])
    train_part, held_out = (
        x.where(np.array(mask)) for mask in ([True, True, True, False, False], [False] * 3 + [True] * 2)
    )
    assert x.pixels.dtype == torch.uint8
    assert train_part.pixels is held_out.pixels is x.pixels is pixels


def test_pixels_and_records_that_do_not_match_are_refused() -> None:
    """Else somebody's image would stand for another."""
    _, records, pixels = images(["A", "B"])
    with pytest.raises(LocalProtocolError, match="1 images but 2 records"):
        UnitImages.of_units(pixels[:1], records, ("A", "B"))
