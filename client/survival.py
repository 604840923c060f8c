"""Proportional hazards with a baseline that is constant between public cuts: the model and each patient's own loss.

The likelihood is a product over patients (Holford, 1980; Friedman, 1982), so a patient's gradient is a function of that
patient alone and can be clipped. Cox's partial likelihood is not: each factor compares one patient with all who were
still at risk, and one patient more changes the gradients of all who had their event earlier.

References:
    Holford, 1980, "The analysis of rates and of survivorship using log-linear models", Biometrics 36.
    Friedman, 1982, "Piecewise exponential models for survival data with covariates", Annals of Statistics 10.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common.errors import LocalProtocolError


class ProportionalHazards(nn.Module):
    """Log hazards of each interval, for rows whose last number is the constant of `client.data.rows`.

    Log hazard of row x in interval k: `risk` . x[:-1] + `baseline`_k x[-1]. The hazard is per time up to the last cut:
    with all parameters zero one event is expected in it. Both start at zero.

    Args:
        inputs: Length of a row, >= 2.
        cuts: Ends of the intervals, rising, > 0, in the plan's time unit.

    Raises:
        LocalProtocolError: If the sizes do not fit.
    """

    def __init__(self, inputs: int, cuts: Sequence[float]) -> None:
        super().__init__()
        if inputs < 2 or not cuts:
            raise LocalProtocolError(f"hazards of {inputs} inputs and {len(cuts)} intervals are asked for; 2 and 1 do")
        self.cuts = tuple(cuts)
        self.risk = nn.Linear(inputs - 1, 1, bias=False)
        self.baseline = nn.Linear(1, len(cuts), bias=False)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, inputs) to (n, intervals)."""
        log_hazards: Tensor = self.risk(x[:, :-1]) + self.baseline(x[:, -1:])
        return log_hazards


def hazard_losses(log_hazards: Tensor, y: Tensor, *, cuts: Sequence[float]) -> Tensor:
    """Minus the log likelihood of each patient.

    Args:
        log_hazards: Shape (n, intervals), per time up to the last cut.
        y: Shape (n, 2): 1 for an event and 0 for a censored time; the time, >= 0, in the unit of `cuts`.
        cuts: As `ProportionalHazards` takes them. A time past the last one is censored there.

    Returns:
        Shape (n,): sum over intervals of exposure * hazard, minus the log hazard where the event was. A row is a
        function of that row alone.
    """
    ends = torch.tensor(cuts, dtype=torch.float64, device=y.device)
    starts = nn.functional.pad(ends[:-1], (1, 0))
    event, time = y[:, :1].double(), y[:, 1:].double()
    exposure = (torch.minimum(time, ends) - starts).clamp(min=0) / ends[-1]
    # An event at a cut belongs to the interval that ends there, one at zero to the first.
    inside = (time <= ends) & ((time > starts) | (starts == 0))
    died = (event * inside).to(log_hazards.dtype)
    losses: Tensor = (exposure.to(log_hazards.dtype) * log_hazards.exp() - died * log_hazards).sum(dim=1)
    return losses
