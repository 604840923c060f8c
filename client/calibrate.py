"""How much noise a budget needs: the noise multiplier, by the accountant's own count."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

from client.accountant import LEAST_DELTA, PrivacyEvent, epsilon_of
from common.errors import PlanError
from common.plan_settings import MOST_EPSILON

# Below it so few units take part that next to no noise is asked for, whose PLD needs minutes and gigabytes.
LEAST_RATE = 1e-3
# Below it the PLD of a share of it, of sixty hospitals, runs off the accountant's scale; budgets up to 1000 ask for
# less only where a rate is hardly above delta, so that next to no noise is needed at all.
LEAST_SIGMA = 0.02
# Above it the sampler's scale, in grid steps of C*2^-20, would pass 2^45 (`client.noise`).
MOST_SIGMA = 2.0**24
# Up to here exp(epsilon) is a float.
_LARGEST_EXPONENT = 700.0


@lru_cache(maxsize=256)
def solve_sigma(*, epsilon: float, delta: float, q: float, steps: int, others: tuple[PrivacyEvent, ...] = ()) -> float:
    """Smallest sigma whose `steps` steps at rate `q` stay within (epsilon, delta), to 1e-4 relative.

    Args:
        epsilon: The budget.
        delta: At which it is counted.
        q: Probability that a unit takes part in a step.
        steps: How many.
        others: What the budget must pay for besides.

    Raises:
        PlanError: If epsilon is not in (0, 1000], delta is not in [1e-12, 1), q is not in [1e-3, 1] or steps < 1, if
            the others leave nothing, or if sigma would not be in [0.02, 2^24].

    Guarantees:
        `epsilon_of([*others, PrivacyEvent(q, sigma, steps)], delta) <= epsilon`.
    """
    if not 0 < epsilon <= MOST_EPSILON:
        raise PlanError(
            f"privacy.epsilon: seen {epsilon:g}; epsilon > 0 up to {MOST_EPSILON:g} is allowed, since more is no "
            "privacy and cannot be accounted for; lower it"
        )
    if not LEAST_DELTA <= delta < 1:
        raise PlanError(
            f"privacy.delta: seen {delta:g}; {LEAST_DELTA:g} to less than 1 is allowed, since less cannot be accounted "
            "for; 1e-5 or a tenth of 1/n is usual"
        )
    if not LEAST_RATE <= q <= 1:
        raise PlanError(
            f"training.sampling.rate: seen {q:g}; {LEAST_RATE:g} to 1 is allowed, since less leaves nobody to train "
            "on; raise the rate"
        )
    if steps < 1:
        raise PlanError(f"training.rounds and local_steps: seen {steps} steps in all; at least one is allowed")
    left = 1 / gaussian_sigma(epsilon, delta) ** 2 - sum(event.steps / event.sigma**2 for event in others)
    if left <= 0 or epsilon_of(others, delta) >= epsilon:
        raise PlanError(f"privacy: seen epsilon {epsilon:g}, which other rounds spend alone; lower privacy.mean_share")
    mu = math.sqrt(left)
    # Central limit of the Poisson-sampled Gaussian (Bu et al., 2019, arXiv:1911.11607): only a first guess.
    guess = math.sqrt(steps) / mu if q == 1 else 1 / math.sqrt(math.log1p(mu**2 / (q**2 * steps)))

    def log_ratio(log_sigma: float) -> float:
        sigma = max(math.exp(log_sigma), LEAST_SIGMA)
        spent = epsilon_of([*others, PrivacyEvent(q, sigma, steps)], delta)
        if sigma == LEAST_SIGMA and spent <= epsilon:
            raise PlanError(
                f"privacy: seen epsilon {epsilon:g} at delta {delta:g} with rate {q:g} and {steps} steps, which asks "
                f"for a noise multiplier below {LEAST_SIGMA:g}; more is allowed, since less is no noise; lower "
                "privacy.epsilon or privacy.delta"
            )
        return math.log(max(spent, epsilon * 1e-9) / epsilon)

    sigma = _smallest(log_ratio, guess)
    check_most_noise(sigma, f"privacy.epsilon: seen {epsilon:g}")
    return sigma


def check_most_noise(sigma: float, seen: str) -> None:
    """Refuse a noise multiplier that no noise can be drawn with; asked before anything is charged.

    Args:
        sigma: The multiplier, > 0.
        seen: Begins the message: what asks for it.

    Raises:
        PlanError: If it is above 2^24.
    """
    if sigma > MOST_SIGMA:
        raise PlanError(
            f"{seen}, which asks for a noise multiplier of {sigma:.3g}; at most {MOST_SIGMA:.3g} is allowed; raise it"
        )


def _smallest(log_ratio: Callable[[float], float], guess: float) -> float:
    """Smallest x with log_ratio(log x) <= 0 for a decreasing function, to 5e-5 relative, from a good guess."""
    x, slope = math.log(guess), -1.0
    seen = log_ratio(x)
    low, high = (x, math.inf) if seen > 0 else (-math.inf, x)
    while high - low > 5e-5:
        # Secant in logarithms, with a hair beyond the root so that the next point brackets it from the other side.
        following = x - seen / slope + math.copysign(2e-5, seen)
        if not low < following < high:
            following = (low + high) / 2
        value = log_ratio(following)
        slope = min(max((value - seen) / (following - x), -4.0), -0.25)
        x, seen = following, value
        low, high = (x, high) if seen > 0 else (low, x)
    return math.exp(high)


def gaussian_sigma(epsilon: float, delta: float) -> float:
    """Sigma of one Gaussian mechanism of sensitivity 1, to 1e-9 (Balle and Wang, 2018, arXiv:1805.06530, theorem 8)."""
    low, high = 1e-6, 1e6
    while high > low * (1 + 1e-9):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if gaussian_delta(middle, epsilon) > delta else (low, middle)
    return high


def gaussian_delta(sigma: float, epsilon: float) -> float:
    """Delta of one continuous Gaussian mechanism of sensitivity 1 at `epsilon`: exact, above 700 to 1e-8 relative."""
    a, b = ((epsilon * sigma + sign * 0.5 / sigma) / math.sqrt(2) for sign in (-1, 1))
    upper = 0.5 * math.erfc(a)
    if epsilon <= _LARGEST_EXPONENT:
        lower = 0.5 * math.erfc(b)
        return upper - (math.exp(epsilon) * lower if lower > 0 else 0.0)
    # exp(epsilon) overflows where erfc(b) underflows. b^2 - a^2 is epsilon, and b at least its root, so 26: there
    # exp(b^2) erfc(b) is the first terms of its asymptotic series.
    return upper - 0.5 * math.exp(-a * a) * (1 - 0.5 / b**2 + 0.75 / b**4) / (b * math.sqrt(math.pi))
