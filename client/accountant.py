"""How much privacy training costs: epsilon of composed Gaussian mechanisms.

The adjacency is add/remove of one unit. The truth is the privacy loss distribution (PLD) of `dp_accounting`, rounded
pessimistically; Renyi differential privacy (RDP) is the guard: a valid PLD never exceeds it.

The released noise is a discrete Gaussian on a grid of at most sensitivity * 2^-20 (`client.noise`), while the PLD is
that of a continuous one. Rounding a continuous Gaussian to the grid is post-processing, so only the step from the
rounded (R) to the discrete Gaussian (Z) is left to pay. With s = sigma * 2^20 grid steps and z = k/s,

    ln P_R(k)/P_Z(k) = (z^2 - 1)/(24 s^2) + e,    |e| <= (z^4 + 1)/(320 s^4),

from cosh(x) <= exp(x^2/2), cosh(x) >= exp(x^2/2 - x^4/8), Jensen, and |integral of exp(c u^2) - 1 - c/12| <= c^2/80
(normalising constants agree to exp(-2 pi^2 s^2)). Summed over all N released numbers of a ledger the first term is
a centred chi-square, so by Laurent and Massart (2000), lemma 1, with x = 1500 and outside of a set of probability
beta < 1e-600,

    |ln P_R/P_Z| <= eta = (2 sqrt(1500 N) + 3000)/(24 s^2) + (30 N + 40000)/s^4,

and (epsilon, delta) of R gives (epsilon + 2 eta, exp(eta) delta + beta (1 + exp(epsilon))) of Z. Here N = 2^40
(a million parameters for a million steps) is allowed for; at sigma = 1, 2 eta = 6.2e-6 is added to epsilon and 3.1e-6
of delta to delta; the beta term is below 1e-200 up to epsilon 1000. The total variation bound, which adds to delta
alone, would cost (1 + exp(epsilon)) N 0.02/s^2: too much to be of use.

In mode `distributed` the released noise is a sum of m discrete Gaussians whose standard deviation is at least 4 grid
steps each: its log ratio to one discrete Gaussian is at most 10 m exp(-2 pi^2 16/2) per number (Kairouz, Liu, Steinke,
2021, arXiv:2102.06387, corollary 12): below 1e-52 over N numbers for m up to 1000, which eta is rounded up for.

References:
    Koskela, Jalkö, Honkela, 2020, arXiv:1906.03049; Doroshenko et al., 2022, arXiv:2207.04380 (pessimistic PLD).
    Canonne, Kamath, Steinke, 2020, arXiv:2004.00010 (discrete Gaussian).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import dp_accounting
import numpy as np
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

from common.errors import LedgerError, LocalProtocolError, PlanError

GRID_BITS = 20
# Below it the PLD's truncated tails (1e-15) outweigh delta and epsilon becomes infinite.
LEAST_DELTA = 1e-12
_NUMBERS_RELEASED = 2.0**40
_INTERVAL = 1e-4
# Fractional orders do not always converge for subsampled Gaussians in dp_accounting; without them RDP is only looser.
_ORDERS_FULL = (*(1 + x / 10 for x in range(1, 100)), *range(11, 64), 128, 256, 512, 1024)
_ORDERS_POISSON = (*range(2, 64), 128, 256, 512, 1024)


@dataclass(frozen=True, slots=True)
class PrivacyEvent:
    """Some steps of one Gaussian mechanism.

    Attributes:
        q: Probability that a unit takes part in a step, in (0, 1]; 1 is the full batch, less is Poisson sampling.
        sigma: Standard deviation of the noise in units of the sensitivity, > 0.
        steps: How many steps, >= 1.

    Raises:
        LocalProtocolError: If a value is out of its range.
    """

    q: float
    sigma: float
    steps: int

    def __post_init__(self) -> None:
        if not (0 < self.q <= 1 and 0 < self.sigma < math.inf and self.steps >= 1):
            raise LocalProtocolError(
                f"a privacy event has q {self.q}, sigma {self.sigma}, {self.steps} steps; "
                "0 < q <= 1, sigma > 0 and steps >= 1 are allowed"
            )


def epsilon_of(events: Sequence[PrivacyEvent], delta: float) -> float:
    """Epsilon at `delta` of all events together, for a discrete Gaussian on the grid of `client.noise`.

    Args:
        events: In any order; equal ones are grouped.
        delta: In (0, 1).

    Raises:
        LocalProtocolError: If delta is not in (0, 1).
        LedgerError: If the two accountants contradict each other.

    Guarantees:
        Never below the true epsilon of the released numbers (see the module).
    """
    if not 0 < delta < 1:
        raise LocalProtocolError(f"delta is {delta}; a number between 0 and 1 is allowed")
    groups: Counter[tuple[float, float]] = Counter()
    for event in events:
        groups[event.q, event.sigma] += event.steps
    return _epsilon_of_groups(tuple(sorted((q, sigma, n) for (q, sigma), n in groups.items())), delta)


@lru_cache(maxsize=4096)
def _epsilon_of_groups(groups: tuple[tuple[float, float, int], ...], delta: float) -> float:
    if not groups:
        return 0.0
    eta = _log_ratio_to_rounded_gaussian(min(sigma for _, sigma, _ in groups))
    inner_delta = delta * math.exp(-eta)
    bound = _compose(RdpAccountant(_ORDERS_FULL if all(q == 1 for q, _, _ in groups) else _ORDERS_POISSON), groups)
    rdp = float(bound.get_epsilon(inner_delta))
    if not math.isfinite(rdp):
        return math.inf
    # A coarser grid for large epsilon keeps the number of points, and so the time, bounded; it stays pessimistic.
    interval = _INTERVAL * 2.0 ** max(0, math.ceil(math.log2(max(rdp, 1e-9) / 16)))
    counted = _compose(PLDAccountant(value_discretization_interval=interval), groups)
    pld = _epsilon_of_pld(counted, inner_delta, most=rdp)
    tolerance = interval * (1 + sum(n for q, _, n in groups if q < 1) + len(groups))
    if pld > rdp + tolerance:
        raise LedgerError(
            f"the PLD accountant gives epsilon {pld:.6f} where RDP bounds it by {rdp:.6f}; "
            "one of them is wrong, so nothing is trained: reinstall the pinned dp-accounting"
        )
    return pld + 2 * eta


def _epsilon_of_pld(counted: PLDAccountant, delta: float, *, most: float) -> float:
    with np.errstate(over="ignore"):
        epsilon = float(counted.get_epsilon(delta))
    if math.isfinite(epsilon) or counted.get_delta(most) > delta:
        return epsilon
    # From 709 on, where exp(-epsilon) is no normal float, `get_epsilon` may say infinity; `get_delta` does not.
    low, high = 0.0, most
    while high > low + 1e-6 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if counted.get_delta(middle) > delta else (low, middle)
    return high


def _log_ratio_to_rounded_gaussian(sigma: float) -> float:
    """The bound eta of the module's docstring."""
    grid_sd = sigma * 2.0**GRID_BITS
    count = _NUMBERS_RELEASED
    eta = (2 * math.sqrt(1500 * count) + 3000) / (24 * grid_sd**2) + (30 * count + 40_000) / grid_sd**4
    return eta * (1 + 1e-9) + 1e-30


def _compose(
    accountant: PLDAccountant | RdpAccountant, groups: tuple[tuple[float, float, int], ...]
) -> PLDAccountant | RdpAccountant:
    # Full-batch Gaussians compose to one Gaussian exactly: their 1/sigma^2 add up (an adaptive sum of
    # Gaussian privacy losses is dominated by the Gaussian one of the total, Dong, Roth, Su, 2019, corollary 3.3).
    precision = math.fsum(n / sigma**2 for q, sigma, n in groups if q == 1)
    if precision > 0:
        accountant.compose(dp_accounting.GaussianDpEvent(1 / math.sqrt(precision)))
    for q, sigma, n in groups:
        if q < 1:
            accountant.compose(dp_accounting.PoissonSampledDpEvent(q, dp_accounting.GaussianDpEvent(sigma)), n)
    return accountant


def check_delta(delta: float, units: int) -> None:
    """Refuse a delta that would allow publishing one unit outright.

    Raises:
        PlanError: If delta is not in (0, 1/units).
    """
    if units < 1:
        raise PlanError(f"seen {units} training units; at least one is needed to train")
    if not 0 < delta < 1 / units:
        raise PlanError(
            f"privacy.delta: seen {delta:g} with {units} units; more than 0 and less than 1/n = {1 / units:.3g} "
            "is allowed; lower privacy.delta"
        )
