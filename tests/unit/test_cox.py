"""Proportional hazards: the likelihood, what it finds, what one patient can do to it, and how it is scored."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import nn

from client.clipped_sum import HookedSum, OneByOneSum, choose_clipped_sum
from client.dpsgd import LocalTraining, refuse_unsupported_layers, train_local
from client.evaluate import concordance, hazard_concordance
from client.model import load_vector, trainable_vector
from client.survival import ProportionalHazards, hazard_losses
from client.unit_loss import unit_loss
from common.errors import LocalProtocolError

Floats = NDArray[np.float64]
WEIGHTS = np.array([0.8, -0.5, 0.0])
CUTS = tuple(0.1 * k for k in range(1, 21))
CONSTANT = 0.5


def patients(count: int, *, seed: int = 1) -> tuple[Floats, Floats]:
    """Rows with a constant at their end; event and time, of hazard 0.7 exp(w.x), censored at random up to 2."""
    random = np.random.default_rng(seed)
    features = random.uniform(-1, 1, (count, len(WEIGHTS)))
    died = random.exponential(1 / (0.7 * np.exp(features @ WEIGHTS)))
    censored = random.uniform(0.2, 2.0, count)
    time = np.minimum(died, censored)
    x = np.concatenate([features, np.full((count, 1), CONSTANT)], axis=1)
    return x, np.stack([(died <= censored).astype(float), time], axis=1)


def likelihood_by_hand(parameters: Floats, x: Floats, y: Floats, cuts: tuple[float, ...]) -> float:
    """Minus the log likelihood, patient by patient and interval by interval, from the definition of a hazard."""
    weights, levels = parameters[: x.shape[1] - 1], parameters[x.shape[1] - 1 :]
    total = 0.0
    for row, (event, time) in zip(x, y, strict=True):
        start, log_hazard = 0.0, -math.inf
        for end, level in zip(cuts, levels, strict=True):
            if time <= start and start > 0:
                break
            log_hazard = float(row[:-1] @ weights + level * row[-1])
            total += math.exp(log_hazard) * (min(time, end) - start) / cuts[-1]
            start = end
        if event and time <= cuts[-1]:
            total -= log_hazard
    return total


def partial_likelihood_weights(x: Floats, y: Floats) -> Floats:
    """Cox's own estimate: Newton on the partial likelihood, which needs no baseline."""
    order = np.argsort(-y[:, 1])
    features, event = x[order, :-1], y[order, 0]
    weights = np.zeros(features.shape[1])
    for _ in range(20):
        risk = np.exp(features @ weights)
        total = np.cumsum(risk)
        first = np.cumsum(risk[:, None] * features, axis=0) / total[:, None]
        outer = np.einsum("ni,nj->nij", features, features)
        second = np.cumsum(risk[:, None, None] * outer, axis=0) / total[:, None, None]
        gradient = (event[:, None] * (features - first)).sum(axis=0)
        spread = second - np.einsum("ni,nj->nij", first, first)
        weights += np.linalg.solve((event[:, None, None] * spread).sum(axis=0), gradient)
    return weights


def fitted(x: Floats, y: Floats, cuts: tuple[float, ...]) -> ProportionalHazards:
    """The maximum of our likelihood."""
    model = ProportionalHazards(x.shape[1], cuts).double()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=200, line_search_fn="strong_wolfe")
    rows, seen, loss = torch.from_numpy(x), torch.from_numpy(y), unit_loss(model)

    def closure() -> float:
        optimizer.zero_grad()
        value = loss(model(rows), seen).mean()
        value.backward()  # type: ignore[no-untyped-call]
        return float(value.detach())

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return model


def test_the_losses_add_up_to_the_likelihood_of_the_definition() -> None:
    """Events and censored times before, at and past the cuts, and at zero."""
    cuts = (0.5, 1.0, 2.0)
    times = [0.0, 0.2, 0.5, 0.50001, 1.0, 1.7, 2.0, 2.5, 40.0]
    y = np.array([(event, time) for event in (0.0, 1.0) for time in times])
    x = np.random.default_rng(2).uniform(-1, 1, (len(y), 4))
    parameters = np.random.default_rng(3).uniform(-1, 1, 6)
    model = ProportionalHazards(4, cuts).double()
    load_vector(model, parameters)
    rows, seen = torch.from_numpy(x), torch.from_numpy(y)
    losses = hazard_losses(model(rows), seen, cuts=cuts).detach()
    for k in range(len(y)):
        by_hand = likelihood_by_hand(parameters, x[k : k + 1], y[k : k + 1], cuts)
        assert float(losses[k]) == pytest.approx(by_hand, abs=1e-12)
    moved = parameters + np.eye(6)[0]
    assert likelihood_by_hand(moved, x, y, cuts) != pytest.approx(float(losses.sum()), rel=1e-3)  # control


def test_the_fit_is_that_of_scipy_and_close_to_coxs_own() -> None:
    """Three ways to one answer: our gradients, scipy without gradients, and the partial likelihood by Newton."""
    x, y = patients(1500)
    model = fitted(x, y, CUTS)
    ours = trainable_vector(model)[: len(WEIGHTS)]
    few = (1.0, 2.0)
    coarse = trainable_vector(fitted(x[:150], y[:150], few))
    theirs = minimize(
        likelihood_by_hand, np.zeros(5), args=(x[:150], y[:150], few), method="BFGS", options={"gtol": 1e-4}
    )
    np.testing.assert_allclose(coarse, theirs.x, atol=1e-4)
    np.testing.assert_allclose(ours, partial_likelihood_weights(x, y), atol=0.02)
    np.testing.assert_allclose(ours, WEIGHTS, atol=0.2)
    assert np.abs(ours).max() > 0.5  # control: zeros would not pass


def test_training_under_privacy_ranks_new_patients() -> None:
    """Few rounds on 600 patients, with noise; the control is the untrained model."""
    x, y = patients(600)
    fresh, truth = (torch.from_numpy(part) for part in patients(600, seed=9))
    model = ProportionalHazards(x.shape[1], CUTS).double()
    refuse_unsupported_layers(model)
    assert hazard_concordance(model, fresh, truth) == 0.5
    train_local(
        model,
        torch.from_numpy(x),
        torch.from_numpy(y),
        settings=LocalTraining(
            steps=40, clip=0.5, learning_rate=1.0, momentum=0.9, sampling="full", rate=1.0, declared_units=600
        ),
        sigma=8.0,
        on_step=lambda _: None,
    )
    found = hazard_concordance(model, fresh, truth)
    best = hazard_concordance(fitted(x, y, CUTS), fresh, truth)
    assert found > best - 0.05 > 0.55


def test_a_patient_adds_its_own_clipped_gradient_to_the_last_bit() -> None:
    """Whoever else is there. The control: under the partial likelihood one patient more moves the others' gradients."""
    x, y = (torch.from_numpy(part) for part in patients(40))
    model = ProportionalHazards(x.shape[1], CUTS).double()
    load_vector(model, np.linspace(-1, 1, trainable_vector(model).size))
    sums = choose_clipped_sum(model, x, y, clip=0.3)
    assert isinstance(sums, OneByOneSum)
    each = [sums([unit]) for unit in range(40)]
    np.testing.assert_array_equal(sums(range(40)), np.sum(each, axis=0))
    norms = [np.linalg.norm(one * 2.0**-44) for one in each]
    assert max(norms) <= 1 + 1e-9
    assert max(norms) > 0.999
    hooked = HookedSum(model, x, y, clip=0.3)(range(40))
    np.testing.assert_allclose(hooked * 2.0**-44, sums(range(40)) * 2.0**-44, atol=1e-9)

    def partial(rows: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        weights = torch.zeros(len(WEIGHTS), dtype=torch.float64, requires_grad=True)
        scores = rows[:, :-1] @ weights
        first = int(torch.argmin(seen[:, 1]))
        loss = -(scores[first] - torch.logsumexp(scores, 0))
        return torch.autograd.grad(loss, weights)[0]

    early = torch.argsort(y[:, 1])
    gone = early[:-1]
    assert (partial(x, y) - partial(x[gone], y[gone])).abs().max() > 1e-3


def test_a_patient_with_a_broken_number_adds_nothing() -> None:
    """Also where a hazard overflows."""
    x, y = (torch.from_numpy(part) for part in patients(5))
    model = ProportionalHazards(x.shape[1], CUTS).double()
    load_vector(model, np.full(trainable_vector(model).size, 1000.0))
    x[2] = math.nan
    x[3] = 1.0
    sums = choose_clipped_sum(model, x, y, clip=0.3)
    assert not sums([2]).any()
    assert not sums([3]).any()


def test_harrells_c_counts_pairs() -> None:
    """By hand: ties of risk count half; a patient censored earlier cannot be compared."""
    time = np.array([1.0, 2.0, 2.0, 3.0])
    event = np.array([True, False, True, False])
    # Pairs: (0,1) (0,2) (0,3), and of patient 2: 1, who was censored at the same time, and 3.
    assert concordance(np.array([4.0, 1.0, 3.0, 1.0]), event, time) == 1.0
    assert concordance(np.array([0.0, 1.0, 0.5, 1.0]), event, time) == 0.0
    assert concordance(np.array([2.0, 2.0, 1.0, 3.0]), event, time) == pytest.approx(1.5 / 5)
    assert concordance(np.zeros(4), event, time) == 0.5
    assert math.isnan(concordance(np.zeros(4), np.zeros(4, bool), time))
    assert math.isnan(concordance(np.zeros(0), np.zeros(0, bool), np.zeros(0)))


def concordance_by_pairs(risk: Floats, event: NDArray[np.bool_], time: Floats) -> float:
    """Harrell's C from its definition, over unordered pairs: comparable if the shorter time ended in an event."""
    usable, concordant = 0, 0.0
    for i, j in itertools.combinations(range(len(time)), 2):
        if time[i] == time[j] and event[i] == event[j]:
            continue
        # Of equal times the event was first: the other one was still without it.
        first, second = (i, j) if (time[i], not event[i]) < (time[j], not event[j]) else (j, i)
        if not event[first]:
            continue
        usable += 1
        concordant += 0.5 if risk[first] == risk[second] else float(risk[first] > risk[second])
    return concordant / usable if usable else math.nan


@given(
    st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 3)), max_size=12),
)
def test_harrells_c_is_that_of_all_pairs(patients: list[tuple[int, bool, int]]) -> None:
    """Few times and few risks, so that both are often tied, also a death and a censoring on one day."""
    time, event, risk = (np.array([each[k] for each in patients]) for k in range(3))
    ours = concordance(risk.astype(float), event.astype(bool), time.astype(float))
    assert ours == pytest.approx(concordance_by_pairs(risk, event, time), nan_ok=True)


def test_the_loss_is_chosen_by_the_model() -> None:
    """Cross entropy for all others."""
    outputs, y = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([0, 1])
    due = nn.functional.cross_entropy(outputs, y, reduction="none")
    assert torch.equal(unit_loss(nn.Linear(1, 2))(outputs, y), due)
    seen = torch.tensor([[1.0, 0.5], [0.0, 0.5]])
    assert torch.equal(
        unit_loss(ProportionalHazards(2, (1.0, 2.0)))(outputs, seen), hazard_losses(outputs, seen, cuts=(1.0, 2.0))
    )


def test_sizes_that_have_no_meaning_are_refused() -> None:
    """A row has a feature beside its constant."""
    with pytest.raises(LocalProtocolError, match="2 and 1 do"):
        ProportionalHazards(1, (1.0,))
