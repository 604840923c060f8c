"""From a site's scale of gene expression to the plan's: number by number, or not at all."""

from __future__ import annotations

import math
from typing import get_args

from common.errors import ConfigError, DataError
from common.plan_expression import ExpressionData, Measure, Scale

_LOG = "log2_"
_WORDS = {"tpm": "TPM", "cpm": "CPM", "fpkm": "FPKM", "intensity": "intensities", "ratio": "ratios"}
# A gene cannot have more than all of a million, nor more fragments than all of a billion over a length of one base.
# Of arrays, whose scanners count to 65,535, no sum is known: these bounds leave room for any normalisation.
_MOST = {"tpm": 1e6, "cpm": 1e6, "fpkm": 1e9, "intensity": 2.0**32, "ratio": 2.0**32}
# What rounding in a file may take from the logarithm of the pseudocount, as a share of it.
_ROUNDING = 1e-3


def parts(scale: Scale) -> tuple[Measure, bool]:
    """What a scale measures, and whether its numbers are logarithms."""
    name = scale.removeprefix(_LOG)
    return next(each for each in get_args(Measure) if each == name), scale.startswith(_LOG)


def pseudocount(measure: Measure) -> float:
    """What a plan adds before it takes a logarithm."""
    return 0.0 if measure in {"intensity", "ratio"} else 1.0


class Rescaling:
    """Brings numbers of one site to the plan's scale, and rounds them to the plan's decimals."""

    def __init__(self, scale: Scale, own_pseudocount: float | None, data: ExpressionData) -> None:
        """Take a site's scale, and what was added before its logarithms; None: what the plan adds.

        Raises:
            ConfigError: If a number of that scale says nothing of the plan's by itself.
        """
        self._measure, self._logged = parts(scale)
        measure, self._to_log = parts(data.scale)
        if self._measure != measure:
            raise ConfigError(
                f"mapping: scale: seen '{scale}'; the plan's is '{data.scale}', and {_WORDS[self._measure]} become "
                f"{_WORDS[measure]} by no rule for one number alone; export '{measure}' or '{_LOG}{measure}'"
            )
        if own_pseudocount is not None and not self._logged:
            raise ConfigError(
                f"mapping: pseudocount: seen beside the scale '{scale}', which is no logarithm; remove it, or correct "
                "`scale`"
            )
        self.scale, self._decimals = scale, data.decimals
        self._added = pseudocount(measure)
        self._plus = self._added if own_pseudocount is None else own_pseudocount
        self._most = _MOST[measure]
        self._limit = math.log2(self._most + self._plus) if self._logged else self._most
        self._as_is = scale == data.scale and self._plus == self._added

    @property
    def converts(self) -> bool:
        """Whether numbers change by more than rounding."""
        return not self._as_is

    def value(self, number: float, where: str) -> float:
        """A number of the file in the plan's scale.

        Args:
            number: Finite.
            where: File, line, column and gene, for messages.

        Raises:
            DataError: If no such number can be; names the place, and not the number.
        """
        if number > self._limit:
            hint = f", perhaps to '{self._measure}'" if self._logged else ""
            raise DataError(
                f"{where}: is more than {self._limit:,.6g}, the most that '{self.scale}' can be; correct the cell, or "
                f"the mapping's `scale`{hint}"
            )
        linear = 2.0**number - self._plus if self._logged else number
        if linear < -_ROUNDING * self._plus or (linear < 0 and not self._logged):
            hint = (
                " or `pseudocount` (some tables hold the log2 of 0.001 more)" if self._logged else ", perhaps to log2"
            )
            raise DataError(
                f"{where}: is less than '{self.scale}' can be, as {_WORDS[self._measure]} are never negative; correct "
                f"the cell, or the mapping's `scale`{hint}"
            )
        return round(number if self._as_is else self._planned(max(linear, 0.0), where), self._decimals)

    def _planned(self, linear: float, where: str) -> float:
        if not self._to_log:
            return linear
        if linear + self._added == 0:
            raise DataError(
                f"{where}: is 0, which has no logarithm; where 0 means unknown, list it under `missing` in the mapping"
            )
        return math.log2(linear + self._added)
